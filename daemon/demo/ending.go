package demo

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"herald/daemon/client"
)

func (t *story) rotateToken(ctx context.Context) error {
	old := t.token
	token, err := t.mintToken(ctx, "demo, the second")
	if err != nil {
		return err
	}
	t.token = token
	t.variable("TOKEN", token.Secret)
	t.out.note("both tokens are valid now; the publisher switches, then the old one goes")
	admin, err := t.api(connection{socket: true})
	if err != nil {
		return err
	}
	if err := admin.DeleteToken(ctx, old.ID); err != nil {
		return err
	}
	api, err := t.as()
	if err != nil {
		return err
	}
	data := []byte(`{"title":"With the new token"}`)
	id, err := api.Publish(ctx, client.Event{Type: "task.create", Resource: "project/proj1", Data: data})
	if err != nil {
		return err
	}
	t.expect(id, data)
	former, err := t.api(connection{secret: old.Secret, quiet: true})
	if err != nil {
		return err
	}
	_, err = former.Publish(ctx, client.Event{Type: "task.create", Data: data})
	p, err := refused(err, http.StatusUnauthorized)
	if err != nil {
		return fmt.Errorf("publish with the revoked token: %w", err)
	}
	if _, err := t.arrived(ctx, id); err != nil {
		return err
	}
	t.out.proved("the new token publishes; the old one is refused: %d, %s", p.StatusCode, p.Detail)
	return nil
}

func (t *story) ping(ctx context.Context) error {
	api, err := t.as()
	if err != nil {
		return err
	}
	id, err := api.Ping(ctx, t.subscription.ID)
	if err != nil {
		return err
	}
	as, err := t.receiver.awaitTaken(ctx, id)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(as[0].eventType, "herald.") {
		return fmt.Errorf("the ping came as an event of type %q", as[0].eventType)
	}
	t.due[id] = as[0].data
	t.accepted++
	t.out.proved("%s arrived, verified: the whole way works, without a real event", as[0].eventType)
	return nil
}

func (t *story) unsubscribe(ctx context.Context) error {
	api, err := t.as()
	if err != nil {
		return err
	}
	if err := api.DeleteSubscription(ctx, t.subscription.ID); err != nil {
		return err
	}
	before := len(t.receiver.all())
	id, err := api.Publish(ctx, client.Event{Type: "task.create", Resource: "project/proj1", Data: []byte(`{}`)})
	if err != nil {
		return err
	}
	t.accepted++
	if err := t.unwanted(ctx, id); err != nil {
		return err
	}
	if n := len(t.receiver.all()) - before; n != 0 {
		return fmt.Errorf("%d pushes came after the subscription was deleted", n)
	}
	_, err = api.Subscription(ctx, t.subscription.ID)
	p, err := refused(err, http.StatusNotFound)
	if err != nil {
		return fmt.Errorf("read the deleted subscription: %w", err)
	}
	t.out.proved("deleted: an event is still accepted, and pushed to nobody; reading it again: %d, %s", p.StatusCode, p.Detail)
	return nil
}

// account is the final reckoning: what was accepted and wanted arrived, all of it genuine.
func (t *story) account(context.Context) error {
	taken := t.taken()
	var lost []string
	for id := range t.due {
		if taken[id] == 0 {
			lost = append(lost, id)
		}
	}
	if len(lost) > 0 {
		return fmt.Errorf("%d events were accepted and did not arrive: %s", len(lost), strings.Join(lost, ", "))
	}
	for _, a := range t.receiver.all() {
		if a.err != nil {
			return fmt.Errorf("push %s was not genuine: %w", a.id, a.err)
		}
		if a.record != nil {
			continue
		}
		if _, ok := t.due[a.id]; !ok {
			return fmt.Errorf("push %s came, which nobody was to get", a.id)
		}
	}
	if taken["invoice-4711"] != 1 {
		return fmt.Errorf("the event published twice arrived %d times", taken["invoice-4711"])
	}
	again := t.takenAgain()
	for _, id := range t.replayed {
		if again[id] != 1 {
			return fmt.Errorf("the event %s was replayed once and came %d times", id, again[id])
		}
	}
	if len(again) != len(t.replayed) {
		return fmt.Errorf("%d events were to be replayed, and %d came", len(t.replayed), len(again))
	}
	if err := t.onlyNotified(); err != nil {
		return err
	}
	t.out.proved("%d events were wanted, %d arrived, 0 lost; %d were replayed, each once", len(t.due), len(taken), len(t.replayed))
	return nil
}

// taken counts the deliveries of each id, without what a replay added to them.
func (t *story) taken() map[string]int { return t.count(false) }

// takenAgain counts what a replay delivered of each id.
func (t *story) takenAgain() map[string]int { return t.count(true) }

func (t *story) count(replay bool) map[string]int {
	n := map[string]int{}
	for _, a := range t.receiver.all() {
		if a.taken() && a.record == nil && a.replay == replay {
			n[a.id]++
		}
	}
	return n
}

// figures sums up what happened.
func (t *story) figures() []figure {
	var verified, refusals, cut, repeated, again, inXML, records int
	for _, a := range t.receiver.all() {
		switch {
		case a.err != nil:
			continue
		case a.record != nil:
			records++
			continue
		case a.status == http.StatusInternalServerError:
			refusals++
		case a.status == broken:
			cut++
		case a.content != nil:
			inXML++
		}
		verified++
	}
	taken := t.taken()
	for _, n := range taken {
		repeated += n - 1
	}
	for _, n := range t.takenAgain() {
		again += n
	}
	return []figure{
		{"events accepted", strconv.Itoa(t.accepted)},
		{"wanted by a subscription", strconv.Itoa(len(t.due))},
		{"delivered", strconv.Itoa(len(taken))},
		{"lost", strconv.Itoa(len(t.due) - len(taken))},
		{"delivered twice", strconv.Itoa(repeated)},
		{"delivered again by the replay", strconv.Itoa(again)},
		{"pushes, all with a valid signature", strconv.Itoa(verified)},
		{"  of them answered 500 on purpose", strconv.Itoa(refusals)},
		{"  of them cut off by the kill", strconv.Itoa(cut)},
		{"  of them in XML, parsed", strconv.Itoa(inXML)},
		{"validation records, signed", strconv.Itoa(records)},
		{"notifications, decrypted by a browser", strconv.Itoa(len(t.browser.all()))},
		{"daemon killed and restarted", strconv.Itoa(t.restarts)},
		{"took", round(time.Since(t.began))},
	}
}

// shownMetrics chooses the lines that tell the story; the page has many more.
var shownMetrics = regexp.MustCompile(`^herald_(api_events_\w+_total|notification_\w+_total|dispatch_attempts_total|queue_(events|accepted_total|settled_total|commits_total|file_bytes))\b`)

func (t *story) metrics(ctx context.Context) error {
	api, err := t.api(connection{})
	if err != nil {
		return err
	}
	page, err := api.Metrics(ctx)
	if err != nil {
		return err
	}
	const most = 10
	ours, shown := 0, 0
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "herald_") {
			continue
		}
		ours++
		if shown < most && shownMetrics.MatchString(line) && !strings.Contains(line, "_bucket") && !strings.HasSuffix(line, " 0") {
			t.out.note("%s", line)
			shown++
		}
	}
	if shown == 0 {
		return fmt.Errorf("of %d lines of Herald none tells about events or deliveries", ours)
	}
	t.out.proved("%d values of Herald's own, in Prometheus' format; these are some that are not 0", ours)
	return nil
}
