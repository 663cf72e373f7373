package api

import (
	"net/http"
	"time"

	"herald/queue"
	"herald/store"
)

// deadMembers are what POST /subscriptions/{id}/retry takes, each in the query, in a form or in a JSON object.
func deadMembers() []string { return []string{"reason", "type", "since", "until", "rate", "dryRun"} }

type retriedView struct {
	Retried int `json:"retried"`
	// LastDueAt is when the last of them becomes due, where a rate spreads them.
	LastDueAt time.Time `json:"lastDueAt,omitzero"`
}

type countView struct {
	Count int `json:"count"`
}

// retrySubscription makes dead deliveries due, all of them or those that are named, or only counts them.
func (a *API) retrySubscription(c *call) error {
	s, err := c.subscription()
	if err != nil {
		return err
	}
	selection, err := c.deadSelection()
	if err != nil {
		return err
	}
	if err := a.refuseDiscarding(c.r.Context(), s.AccountID, s.ID); err != nil && !selection.DryRun {
		return err
	}
	begun := a.now()
	n, err := a.queue.RetryDead(c.r.Context(), queue.Lane(s.ID), selection)
	if err != nil {
		return err
	}
	if selection.DryRun {
		return c.answer(http.StatusOK, countView{n})
	}
	v := retriedView{Retried: n}
	if n > 0 && selection.Rate > 0 {
		if last := float64(n-1) / selection.Rate; last < (100 * 365 * day).Seconds() {
			v.LastDueAt = shown(begun.Add(time.Duration(last * float64(time.Second))))
		}
	}
	return c.answer(http.StatusAccepted, v)
}

func (c *call) deadSelection() (queue.DeadSelection, error) {
	var fs faults
	in, err := c.readAnywhere(&fs)
	if err != nil {
		return queue.DeadSelection{}, err
	}
	var s queue.DeadSelection
	if reason, ok := in.text("reason"); ok {
		s.Reason = reason
		checkReason(reason, queue.StateDead, &fs)
	}
	if kind, ok := in.text("type"); ok {
		s.EventType = kind
		if err := store.CheckEventType(kind); err != nil {
			fs.add("type", "%s", err.Error())
		}
	}
	s.Since, s.Until = in.moment("since"), in.moment("until")
	if !s.Since.IsZero() && !s.Until.IsZero() && !s.Since.Before(s.Until) {
		fs.add("until", "must be later than since")
	}
	s.Rate = in.rate("rate")
	s.DryRun = in.flag("dryRun")
	in.end("")
	return s, fs.err()
}
