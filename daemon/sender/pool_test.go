package sender

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// busy is a server of HTTP/2 that knows how much it has to do at a time.
type busy struct {
	*httptest.Server
	now, most, opened, closed atomic.Int32
	// hold keeps answers back while it is not closed.
	hold chan struct{}
}

func newBusy(t *testing.T, streams int) *busy {
	t.Helper()
	b := &busy{hold: make(chan struct{})}
	b.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		n := b.now.Add(1)
		defer b.now.Add(-1)
		for m := b.most.Load(); n > m && !b.most.CompareAndSwap(m, n); m = b.most.Load() {
		}
		select {
		case <-b.hold:
		case <-r.Context().Done():
		}
	}))
	b.EnableHTTP2 = true
	b.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streams}
	b.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			b.opened.Add(1)
		case http.StateClosed:
			b.closed.Add(1)
		case http.StateActive, http.StateIdle, http.StateHijacked:
		}
	}
	b.StartTLS()
	t.Cleanup(b.Close)
	return b
}

func (b *busy) pool(t *testing.T, n int) *Pool {
	t.Helper()
	trusted := b.Client().Transport.(*http.Transport).TLSClientConfig
	p := NewPool(n, func() *http.Transport { return &http.Transport{TLSClientConfig: trusted.Clone()} })
	t.Cleanup(p.Close)
	return p
}

func (b *busy) send(ctx context.Context, p *Pool) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.URL, bytes.NewReader([]byte("x")))
	if err != nil {
		return err
	}
	resp, err := p.RoundTrip(req)
	if err != nil {
		return err
	}
	if resp.ProtoMajor != 2 {
		return errors.New("not HTTP/2")
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

// Many times more requests than the server lets a connection have wait for their streams, and each gets one.
func TestPoolWaitsForStreams(t *testing.T) {
	t.Parallel()
	const limit = 5
	b := newBusy(t, limit)
	close(b.hold)
	p := b.pool(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 500 {
		wg.Go(func() {
			if err := b.send(ctx, p); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n, most := b.opened.Load(), b.most.Load(); n != 2 || most > 2*limit {
		t.Errorf("%d connections, and %d requests at a time", n, most)
	}
}

// Over a new connection one request goes ahead.
func TestPoolSendsOneAhead(t *testing.T) {
	t.Parallel()
	b := newBusy(t, 100)
	p := b.pool(t, 2)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := b.send(t.Context(), p); err != nil {
				t.Error(err)
			}
		})
	}
	for b.now.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	if n := b.now.Load(); n != 2 {
		t.Errorf("%d requests went over 2 new connections", n)
	}
	close(b.hold)
	wg.Wait()
}

// One that goes ahead in vain does not keep the others from following, and who waits need not wait longer than its time.
func TestPoolAheadInVain(t *testing.T) {
	t.Parallel()
	b := newBusy(t, 100)
	p := b.pool(t, 1)
	first, giveUp := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() { gone <- b.send(first, p) }()
	for b.now.Load() < 1 {
		time.Sleep(time.Millisecond)
	}
	impatient, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := b.send(impatient, p); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the impatient got %v", err)
	}
	giveUp()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the first got %v", err)
	}
	close(b.hold)
	if err := b.send(t.Context(), p); err != nil {
		t.Error(err)
	}
}

// A host that hangs keeps nobody from another, whatever waits for it.
func TestPoolHostThatHangs(t *testing.T) {
	t.Parallel()
	slow, quick := newBusy(t, 100), newBusy(t, 100)
	close(quick.hold)
	p := quick.pool(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { _ = slow.send(ctx, p) })
	}
	for slow.now.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	soon, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	for range 20 {
		if err := quick.send(soon, p); err != nil {
			t.Fatal(err)
		}
	}
	if n := slow.now.Load(); n != 2 {
		t.Errorf("%d requests went to the host that hangs, want one ahead on each connection", n)
	}
	cancel()
	wg.Wait()
}

// Renewed connections, and those of a closed pool, end with what is under way over them, and not before.
func TestPoolRenew(t *testing.T) {
	t.Parallel()
	b := newBusy(t, 100)
	p := b.pool(t, 1)
	for n, end := range []func(){p.Renew, p.Close} {
		done := make(chan error)
		go func() { done <- b.send(t.Context(), p) }()
		for b.now.Load() < 1 {
			time.Sleep(time.Millisecond)
		}
		end()
		if c := b.closed.Load(); int(c) != n {
			t.Errorf("%d connections were closed", c)
		}
		b.hold <- struct{}{}
		if err := <-done; err != nil {
			t.Error(err)
		}
		for deadline := time.Now().Add(20 * time.Second); int(b.closed.Load()) != n+1; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the connection is not closed")
			}
		}
		if o := b.opened.Load(); int(o) != n+1 {
			t.Errorf("%d connections were opened", o)
		}
	}
}

// Without TLS there is no HTTP/2, and there are more connections.
func TestPoolPlain(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(srv.Close)
	p := NewPool(1, func() *http.Transport {
		return &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	})
	t.Cleanup(p.Close)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := p.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}
