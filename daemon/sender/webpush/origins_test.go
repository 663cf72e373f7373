package webpush

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"herald/daemon/sender"
	"herald/queue"
)

func TestRestDoublesAndEndsWithASuccess(t *testing.T) {
	t.Parallel()
	var o origins
	now := time.Now()
	fail := func() {
		t.Helper()
		p, wait := o.enter("a", "x", now)
		if wait != 0 {
			t.Fatalf("it rests for %s", wait)
		}
		o.leave(p, lifeBad, false, now)
	}
	rests := func(want time.Duration) {
		t.Helper()
		if _, wait := o.enter("a", "x", now); wait != want {
			t.Fatalf("it rests for %s, want %s", wait, want)
		}
	}
	for range maxFailures - 1 {
		fail()
	}
	p, _ := o.enter("a", "x", now) // one that is taken in between begins the count anew
	o.leave(p, lifeGood, true, now)
	for range maxFailures {
		fail()
	}
	for _, d := range []time.Duration{10, 20, 40, 80, 160, 320, 640, 900, 900} {
		rests(d * time.Second)
		now = now.Add(d*time.Second - 1)
		rests(1)
		now = now.Add(1)
		fail() // the one that tries
	}
	now = now.Add(maxRest)
	probe, wait := o.enter("a", "x", now)
	if wait != 0 {
		t.Fatal("nothing tries whether the rest is over")
	}
	rests(minRest) // only one tries
	if _, wait := o.enter("b", "x", now); wait != 0 {
		t.Error("another owner's rests as well")
	}
	if _, wait := o.enter("a", "y", now); wait != 0 {
		t.Error("another origin rests as well")
	}
	o.leave(probe, lifeUnknown, false, now) // it was broken off: the next one tries
	if probe, wait = o.enter("a", "x", now); wait != 0 {
		t.Fatal("nothing tries after one was broken off")
	}
	o.leave(probe, lifeGood, true, now)
	for range maxFailures {
		fail()
	}
	rests(minRest) // it begins anew
	o.forget("a")
	rests(0)
}

func TestThoseUnderWayMakeNoRestLonger(t *testing.T) {
	t.Parallel()
	var o origins
	now := time.Now()
	var under []pass
	for range 100 {
		p, _ := o.enter("a", "x", now)
		under = append(under, p)
	}
	began := 0
	for n, p := range under[:99] {
		if p.hurried != (n >= crowd) {
			t.Fatalf("push %d is hurried: %v", n, p.hurried)
		}
		if o.leave(p, lifeBad, false, now) > 0 {
			began++
		}
	}
	if _, wait := o.enter("a", "x", now); wait != minRest || began != 1 {
		t.Errorf("it rests for %s, begun %d times", wait, began)
	}
	o.leave(under[99], lifeGood, true, now) // one of them shows that it works
	for n := range noLimit - crowd - 1 {
		p, wait := o.enter("a", "x", now)
		if wait != 0 || len(o.standings.all) != 1 {
			t.Fatalf("after %d that it took: it rests for %s", n, wait)
		}
		o.leave(p, lifeGood, true, now)
	}
	if len(o.standings.all) != 0 {
		t.Error("something is kept of an origin that works")
	}
}

// An origin that answers one now and then does not rest, but does not hold many either.
func TestOriginThatLeavesSomeWithoutAnswerGetsFew(t *testing.T) {
	t.Parallel()
	var o origins
	now := time.Now()
	var under []pass
	fill := func() (n int) {
		for ; n < 1000; n++ {
			p, wait := o.enter("a", "x", now)
			if wait > 0 {
				break
			}
			under = append(under, p)
		}
		return n
	}
	if n := fill(); n != 1000 {
		t.Fatalf("%d are begun to one of which nothing is known", n)
	}
	for n := range 3000 {
		l := lifeBad
		if n%4 == 3 {
			l = lifeGood
		}
		o.leave(under[0], l, l == lifeGood, now)
		under = under[1:]
		if fill(); n > 1000 && len(under) > crowd+1 || len(under) < crowd {
			t.Fatalf("after %d have ended, %d are under way", n, len(under))
		}
	}
}

func TestWhatIsKnownOfOriginsIsBounded(t *testing.T) {
	t.Parallel()
	var o origins
	now := time.Now()
	first, _ := o.enter("a", "first", now)
	for n := range 3 * maxKept {
		p, _ := o.enter("a", fmt.Sprint(n), now)
		o.leave(p, lifeBad, false, now)
		o.took(signerKey{owner: fmt.Sprint(n)}, "x", now)
	}
	again, _ := o.enter("a", "first", now)
	o.leave(first, lifeGood, true, now) // it was forgotten meanwhile, which does not reach the other
	if len(o.standings.all) != maxKept || len(o.signers.all) != maxKept || again.at.underWay != 1 {
		t.Errorf("%d origins and %d keys are known, %d under way", len(o.standings.all), len(o.signers.all), again.at.underWay)
	}
}

func TestProofOfAKeyLastsADay(t *testing.T) {
	t.Parallel()
	var o origins
	k, now := signerKey{owner: "a"}, time.Now()
	elsewhere := func(origin string, want bool) {
		t.Helper()
		if got := o.takenElsewhere(k, origin, now); got != want {
			t.Errorf("taken elsewhere than at %s: %v", origin, got)
		}
	}
	elsewhere("x", false)
	o.took(k, "x", now)
	elsewhere("x", false)
	elsewhere("y", true)
	o.took(k, "y", now)
	o.took(k, "y", now.Add(time.Hour))
	elsewhere("x", true)
	elsewhere("y", true)
	elsewhere("z", true)
	now = now.Add(trusted)
	elsewhere("y", false)
	elsewhere("x", true)
	now = now.Add(time.Hour)
	elsewhere("x", false)
}

// A push of a crowd is broken off when its origin answers nothing, not when it is slow.
func TestCrowdIsBrokenOffWhenNothingIsAnswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var o origins
		var first pass
		for n := range crowd {
			p, _ := o.enter("a", "x", time.Now())
			if p.hurried {
				t.Fatalf("push %d is hurried", n)
			}
			first = p
		}
		p, _ := o.enter("a", "x", time.Now())
		ctx, done := o.hurry(t.Context(), p)
		defer done()
		ended, finish := o.hurry(t.Context(), p)
		finish()
		time.Sleep(patience - time.Second)
		o.leave(first, lifeGood, true, time.Now())
		time.Sleep(patience - time.Nanosecond)
		if ctx.Err() != nil {
			t.Fatal("it was broken off while the origin answers")
		}
		if _, wait := o.enter("a", "x", time.Now()); wait != 0 {
			t.Errorf("it rests for %s while it answers", wait)
		}
		time.Sleep(2 * time.Nanosecond)
		synctest.Wait()
		if !errors.Is(context.Cause(ctx), errHangs) || !errors.Is(errHangs, context.DeadlineExceeded) || errors.Is(context.Cause(ended), errHangs) {
			t.Errorf("it ended with %v, and one that was over with %v", context.Cause(ctx), context.Cause(ended))
		}
		if _, wait := o.enter("a", "x", time.Now()); wait != minRest {
			t.Errorf("more are begun: %s", wait)
		}
	})
}

// pipes is a listener whose connections are in memory, so that time is virtual.
type pipes struct {
	made chan net.Conn
	done chan struct{}
	once sync.Once
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.made:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (l *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.made <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// One origin hangs, and has more pushes than all others.
func TestHangingOriginHoldsUpNobody(t *testing.T) {
	t.Parallel()
	v := newKey(t)
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{made: make(chan net.Conn), done: make(chan struct{})}
		var healed atomic.Bool
		var reached atomic.Int64
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // without which the server does not see the client go
			if r.Host == "bad.example" {
				reached.Add(1)
				if !healed.Load() {
					<-r.Context().Done()
					return
				}
			}
			w.WriteHeader(http.StatusCreated)
		})}
		var wg sync.WaitGroup
		wg.Go(func() { _ = server.Serve(l) })
		s, err := New(Options{URL: "http://standin.example", UserAgent: "Herald/test", Transport: func() *http.Transport {
			return &http.Transport{DialContext: l.dial}
		}})
		if err != nil {
			t.Fatal(err)
		}
		const timeout = 30 * time.Second
		send := func(origin string) (r result) {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			began := time.Now()
			r.Result = s.Send(ctx, "a", v, Push{Endpoint: origin + "/p/secret", P256DH: v.PublicKey, Auth: make([]byte, 16)})
			r.took = time.Since(began)
			return r
		}
		var patient, hurried atomic.Int64
		var sends sync.WaitGroup
		for range 200 {
			sends.Go(func() {
				r := send("https://bad.example")
				if r.Class != queue.ClassRetry || !r.Innocent || r.Status != 0 || !strings.Contains(r.Error, "https://bad.example did not answer within") {
					t.Errorf("%+v", r)
				}
				switch r.took {
				case timeout:
					patient.Add(1)
				case patience:
					hurried.Add(1)
				default:
					t.Errorf("it took %s", r.took)
				}
			})
		}
		time.Sleep(patience - 1) // within the bubble, so it costs nothing
		for range 200 {
			if r := send("https://good.example"); r.Class != queue.ClassDelivered || r.took != 0 {
				t.Fatalf("beside a hanging one: %+v", r)
			}
		}
		if reached.Load() != 200 {
			t.Errorf("%d reached it", reached.Load())
		}
		time.Sleep(2 * time.Nanosecond)
		synctest.Wait()
		// The crowd has given up, and the origin rests.
		for range 100 {
			if r := send("https://bad.example"); r.Class != queue.ClassRetry || !r.Innocent || r.Status != 0 || r.took != 0 || r.Wait <= 0 || r.Wait > minRest ||
				!strings.Contains(r.Error, "https://bad.example") || strings.Contains(r.Error, "secret") {
				t.Fatalf("to an origin that hangs: %+v", r)
			}
		}
		sends.Wait()
		if patient.Load() != crowd || hurried.Load() != 200-crowd || reached.Load() != 200 {
			t.Errorf("%d waited to the end and %d not; %d reached it", patient.Load(), hurried.Load(), reached.Load())
		}
		// It tries again by itself, and all is well when that is taken.
		healed.Store(true)
		time.Sleep(minRest)
		for range 10 {
			if r := send("https://bad.example"); r.Class != queue.ClassDelivered {
				t.Fatalf("after it healed: %+v", r)
			}
		}
		s.Close()
		_ = server.Close()
		wg.Wait()
	})
}

type result struct {
	sender.Result
	took time.Duration
}
