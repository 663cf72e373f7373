package demo

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"herald/daemon/client"
)

func (t *story) failAndRecover(ctx context.Context) error {
	api, err := t.as()
	if err != nil {
		return err
	}
	const failures = 2
	t.receiver.fail(failures)
	data := []byte(`{"title":"Try again"}`)
	id, err := api.Publish(ctx, client.Event{Type: "task.create", Resource: "project/proj1", Data: data})
	if err != nil {
		return err
	}
	t.expect(id, data)
	t.retried = id
	if _, err := t.arrived(ctx, id); err != nil {
		return err
	}
	var tries []arrival
	for _, a := range t.receiver.all() {
		if a.id == id {
			tries = append(tries, a)
		}
	}
	if len(tries) != failures+1 {
		return fmt.Errorf("%d attempts arrived, they should be %d", len(tries), failures+1)
	}
	for i, a := range tries {
		want := http.StatusInternalServerError
		if i == failures {
			want = http.StatusOK
		}
		if a.attempt != i+1 || a.status != want {
			return fmt.Errorf("arrival %d calls itself attempt %d and was answered %d, it should have been %d", i+1, a.attempt, a.status, want)
		}
		t.out.note("attempt %d  after %6s  webhook-id %s  answered %d", a.attempt, round(a.at.Sub(tries[0].at)), a.id, a.status)
	}
	t.out.proved("three attempts on the schedule 1s, 2s, all with the same id; the last one was taken")
	return nil
}

func (t *story) killAndRestart(ctx context.Context) error {
	const count = 20
	api, err := t.as()
	if err != nil {
		return err
	}
	// What became of the last attempt is durable a moment after the receiver has seen it. Killed within
	// that moment the daemon would rightly push it again; here the kill shall hit only what is held.
	if _, err := t.settled(ctx, t.retried); err != nil {
		return err
	}
	release := t.receiver.hold()
	defer release()
	before := len(t.receiver.all())
	events := make([]client.Event, count)
	for i := range events {
		events[i] = client.Event{Type: "task.create", Resource: "project/proj1", Data: []byte(`{"task":` + strconv.Itoa(100+i) + `}`)}
	}
	// The twenty are one curl line too long to read: it is not printed.
	quiet, err := t.quietly()
	if err != nil {
		return err
	}
	ids, err := quiet.PublishBatch(ctx, client.Batch{Events: events})
	if err != nil {
		return err
	}
	if len(ids) != count {
		return fmt.Errorf("%d events were published and answered with %d ids", count, len(ids))
	}
	for i, id := range ids {
		t.expect(id, events[i].Data)
	}
	err = t.receiver.await(ctx, "a push that the receiver withholds its answer from", func(as []arrival) bool { return len(as) > before })
	if err != nil {
		return err
	}
	t.out.note("%d events accepted while the receiver withholds its answers: none is delivered", count)
	pid := t.daemon.cmd.Process.Pid
	t.out.command("kill -9 " + strconv.Itoa(pid))
	if err := t.daemon.kill(); err != nil {
		return err
	}
	// The receiver must not count an answer that nobody was there to read.
	err = t.receiver.await(ctx, "the end of the daemon's connections", func(as []arrival) bool {
		for _, a := range as[before:] {
			if a.status != broken {
				return false
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	interrupted := len(t.receiver.all()) - before
	t.out.note("process %d is gone; pushes cut off in the middle: %d", pid, interrupted)
	release()

	began := time.Now()
	t.out.command("herald serve --config " + t.daemon.configFile() + " &")
	if err := t.daemon.start(ctx); err != nil {
		return err
	}
	t.restarts++
	t.out.note("ready again after %s, process %d", round(time.Since(began)), t.daemon.cmd.Process.Pid)
	as, err := t.arrived(ctx, ids...)
	if err != nil {
		return err
	}
	if err := api.Ready(ctx); err != nil {
		return err
	}
	t.out.proved("%d of %d arrived after the restart, with the ids of before: nothing lost", len(as), count)
	return nil
}

func (t *story) deliveryLog(ctx context.Context) error {
	api, err := t.as()
	if err != nil {
		return err
	}
	id, err := t.settled(ctx, t.retried)
	if err != nil {
		return err
	}
	// One page is enough to show; a page must not be cut to fewer than were asked for.
	const shown = 5
	n := 0
	for d, err := range api.Deliveries(ctx, client.DeliveryFilter{
		Subscription: t.subscription.ID, State: client.DeliveryDelivered, PageSize: shown,
	}) {
		if err != nil {
			return err
		}
		t.out.note("%s  %-11s  %-9s  attempts %d", d.ID, d.EventType, d.State, d.AttemptCount)
		if n++; n == shown {
			break
		}
	}
	if n != shown {
		return fmt.Errorf("the subscription has %d delivered deliveries listed, there should be %d on the first page", n, shown)
	}
	d, err := api.Delivery(ctx, id)
	if err != nil {
		return err
	}
	var statuses []string
	for _, a := range d.Attempts {
		statuses = append(statuses, strconv.Itoa(a.Status))
		t.out.note("attempt %d  %s  %7.1f ms  status %d  %s", a.Number, a.Time.UTC().Format("15:04:05.000"), a.DurationMs, a.Status, a.Outcome)
	}
	if got := strings.Join(statuses, " "); got != "500 500 200" || d.AttemptCount != 3 {
		return fmt.Errorf("the attempts on record are %q, counted %d; they should be 500 500 200", got, d.AttemptCount)
	}
	t.out.proved("the delivery that needed three attempts has three on record, also after the kill")
	return nil
}

// settled waits until the one delivery of an event is on record as delivered, and returns its id.
func (t *story) settled(ctx context.Context, event string) (id string, err error) {
	quiet, err := t.quietly()
	if err != nil {
		return "", err
	}
	err = until(ctx, func() (bool, error) {
		for d, err := range quiet.Deliveries(ctx, client.DeliveryFilter{Event: event}) {
			if err != nil {
				return false, err
			}
			id = d.ID
			return d.State == client.DeliveryDelivered, nil
		}
		return false, nil
	})
	if err != nil {
		return "", fmt.Errorf("wait until event %s is on record as delivered: %w", event, err)
	}
	return id, nil
}
