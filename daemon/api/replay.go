package api

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"herald/queue"
)

// defaultReplayRate is how many deliveries a second a replay makes due that names no rate: little beside what a machine can
// push, so that live traffic does not notice.
const defaultReplayRate = 1000

// replayMembers are what POST /subscriptions/{id}/replay takes, each in the query, in a form or in a JSON object.
func replayMembers() []string {
	return []string{"date", "since", "until", "outcome", "rate", "dryRun"}
}

// outcomeFailed restricts a replay to what has not arrived.
const outcomeFailed = "failed"

type replayView struct {
	ID      string    `json:"id"`
	State   string    `json:"state"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`
	Outcome string    `json:"outcome,omitempty"`
	Rate    float64   `json:"rate"`
	// Deliveries is how many have become due, ReachedAt the acceptance of the last event looked at.
	Deliveries int64     `json:"deliveries"`
	ReachedAt  time.Time `json:"reachedAt,omitzero"`
	CreatedAt  time.Time `json:"createdAt"`
	EndedAt    time.Time `json:"endedAt,omitzero"`
}

func viewReplay(r *queue.Replay) replayView {
	v := replayView{
		ID: r.ID.String(), State: string(r.State), Since: shown(r.Since), Until: shown(r.Until), Rate: r.Rate,
		Deliveries: r.Deliveries, ReachedAt: r.Reached, CreatedAt: r.CreatedAt, EndedAt: r.EndedAt,
	}
	if r.Failed {
		v.Outcome = outcomeFailed
	}
	return v
}

// replaySubscription has events delivered again, or only counts them.
func (a *API) replaySubscription(c *call) error {
	s, err := c.subscription()
	if err != nil {
		return err
	}
	r, dryRun, err := c.replayInput(a.now())
	if err != nil {
		return err
	}
	r.Lane, r.AccountID = queue.Lane(s.ID), s.AccountID
	if dryRun {
		selects := s.Selects()
		n, err := a.queue.CountReplay(c.r.Context(), r, func(ev *queue.Event) bool { return selects(ev.Type, ev.Resource, ev.Data) })
		if err != nil {
			return err
		}
		return c.answer(http.StatusOK, countView{n})
	}
	if err := a.refuseDiscarding(c.r.Context(), s.AccountID, s.ID); err != nil {
		return err
	}
	made, err := a.queue.StartReplay(c.r.Context(), r)
	if errors.Is(err, queue.ErrTooMany) {
		return newProblem(conflict, "%d replays of the subscription are running already; wait for one, or cancel it with DELETE /subscriptions/{id}/replays/{replayId}", queue.MaxReplays)
	}
	if err != nil {
		return err
	}
	c.Header().Set("Location", "/subscriptions/"+s.ID.String()+"/replays/"+made.ID.String())
	return c.answer(http.StatusAccepted, viewReplay(&made))
}

// replayInput reads what is to be replayed.
func (c *call) replayInput(now time.Time) (r queue.Replay, dryRun bool, err error) {
	var fs faults
	in, err := c.readAnywhere(&fs)
	if err != nil {
		return r, false, err
	}
	found := len(fs.list)
	date, dated := in.text("date")
	r.Since, r.Until = in.moment("since"), in.moment("until")
	spanned := !r.Since.IsZero() || !r.Until.IsZero()
	switch {
	case len(fs.list) > found: // it has been said what is wrong
	case dated && spanned:
		fs.add("date", "is a whole day; give either it, or since and until")
	case dated:
		if day, err := time.Parse(time.DateOnly, date); err != nil || day.Year() < minYear {
			fs.add("date", "must be a day such as 2026-11-21, which is taken in UTC")
		} else if r.Since, r.Until = day, day.AddDate(0, 0, 1); r.Since.After(now) {
			fs.add("date", "is in the future; what is replayed has happened")
		}
	case !spanned:
		fs.add("date", "is needed: a day such as 2026-11-21; or since, and perhaps until, as times such as 2026-11-21T08:30:00Z")
	case r.Since.IsZero():
		fs.add("since", "is needed beside until")
	default:
		if r.Since.After(now) {
			fs.add("since", "is in the future; what is replayed has happened")
		}
		switch {
		case r.Until.IsZero():
			r.Until = now.Add(time.Millisecond) // what was accepted up to now
		case !r.Since.Before(r.Until):
			fs.add("until", "must be later than since")
		case r.Until.After(now):
			fs.add("until", "is in the future; without it all up to now is replayed")
		}
	}
	if outcome, ok := in.text("outcome"); ok {
		if r.Failed = outcome == outcomeFailed; !r.Failed {
			fs.add("outcome", "must be %s, for what has not arrived; without it everything is replayed", outcomeFailed)
		}
	}
	if r.Rate = in.rate("rate"); r.Rate == 0 {
		r.Rate = defaultReplayRate
	}
	dryRun = in.flag("dryRun")
	in.end("")
	return r, dryRun, fs.err()
}

// listReplays lists the replays of a subscription, newest first.
func (a *API) listReplays(c *call) error {
	s, err := c.subscription()
	if err != nil {
		return err
	}
	var fs faults
	q := c.r.URL.Query()
	limit, after := limitOf(q, &fs, 0), q.Get("after")
	if err := fs.err(); err != nil {
		return err
	}
	list := a.queue.Replays(queue.Lane(s.ID))
	slices.Reverse(list)
	return stream(c, q, limit, func(last *queue.Replay, n int) ([]queue.Replay, error) {
		if last != nil {
			after = last.ID.String()
		}
		if i := slices.IndexFunc(list, func(r queue.Replay) bool { return r.ID.String() < after }); after != "" && i >= 0 {
			list = list[i:]
		} else if after != "" {
			list = nil
		}
		return list[:min(n, len(list))], nil
	}, func(r *queue.Replay) string { return r.ID.String() }, viewOf(viewReplay))
}

// replay finds the replay of the path.
func (c *call) replay() (queue.Replay, error) {
	s, err := c.subscription()
	if err != nil {
		return queue.Replay{}, err
	}
	list := c.api.queue.Replays(queue.Lane(s.ID))
	i := slices.IndexFunc(list, func(r queue.Replay) bool { return r.ID.String() == c.r.PathValue("replay") })
	if i < 0 {
		return queue.Replay{}, errNoReplay()
	}
	return list[i], nil
}

func errNoReplay() *problem {
	return newProblem(notFound, "the subscription has no such replay; GET /subscriptions/{id}/replays lists those that run, and the last %d that have ended", queue.KeptReplays)
}

func (a *API) readReplay(c *call) error {
	r, err := c.replay()
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, viewReplay(&r))
}

// cancelReplay ends a replay; one that has ended stays as it is.
func (a *API) cancelReplay(c *call) error {
	r, err := c.replay()
	if err != nil {
		return err
	}
	err = a.queue.CancelReplay(c.r.Context(), r.Lane, r.ID)
	if errors.Is(err, queue.ErrNotFound) {
		return errNoReplay()
	}
	if err != nil {
		return err
	}
	return c.empty()
}
