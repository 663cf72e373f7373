package webhook

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"herald/queue"
	"herald/store"
)

// Ask makes one attempt to get the permission of sub's receiver to push to its callback URL: the validation request of "HTTP 1.1 Web
// Hooks for Event Delivery" of CloudEvents (section 4.1), an OPTIONS request that is authenticated and signed as a push is. That
// specification asks for neither, as it asks for no authorization of its own here (section 4); but a receiver that lets nobody pass
// without credentials could not answer otherwise. origin is what we call ourselves, and callback is where the receiver may grant
// permission later; "" asks it to answer now. p has the id and the number of the attempt.
//
// The class is ClassDelivered when permission is granted, at the rate returned, in pushes a minute or 0 for no limit: the status has to
// be a 2xx and WebHook-Allowed-Origin the origin or "*". The status alone is no consent (section 4.2); that it is a 2xx is asked for
// because an error is no agreement, whatever its headers. The Allow header is not looked at: it only SHOULD be there, and whether the
// receiver takes a POST the first push shows. In all else Ask is as Send.
func (s *Sender) Ask(ctx context.Context, sub *store.Subscription, p queue.Push, origin, callback string) (out queue.Outcome, rate int) {
	started := time.Now()
	out.StartedAt = started.UTC()
	asking := *sub
	asking.Method = http.MethodOptions
	h := http.Header{store.HeaderRequestOrigin: {origin}}
	if callback != "" {
		h[store.HeaderRequestCallback] = []string{callback}
	}
	requested := sub.RequestRate()
	if requested > 0 {
		h[store.HeaderRequestRate] = []string{strconv.Itoa(requested)}
	}
	answer := s.attempt(ctx, &asking, &p, h, started, &out)
	if out.Class == queue.ClassDelivered {
		if rate, out.Error = permission(answer, origin, requested); out.Error != "" {
			out.Class = queue.ClassRetry
		}
	}
	out.Duration = time.Since(started)
	return out, rate
}

// permission reads what a receiver grants in its answer (section 4.2). refusal is why it is no permission, or "".
func permission(h http.Header, origin string, requested int) (rate int, refusal string) {
	allowed := h[store.HeaderAllowedOrigin]
	switch {
	case len(allowed) == 0:
		return 0, "the receiver answered without granting permission: its answer has no WebHook-Allowed-Origin"
	// Names of the DNS are the same in upper and lower case (RFC 4343).
	case len(allowed) > 1 || allowed[0] != "*" && !strings.EqualFold(allowed[0], origin):
		return 0, "the receiver granted permission to others: WebHook-Allowed-Origin must be " + origin + " or *"
	}
	rate, err := store.ParseAllowedRate(h[store.HeaderAllowedRate], requested)
	if err != nil {
		return 0, "the receiver granted permission at no usable rate: " + err.Error()
	}
	return rate, ""
}
