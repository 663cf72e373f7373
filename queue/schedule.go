package queue

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Schedule is the waits between a failed attempt and the next: the first wait follows the first
// failure. When they are used up the delivery is dead.
type Schedule struct {
	waits []time.Duration
	text  string
}

// Limits of a schedule given as a list.
const (
	// MaxRetries is how many waits a schedule may have.
	MaxRetries = 50
	// MinWait and MaxWait bound each wait.
	MinWait = time.Second
	MaxWait = 30 * 24 * time.Hour
)

// named are the schedules that have names. "standard" is the one of the Standard Webhooks
// specification; "day" spreads seven retries over 24 hours, each wait 6.465 times the one before.
func named(name string) ([]time.Duration, bool) {
	switch name {
	case "standard":
		return []time.Duration{
			5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
			10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
		}, true
	case "day":
		waits := make([]time.Duration, 7)
		wait := 1.0
		for i := range waits {
			waits[i] = time.Duration(wait * float64(time.Second)).Round(time.Millisecond)
			wait *= 6.465
		}
		return waits, true
	case "quick":
		return []time.Duration{
			30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute,
		}, true
	}
	return nil, false
}

// ScheduleNames lists the names ParseSchedule knows.
func ScheduleNames() []string { return []string{"standard", "day", "quick"} }

// ParseSchedule reads the text form: one of ScheduleNames, or one to MaxRetries waits joined by commas,
// each a Go duration between MinWait and MaxWait, such as "5s,5m,1h".
func ParseSchedule(text string) (Schedule, error) {
	if waits, ok := named(text); ok {
		return Schedule{waits, text}, nil
	}
	parts := strings.Split(text, ",")
	if len(parts) > MaxRetries {
		return Schedule{}, fmt.Errorf("has %d waits; at most %d are allowed", len(parts), MaxRetries)
	}
	waits := make([]time.Duration, len(parts))
	for i, p := range parts {
		d, err := time.ParseDuration(p)
		if err != nil {
			return Schedule{}, fmt.Errorf("%q is neither a wait such as 5s or 2h nor one of %s", p, strings.Join(ScheduleNames(), ", "))
		}
		if d < MinWait || d > MaxWait {
			return Schedule{}, fmt.Errorf("the wait %s is not between %s and %s", p, MinWait, MaxWait)
		}
		waits[i] = d
	}
	return Schedule{waits, text}, nil
}

// String returns the text form it was parsed from.
func (s Schedule) String() string { return s.text }

// Waits returns a copy of the waits, without jitter.
func (s Schedule) Waits() []time.Duration { return slices.Clone(s.waits) }

// Next returns the wait before the retry after the given number of used retries (0 after the first
// attempt), varied by the jitter: a share of the wait from 0 to 0.5, with u uniform in [0, 1). False
// means that the schedule is used up.
func (s Schedule) Next(retries int, jitter, u float64) (time.Duration, bool) {
	if retries < 0 || retries >= len(s.waits) {
		return 0, false
	}
	return time.Duration(float64(s.waits[retries]) * (1 + jitter*(2*u-1))), true
}
