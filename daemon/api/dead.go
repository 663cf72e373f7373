package api

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"herald/queue"
	"herald/store"
)

// deadMembers are what POST /subscriptions/{id}/retry takes, each in the query or in the body.
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

// deadInput reads members that are in the query or in the body.
type deadInput struct {
	*fields
	query url.Values
}

// text takes a member that is text in both places.
func (in deadInput) text(name string) (string, bool) {
	s, is := in.fields.text(name)
	if in.inQuery(name, is) {
		return in.query.Get(name), true
	}
	return s, is == given
}

// moment takes a time.
func (in deadInput) moment(name string) time.Time {
	t, is := in.fields.moment(name)
	if !in.inQuery(name, is) {
		return t
	}
	t, err := parseTime(in.query.Get(name))
	if err != nil {
		in.fault(name, "%s", err.Error())
	}
	return t
}

// rate takes a number a second.
func (in deadInput) rate(name string) float64 {
	v, is := in.number(name, minRate, maxRate)
	if !in.inQuery(name, is) {
		return v
	}
	v, err := parseNumber(in.query.Get(name), minRate, maxRate)
	if err != nil {
		in.fault(name, "%s", err.Error())
	}
	return v
}

// flag takes true or false.
func (in deadInput) flag(name string) bool {
	v, is := in.boolean(name)
	if !in.inQuery(name, is) {
		return v
	}
	s := in.query.Get(name)
	if s != strconv.FormatBool(true) && s != strconv.FormatBool(false) {
		in.fault(name, "must be true or false")
	}
	return s == strconv.FormatBool(true)
}

// inQuery says whether the query has the member, which the body must not have then.
func (in deadInput) inQuery(name string, is presence) bool {
	if !in.query.Has(name) {
		return false
	}
	if is != absent {
		in.fault(name, "is in the query and in the body; give it once")
	}
	return true
}

func (c *call) deadSelection() (queue.DeadSelection, error) {
	var fs faults
	body, err := c.readOptional(&fs)
	if err != nil {
		return queue.DeadSelection{}, err
	}
	in := deadInput{body, c.r.URL.Query()}
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
