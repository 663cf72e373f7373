package webpush

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"herald/daemon/sender"
	"herald/queue"
)

const (
	// throttleWait is how long a push waits that is one too many, when the push service does not say how long.
	throttleWait = time.Minute
	// soonWait is for a push service that says it may be tried again at once.
	soonWait = time.Second
	// doubtfulWait is for the word of an origin that nobody knows: it may be any browser's, so the lane asks another soon.
	doubtfulWait = 30 * time.Second
	// maxMessageID bounds Result.MessageID, in bytes.
	maxMessageID = 1024
)

// Numbers that Mozilla's push service answers with.
const errnoRetryAtOnce = 202

// known tells whether a host is one of the push services that browsers come with.
func known(host string) bool {
	host = strings.ToLower(host)
	for _, service := range [...]string{"fcm.googleapis.com", ".push.services.mozilla.com", ".push.apple.com", ".notify.windows.com"} {
		if host == service || service[0] == '.' && strings.HasSuffix(host, service) {
			return true
		}
	}
	return false
}

// explanation is what the body of an answer says to programs. Apple has a reason, Mozilla a number.
type explanation struct {
	Reason string `json:"reason"`
	Errno  int    `json:"errno"`
}

// explain reads the body of an answer. The service is chosen by whoever registers a browser, so of its own words none are repeated but a
// reason that is a word.
func explain(body []byte) explanation {
	var e explanation
	if json.Unmarshal(body, &e) != nil {
		return explanation{}
	}
	if len(e.Reason) > 64 || strings.Trim(e.Reason, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") != "" {
		e.Reason = ""
	}
	if e.Errno < 0 || e.Errno > 999 {
		e.Errno = 0
	}
	return e
}

// suffix is the explanation in brackets.
func (e explanation) suffix() string {
	switch {
	case e.Reason != "":
		return " (" + e.Reason + ")"
	case e.Errno != 0:
		return " (errno " + strconv.Itoa(e.Errno) + ")"
	}
	return ""
}

// foreignSender is how Google says that a subscription was made with another key.
const foreignSender = "does not correspond to the sender id"

// react says what an answer means, and what it shows of the origin. Where the class is Misconfigured, that is what the push service says;
// whether it is believed is another matter.
func react(origin string, status int, h http.Header, body []byte, now time.Time) (r sender.Result, l life) {
	e := explain(body)
	r.Status, l = status, lifeGood
	answered := "the push service " + origin + " answered " + sender.StatusText(status) + e.suffix()
	switch {
	case status >= 200 && status <= 299:
		if dropped := windows(h); dropped != "" {
			r.Class, r.Wait = queue.ClassRetry, wait(h, now, throttleWait)
			r.Error = "the push service " + origin + " took the push, and says that it was " + dropped
			return r, l
		}
		r.Class, r.Device, r.MessageID = queue.ClassDelivered, sender.DeviceSeen, messageID(h)
	case status >= 300 && status <= 399:
		r.Class = queue.ClassRejected
		r.Error = answered + "; redirects are not followed: the browser has to subscribe anew"
	case status == http.StatusNotFound, status == http.StatusGone:
		r.Class, r.Device, r.Reason = queue.ClassGone, sender.DeviceDead, sender.ReasonUnregistered
		r.Error = answered + ": the subscription is no more"
	case status == http.StatusForbidden && (e.Reason == "VapidPkHashMismatch" || bytes.Contains(bytes.ToLower(body), []byte(foreignSender))):
		r.Class, r.Device, r.Reason = queue.ClassRejected, sender.DeviceForeign, sender.ReasonUnregistered
		r.Error = answered + ": the subscription was made with another VAPID key"
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		r.Class = queue.ClassMisconfigured
		r.Error = answered + ": it does not take the VAPID key or its subject"
	case status == http.StatusRequestEntityTooLarge:
		r.Class, r.Reason = queue.ClassRejected, sender.ReasonTooLarge
		r.Error = answered + ": the payload is too large for it"
	case status == http.StatusTooManyRequests, status == http.StatusNotAcceptable: // the latter is how Windows says it
		r.Class, r.Device, l = queue.ClassRetry, sender.DeviceThrottled, lifeUnknown
		r.Wait = wait(h, now, throttleWait)
		r.Error = answered + ": there are too many pushes"
	case status == http.StatusServiceUnavailable && e.Errno == errnoRetryAtOnce:
		r.Class, r.Wait, l = queue.ClassRetry, soonWait, lifeUnknown
		r.Error = answered + ": it asks to try again at once"
	case status >= 500 && status <= 599, status == http.StatusRequestTimeout:
		// The failure is the origin's, and so is Retry-After: the lane has others.
		r.Class, r.Wait, l = queue.ClassRetry, wait(h, now, 0), lifeBad
		r.Error = answered
	default:
		r.Class = queue.ClassRejected
		r.Error = answered + ": it does not take the push"
	}
	return r, l
}

// windows is how Windows's push service says that it has taken a push and done nothing with it; "" when it does not.
func windows(h http.Header) string {
	switch status := h.Get("X-Wns-Status"); status {
	case "dropped", "channelthrottled":
		return status
	}
	return ""
}

// messageID is the message's resource (RFC 8030, section 5), by which its push service knows it; "" when it is of no use.
func messageID(h http.Header) string {
	id := h.Get("Location")
	if len(id) > maxMessageID {
		return ""
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] >= 0x7f {
			return ""
		}
	}
	return id
}

// wait is what the push service asks for in Retry-After, or else otherwise.
func wait(h http.Header, now time.Time, otherwise time.Duration) time.Duration {
	return cmp.Or(sender.RetryAfter(h, now), otherwise)
}
