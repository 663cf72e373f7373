package handshake

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"herald/queue"
	"herald/store"
)

// refusing is a receiver that answers and grants nothing.
var refusing = outcome(queue.ClassRetry, 200, "the receiver answered without granting permission")

// The receiver is asked at the data URL, on the schedule of a record, until it grants; every other request names no callback.
func TestPermissionIsAskedFor(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.rate = 120
		b.respond(func(ctx context.Context, url string, n int) queue.Outcome {
			if n <= 3 {
				return refusing(ctx, url, n)
			}
			return delivered(ctx, url, n)
		})
		s := b.ask(1, "http://target.example/in")
		callback := "http://herald.example/" + s.ID.String() + "?signature="
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if got := b.waits("http://target.example/in"); !slices.Equal(got, []float64{5, 30, 120}) {
			t.Errorf("asked after %v", got)
		}
		for i, x := range b.sends("") {
			if x.method != "OPTIONS" || x.push.Attempt != i+1 || !strings.HasPrefix(x.push.ID, "val_") || x.push.ID != b.sends("")[0].push.ID {
				t.Errorf("request %d: %+v", i+1, x)
			}
			if got := b.callbacks[i]; i%2 == 0 != strings.HasPrefix(got, callback) || i%2 == 1 && got != "" {
				t.Errorf("request %d names the callback %q", i+1, got)
			}
		}
		if !slices.Equal(b.grants, []string{"1 herald.example 120"}) {
			t.Errorf("granted: %v", b.grants)
		}
		if v := b.read(s); !v.NextAt.IsZero() || v.AllowedRate != 120 || v.LastError != "" {
			t.Errorf("it ends with %+v", v)
		}
		if got := b.metric(`herald_handshake_attempts_total{outcome="delivered"}`); got != 1 {
			t.Errorf("%v were counted as granted", got)
		}
		if !strings.Contains(b.log.String(), "next=granted") || strings.Contains(b.log.String(), "signature") {
			t.Errorf("the log: %s", &b.log)
		}
	})
}

// What was refused is shown and asked for again for a day, and not longer.
func TestPermissionIsNotGranted(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.respond(refusing)
		s := b.ask(1, "http://target.example/in")
		synctest.Wait()
		if v := b.read(s); v.Attempts != 1 || v.LastError != "the receiver answered without granting permission" {
			t.Errorf("after the first request: %+v", v)
		}
		time.Sleep(2 * store.ValidationLifetime)
		synctest.Wait()
		v := b.read(s)
		if last := b.sends("")[len(b.sends(""))-1]; last.after >= store.ValidationLifetime || v.Attempts < 12 || !v.NextAt.IsZero() || len(b.grants) != 0 {
			t.Errorf("it ends with %+v, granted %v, the last request after %v", v, b.grants, last.after)
		}
		if b.metric(`herald_handshake_given_up_total{reason="expired"}`) != 1 {
			t.Error("it was not counted as given up")
		}

		b.respond(outcome(queue.ClassGone, 410, "the receiver answered 410 Gone"))
		b.ask(2, "http://gone.example/in")
		time.Sleep(time.Hour)
		if got := len(b.sends("http://gone.example/in")); got != 1 {
			t.Errorf("who wanted no more was asked %d times", got)
		}
	})
}

// A permission that could not be written down is asked for once more.
func TestPermissionSurvivesTheStore(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.granting = errors.New("disk on fire")
		s := b.ask(1, "http://target.example/in")
		time.Sleep(time.Second)
		b.mu.Lock()
		b.granting = nil
		b.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if v := b.read(s); len(b.grants) != 2 || !v.NextAt.IsZero() {
			t.Errorf("granted %v, it is %+v", b.grants, v)
		}
	})
}

// A receiver that is asked while the request before is under way is not held to the old answer.
func TestPermissionOfAnotherRequest(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.respond(hanging)
		s := b.ask(1, "http://one.example/in")
		synctest.Wait()
		time.Sleep(time.Second)
		b.respond(delivered)
		b.change(s, func(s *store.Subscription) {
			s.DataCallbackURL = "http://two.example/in"
			s.BeginValidation(time.Now().UTC())
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(b.sends("http://two.example/in")) != 1 || len(b.grants) != 1 || b.callbacks[1] == "" {
			t.Errorf("granted %v after %+v", b.grants, b.sends(""))
		}
	})
}
