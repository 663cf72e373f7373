package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"herald/daemon/client"
)

// replay has everything delivered again that the subscription has had.
func (t *story) replay(ctx context.Context) error {
	api, err := t.as()
	if err != nil {
		return err
	}
	had := map[string]bool{}
	for _, a := range t.receiver.at(hookPath, 0) {
		if a.taken() && !had[a.id] {
			had[a.id] = true
			t.replayed = append(t.replayed, a.id)
		}
	}
	if err := t.allSettled(ctx, len(t.replayed)); err != nil {
		return err
	}
	before := len(t.receiver.at(hookPath, 0))
	in := client.ReplayInput{Since: t.began.Truncate(time.Second)}
	n, err := api.CountReplay(ctx, t.subscription.ID, in)
	if err != nil {
		return err
	}
	if n != len(t.replayed) {
		return fmt.Errorf("%d events are said to be replayed, it should be %d", n, len(t.replayed))
	}
	t.out.note("dryRun: %d events would be delivered again; so many have arrived", n)

	// The signature's timestamp is in whole seconds.
	asked := time.Now().Truncate(time.Second)
	r, err := api.Replay(ctx, t.subscription.ID, in)
	if err != nil {
		return err
	}
	if err := t.replayEnded(ctx, r.ID); err != nil {
		return err
	}
	if r, err = api.ReplayByID(ctx, t.subscription.ID, r.ID); err != nil {
		return err
	}
	if r.State != client.ReplayDone || r.Deliveries != int64(n) || r.EndedAt.IsZero() {
		return fmt.Errorf("the replay ended as %q with %d deliveries, at %v; it should be %s with %d", r.State, r.Deliveries, r.EndedAt, client.ReplayDone, n)
	}
	t.out.note("%s, %d deliveries, ended after %s", r.State, r.Deliveries, round(r.EndedAt.Sub(r.CreatedAt)))

	came := map[string]bool{}
	for _, a := range t.receiver.at(hookPath, before) {
		switch {
		case a.err != nil:
			return fmt.Errorf("the replayed push %s was not genuine: %w", a.id, a.err)
		case !had[a.id]:
			return fmt.Errorf("a push with the id %q came, which is of no event that was to be replayed", a.id)
		case came[a.id]:
			return fmt.Errorf("the event %s came again twice", a.id)
		case !a.replay:
			return fmt.Errorf("the event %s came again without Herald-Replay: true", a.id)
		case a.signed.Before(asked):
			return fmt.Errorf("the event %s came again with a signature of %s, before the replay", a.id, a.signed.Format(time.TimeOnly))
		case !bytes.Equal(a.data, t.due[a.id]):
			return fmt.Errorf("the event %s came again with the data %q, published was %q", a.id, a.data, t.due[a.id])
		}
		came[a.id] = true
	}
	if len(came) != n {
		return fmt.Errorf("%d of %d events did not come again", n-len(came), n)
	}
	t.out.proved("%d of %d came again with their old ids and Herald-Replay: true, each signed anew and verified", len(came), n)
	return nil
}

// replayEnded waits for the end of a replay.
func (t *story) replayEnded(ctx context.Context, id string) error {
	quiet, err := t.quietly()
	if err != nil {
		return err
	}
	err = until(ctx, func() (bool, error) {
		r, err := quiet.ReplayByID(ctx, t.subscription.ID, id)
		return err == nil && r.State != client.ReplayRunning, err
	})
	if err != nil {
		return fmt.Errorf("wait for the end of the replay: %w", err)
	}
	return nil
}

// allSettled waits until n deliveries of the subscription are on record as delivered: a replay leaves out what is on its
// way.
func (t *story) allSettled(ctx context.Context, n int) error {
	quiet, err := t.quietly()
	if err != nil {
		return err
	}
	if n == 0 {
		return errors.New("nothing has arrived that could be replayed")
	}
	err = until(ctx, func() (bool, error) {
		found := 0
		for _, err := range quiet.Deliveries(ctx, client.DeliveryFilter{Subscription: t.subscription.ID, State: client.DeliveryDelivered}) {
			if err != nil {
				return false, err
			}
			found++
		}
		return found == n, nil
	})
	if err != nil {
		return fmt.Errorf("wait until %d deliveries are on record: %w", n, err)
	}
	return nil
}
