package demo

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// keep leaves everything running, with a new subscription, and prints each push until the context
// ends.
func (t *story) keep(ctx context.Context) error {
	in := t.input()
	in.Resource, in.Events = "", nil
	t.out.printf("\n%s\n", t.out.paint(bold, "Yours to play with, until Ctrl-C"))
	if err := t.register(ctx, in); err != nil {
		return fmt.Errorf("demo: subscribe again: %w", err)
	}
	t.out.note("")
	t.out.note("API         %s", t.daemon.url)
	t.out.note("socket      %s", t.daemon.socket())
	t.out.note("token       %s", t.token.Secret)
	t.out.note("receiver    %s, subscribed to everything", t.subscription.DataCallbackURL)
	t.out.note("            and still to task.* on project/proj2, and to order.* on order/o-77 as XML")
	t.out.note("browser     anna's, notified by messages and of task.assigned on project/proj1")
	t.out.note("log         %s", t.daemon.log)
	t.out.note("")
	t.variable("HERALD", t.daemon.url)
	t.variable("TOKEN", t.token.Secret)
	t.out.command(`curl "$HERALD/events" -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{"type":"task.create","data":{"title":"Mine"}}'`)
	t.out.command(`curl "$HERALD/messages" -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{"implementationId":"shop","routeeContactId":"anna","body":{"title":"Mine"}}'`)
	t.out.command(`curl "$HERALD/deliveries?limit=5" -H "Authorization: Bearer $TOKEN"`)
	t.out.command(`curl "$HERALD/subscriptions" -H "Authorization: Bearer $TOKEN"`)
	t.out.command("herald token list --socket " + t.daemon.socket())
	t.out.note("")
	if t.out.err != nil {
		return fmt.Errorf("demo: print: %w", t.out.err)
	}
	t.receiver.follow(func(a arrival) {
		if a.err != nil {
			t.out.note("%s  refused: %v", a.at.Format("15:04:05.000"), a.err)
			return
		}
		t.out.proved("%s  %s  %s  attempt %d  %s", a.at.Format("15:04:05.000"), a.id, a.eventType, a.attempt, a.data)
	})
	defer t.receiver.follow(nil)
	t.browser.follow(func(n notification) {
		t.out.proved("%s  the browser shows  %s  %s", time.Now().Format("15:04:05.000"), n.Title, n.Options.Body)
	})
	defer t.browser.follow(nil)
	select {
	case <-ctx.Done():
		return nil
	case <-t.daemon.exited:
		return errors.Join(errors.New("demo: the daemon ended"), t.daemon.ended())
	}
}
