package bench

import (
	"fmt"
	"strconv"
	"sync/atomic"
)

// Findings are what was found when every acknowledged event was looked for at every healthy receiver.
type Findings struct {
	Lost          int64 `json:"lost"`          // deliveries of acknowledged events that never arrived
	LostEvents    int64 `json:"lostEvents"`    // the events these belong to
	Duplicated    int64 `json:"duplicated"`    // arrivals beyond the first
	Strays        int64 `json:"strays"`        // repeats of an earlier stretch, or events nobody sent
	Unwanted      int64 `json:"unwanted"`      // pushed to a receiver that had not asked for them
	Misidentified int64 `json:"misidentified"` // pushed under another id than the one answered
	Alien         int64 `json:"alien"`         // webhook-id and body disagree, or no event of the benchmark
	Miscounted    int64 `json:"miscounted"`    // numberOfRecords is not the number of records, or more than asked for
	Verified      int64 `json:"verified"`      // pushes whose signature and content were checked in full
	Forged        int64 `json:"forged"`        // of these, with a wrong signature
	Corrupted     int64 `json:"corrupted"`     // of these, with a payload that differs from the one sent
	Broken        int64 `json:"broken"`        // requests that were not HTTP within limits
}

// addAudit takes in the audit of a stretch.
func (f *Findings) addAudit(a audit, book *ledger) {
	f.Lost += a.Lost
	f.LostEvents += a.LostEvents
	f.Duplicated += a.Duplicated
	f.Misidentified += a.Misidentified
	f.Strays += book.strays.Load()
	f.Unwanted += book.unwanted.Load()
}

// collectFrom takes in what the healthy receivers noticed in all.
func (f *Findings) collectFrom(rs *receivers) {
	for _, c := range []struct {
		to   *int64
		from func(*receiver) *atomic.Int64
	}{
		{&f.Alien, func(r *receiver) *atomic.Int64 { return &r.alien }},
		{&f.Miscounted, func(r *receiver) *atomic.Int64 { return &r.miscounted }},
		{&f.Verified, func(r *receiver) *atomic.Int64 { return &r.verified }},
		{&f.Forged, func(r *receiver) *atomic.Int64 { return &r.forged }},
		{&f.Corrupted, func(r *receiver) *atomic.Int64 { return &r.corrupted }},
		{&f.Broken, func(r *receiver) *atomic.Int64 { return &r.broken }},
	} {
		*c.to = rs.sum(healthy, c.from)
	}
}

// problem returns what is wrong with the daemon, which made so many deliveries, or nil.
func (f *Findings) problem(deliveries int64) error {
	a := audit{Lost: f.Lost, LostEvents: f.LostEvents, Misidentified: f.Misidentified}
	switch err := a.problem(); {
	case err != nil:
		return err
	case f.Unwanted > 0:
		return fmt.Errorf("%w: %d went to a receiver that had not asked for them", ErrWrong, f.Unwanted)
	case f.Alien > 0:
		return fmt.Errorf("%w: %d with another webhook-id than their body, or without a known event", ErrWrong, f.Alien)
	case f.Miscounted > 0:
		return fmt.Errorf("%w: %d with another number of records than they say, or with too many", ErrWrong, f.Miscounted)
	case f.Forged > 0:
		return fmt.Errorf("%w: %d of %d signatures do not verify", ErrWrong, f.Forged, f.Verified)
	case f.Corrupted > 0:
		return fmt.Errorf("%w: %d of %d payloads differ from what was sent", ErrWrong, f.Corrupted, f.Verified)
	case f.Broken > 0:
		return fmt.Errorf("%w: %d requests were not HTTP within the limits", ErrWrong, f.Broken)
	case f.Verified == 0 && deliveries > 0:
		return fmt.Errorf("%w: no signature was checked", ErrWrong)
	}
	return nil
}

// findingRows prints the findings about so many deliveries.
func (f *Findings) findingRows(row func(...string), deliveries int64) {
	row("lost", strconv.FormatInt(f.Lost, 10), fmt.Sprintf("deliveries; %d of %d were expected and arrived", deliveries, deliveries+f.Lost))
	row("duplicated", strconv.FormatInt(f.Duplicated, 10))
	wrong := f.Unwanted + f.Misidentified + f.Alien + f.Miscounted + f.Forged + f.Corrupted + f.Broken
	row("wrong", strconv.FormatInt(wrong, 10), fmt.Sprintf("%d signatures and payloads checked in full", f.Verified))
	if f.Strays > 0 {
		row("strays", strconv.FormatInt(f.Strays, 10), "late repeats of what was measured before, or events nobody sent")
	}
}
