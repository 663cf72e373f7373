package dispatch

import (
	"math/rand/v2"
	"testing"
	"time"

	"herald/queue"
)

// play answers pushes as latency says, by how many are under way, and returns the window after each round.
func play(l *lane, rounds int, limit int, latency func(window, round int) time.Duration) (windows []int) {
	for round := range rounds {
		for range l.window {
			l.learn(&queue.Outcome{Class: queue.ClassDelivered, Duration: latency(l.window, round)}, limit)
		}
		windows = append(windows, l.window)
	}
	return windows
}

// Noise does not shrink the window, whatever it looks like.
func TestWindowBearsNoise(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for name, latency := range map[string]func(int, int) time.Duration{
		"quick":  func(int, int) time.Duration { return time.Duration(r.Int64N(int64(5 * time.Millisecond))) },
		"zero":   func(int, int) time.Duration { return 0 },
		"steady": func(int, int) time.Duration { return 900 * time.Millisecond },
		"jittery": func(int, int) time.Duration {
			return 100*time.Millisecond + time.Duration(r.Int64N(int64(60*time.Millisecond)))
		},
		"outliers": func(int, int) time.Duration { return time.Duration(1+99*(r.IntN(100)/99)) * time.Millisecond },
	} {
		l := &lane{window: 1}
		for i, w := range play(l, 2000, 64, latency) {
			if i > 8 && w != 64 && (name != "outliers" || w < 40) {
				t.Fatalf("%s: the window is %d after round %d", name, w, i)
			}
		}
	}
}

// A receiver that becomes slower the more it gets finds its measure; one that has become slow for good gets
// its full window again.
func TestWindowFollowsLatency(t *testing.T) {
	t.Parallel()
	// It works on 2 at once, each for 30 ms; what is more waits.
	loaded := func(window, _ int) time.Duration { return time.Duration(max(window, 2)) * 30 * time.Millisecond / 2 }
	l := &lane{window: 1}
	ws := play(l, 40, 64, func(int, int) time.Duration { return 30 * time.Millisecond })
	if ws[39] != 64 {
		t.Fatalf("the window is %d", ws[39])
	}
	least := 64
	for _, w := range play(l, 6, 64, loaded) {
		least = min(least, w)
	}
	if least > 40 || least < 4 {
		t.Errorf("under load the window shrank to %d", least)
	}
	l = &lane{window: 1}
	play(l, 100, 64, func(int, int) time.Duration { return 10 * time.Millisecond })
	ws = play(l, 60, 64, func(int, int) time.Duration { return time.Second })
	if ws[0] != 64 && ws[0] != 48 {
		t.Errorf("in one round the window shrank to %d: more than by a quarter", ws[0])
	}
	least = 64
	for i, w := range ws {
		if i > 0 && w < ws[i-1]-max(ws[i-1]/4, 1)-1 {
			t.Errorf("in round %d the window shrank from %d to %d", i, ws[i-1], w)
		}
		least = min(least, w)
	}
	if least > 32 || ws[59] != 64 {
		t.Errorf("the window shrank to %d and is %d in the end", least, ws[59])
	}
}

// The window is never below 1, nor above the limit, also when that becomes lower.
func TestWindowBounds(t *testing.T) {
	t.Parallel()
	l := &lane{window: 1}
	play(l, 100, 64, func(int, int) time.Duration { return 0 })
	for range 50 {
		l.learn(&queue.Outcome{Class: queue.ClassDelivered, Duration: time.Hour}, 3)
		if l.window < 1 {
			t.Fatalf("the window is %d", l.window)
		}
	}
	if l.window > 3 {
		t.Errorf("the window is %d, the limit 3", l.window)
	}
	for range 10 {
		l.learn(&queue.Outcome{Class: queue.ClassRetry}, 3)
	}
	if l.window != 1 {
		t.Errorf("the window is %d", l.window)
	}
}
