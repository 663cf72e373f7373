package cli

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// progress is a bar on a terminal for work that may be long; where nobody looks it is silent.
type progress struct {
	w     io.Writer
	shown bool
	// total is how many bytes there are to read, 0 when that is not known.
	total int64
	// unit is what is counted.
	unit        string
	began, last time.Time
}

// draw says that so many bytes have been read and so many units are done. It draws ten times a second at most.
func (p *progress) draw(read int64, done int) {
	now := time.Now()
	if !p.shown || now.Sub(p.last) < 100*time.Millisecond {
		return
	}
	p.last = now
	rate := float64(done) / max(now.Sub(p.began).Seconds(), 0.001)
	shown := ""
	if p.total > 0 {
		shown = fmt.Sprintf("%s %3d%%  ", bar(read, p.total), percent(read, p.total))
	}
	// A bar that cannot be written is no reason to stop.
	_, _ = fmt.Fprintf(p.w, "\r%s%d %s, %.0f a second\x1b[K", shown, done, p.unit, rate)
}

// bar is how much of the total is done, as a picture.
func bar(done, total int64) string {
	const width = 30
	full := int(min(done, total) * width / total)
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]"
}

func percent(done, total int64) int64 { return min(done, total) * 100 / total }

// end takes the bar away.
func (p *progress) end() {
	if p.shown && !p.last.IsZero() {
		_, _ = io.WriteString(p.w, "\r\x1b[K")
	}
}

// Progress shows how far a long work is, as a bar in one line that is rewritten in place, on terminals only. What is written to it counts.
type Progress struct {
	w           io.Writer // nil: not a terminal
	what        string
	total, done int64
	next        time.Time
}

// NewProgress returns a Progress that shows itself on w when that is a terminal. A total of 0 or less is not known.
func NewProgress(w io.Writer, what string, total int64) *Progress {
	p := &Progress{what: what, total: total}
	if Terminal(w) {
		p.w = w
	}
	return p
}

// Write implements io.Writer and never fails.
func (p *Progress) Write(b []byte) (int, error) {
	p.At(p.done + int64(len(b)))
	return len(b), nil
}

// At says how much of the total is done. It draws ten times a second at most.
func (p *Progress) At(done int64) {
	p.done = done
	if now := time.Now(); p.w != nil && now.After(p.next) {
		p.next = now.Add(100 * time.Millisecond)
		_, _ = io.WriteString(p.w, "\r\x1b[K"+p.line())
	}
}

func (p *Progress) line() string {
	if p.total <= 0 {
		return p.what + "  " + Size(p.done)
	}
	return fmt.Sprintf("%s  %s %d %%  %s of %s", p.what, bar(p.done, p.total), percent(p.done, p.total), Size(p.done), Size(p.total))
}

// End takes the line away.
func (p *Progress) End() {
	if p.w != nil {
		_, _ = io.WriteString(p.w, "\r\x1b[K")
	}
}

// Size prints a number of bytes for people.
func Size(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d bytes", n)
	}
	v, unit := float64(n), 0
	for v >= 1024 && unit < 4 {
		v, unit = v/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", v, " KMGT"[unit])
}
