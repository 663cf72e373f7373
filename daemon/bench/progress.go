package bench

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// progress is one line that is rewritten in place, on terminals only. Its methods may be called on one
// goroutine.
type progress struct {
	w    io.Writer // nil: not a terminal
	stop func()
	halt func()
}

// newProgress returns a progress that writes to w when that is a terminal.
func newProgress(w io.Writer) *progress {
	p := &progress{halt: func() {}}
	if f, ok := w.(*os.File); ok {
		if st, err := f.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
			p.w = w
		}
	}
	p.stop = sync.OnceFunc(func() { p.line("") })
	return p
}

// line replaces the line; an empty one leaves nothing behind.
func (p *progress) line(s string) {
	p.halt()
	p.halt = func() {}
	p.write(s)
}

func (p *progress) write(s string) {
	if p.w != nil {
		// Erase the whole line first: the next one may be shorter.
		_, _ = fmt.Fprint(p.w, "\r\x1b[K"+s)
	}
}

// say shows what is being done.
func (p *progress) say(what string) { p.line(what + " …") }

// follow shows how far a load is, after what it is called, until the next line.
func (p *progress) follow(what string, book *ledger, l *load, receivers int) {
	if what != "" {
		what += ": "
	}
	p.line("")
	if p.w == nil {
		return
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	p.halt = func() {
		close(done)
		wg.Wait()
	}
	wg.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			acked, delivered := l.acked.Load(), book.delivered.Load()
			goal := ""
			if l.events > 0 {
				goal = fmt.Sprintf(" of %d", l.events)
			}
			p.write(fmt.Sprintf("%s%d%s acknowledged, %d of %d delivered", what, acked, goal, delivered, acked*int64(receivers)))
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
}
