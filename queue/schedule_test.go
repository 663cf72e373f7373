package queue

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestScheduleNames(t *testing.T) {
	t.Parallel()
	s, m, h := time.Second, time.Minute, time.Hour
	want := map[string][]time.Duration{
		"standard": {5 * s, 5 * m, 30 * m, 2 * h, 5 * h, 10 * h, 14 * h, 20 * h, 24 * h},
		"quick":    {30 * s, m, 2 * m, 5 * m, 10 * m, 15 * m},
		"day": {
			s, 6465 * time.Millisecond, 41796 * time.Millisecond, 270213 * time.Millisecond, 1746924 * time.Millisecond,
			11293866 * time.Millisecond, 73014846 * time.Millisecond,
		},
	}
	for _, name := range ScheduleNames() {
		got, err := ParseSchedule(name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !slices.Equal(got.Waits(), want[name]) {
			t.Errorf("%s is %v, want %v", name, got.Waits(), want[name])
		}
		if got.String() != name {
			t.Errorf("%s prints as %q", name, got.String())
		}
	}
	day, _ := ParseSchedule("day")
	var sum time.Duration
	for _, w := range day.Waits() {
		sum += w
	}
	if sum < 23*h+55*m || sum > 24*h+5*m {
		t.Errorf("day takes %v, want about 24 hours", sum)
	}
}

func TestParseScheduleRefuses(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", "never", "Standard", "5", "5s,", ",5s", "5s, 5m", "0s", "999ms", "-5s", "721h", "5s,721h", "1e3s",
		strings.Repeat("5s,", MaxRetries) + "5s", "5s;5m", "standard,5s",
	} {
		if s, err := ParseSchedule(bad); err == nil {
			t.Errorf("%q was taken as %v", bad, s.Waits())
		}
	}
	if s, err := ParseSchedule(strings.Repeat("1s,", MaxRetries-1) + "720h"); err != nil || len(s.Waits()) != MaxRetries {
		t.Errorf("a list at its limits: %v", err)
	}
}

func TestScheduleNext(t *testing.T) {
	t.Parallel()
	s, err := ParseSchedule("10s,20s")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		retries   int
		jitter, u float64
		want      time.Duration
		ok        bool
	}{
		{0, 0, 0.9, 10 * time.Second, true},
		{1, 0, 0, 20 * time.Second, true},
		{0, 0.1, 0, 9 * time.Second, true},
		{0, 0.1, 0.5, 10 * time.Second, true},
		{1, 0.5, 0.75, 25 * time.Second, true},
		{2, 0, 0, 0, false},
		{-1, 0, 0, 0, false},
		{1 << 30, 0, 0, 0, false},
	} {
		got, ok := s.Next(c.retries, c.jitter, c.u)
		if ok != c.ok || (got-c.want).Abs() > time.Microsecond {
			t.Errorf("Next(%d, %v, %v) = %v, %v, want %v, %v", c.retries, c.jitter, c.u, got, ok, c.want, c.ok)
		}
	}
	if _, ok := (Schedule{}).Next(0, 0, 0); ok {
		t.Error("the empty schedule has a retry")
	}
	s.Waits()[0] = time.Hour
	if got, _ := s.Next(0, 0, 0); got != 10*time.Second {
		t.Error("Waits returned the schedule's own slice")
	}
}

func FuzzParseSchedule(f *testing.F) {
	for _, s := range []string{"standard", "5s,5m", "1h30m", "", ",", "9999999999h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSchedule(text)
		if err != nil {
			return
		}
		for i, w := range s.Waits() {
			if w < MinWait || w > MaxWait {
				t.Fatalf("%q has the wait %v", text, w)
			}
			for _, u := range []float64{0, 0.999999} {
				if d, ok := s.Next(i, 0.5, u); !ok || d < w/2 || d > w+w/2 {
					t.Fatalf("%q: retry %d comes after %v", text, i, d)
				}
			}
		}
		again, err := ParseSchedule(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("%q does not parse again: %v", s.String(), err)
		}
	})
}
