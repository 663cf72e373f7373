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
	const width = 30
	bar := ""
	if p.total > 0 {
		full := int(min(read, p.total) * width / p.total)
		bar = fmt.Sprintf("[%s%s] %3d%%  ", strings.Repeat("#", full), strings.Repeat(".", width-full), min(read, p.total)*100/p.total)
	}
	// A bar that cannot be written is no reason to stop.
	_, _ = fmt.Fprintf(p.w, "\r%s%d %s, %.0f a second\x1b[K", bar, done, p.unit, rate)
}

// end takes the bar away.
func (p *progress) end() {
	if p.shown && !p.last.IsZero() {
		_, _ = io.WriteString(p.w, "\r\x1b[K")
	}
}
