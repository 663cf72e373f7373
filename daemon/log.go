package daemon

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"time"

	"herald/daemon/config"
)

func logLevel(c *config.Config) slog.Level {
	var l slog.Level
	if err := l.UnmarshalText([]byte(c.Log.Level)); err != nil {
		return slog.LevelInfo // a validated configuration has no other
	}
	return l
}

// newLogger makes the daemon's log. Both formats quote what a value holds, so that a record is always one line.
func newLogger(format string, level slog.Leveler, w io.Writer, journal bool) *slog.Logger {
	handler := func(w io.Writer) slog.Handler {
		o := &slog.HandlerOptions{Level: level}
		if format == "json" {
			return slog.NewJSONHandler(w, o)
		}
		return slog.NewTextHandler(w, o)
	}
	if !journal {
		return slog.New(handler(w))
	}
	var h journalHandler
	for i, prefix := range [...]string{"<7>", "<6>", "<4>", "<3>"} {
		h[i] = handler(&prefixed{prefix: prefix, w: w})
	}
	return slog.New(h)
}

// journalHandler writes for systemd's journal: before each line stands its priority as sd-daemon(3) has it, which the journal takes off,
// so that `journalctl -p warning` works; and the time is left out, because the journal has its own. There is a handler for each priority, from
// debug to error.
type journalHandler [4]slog.Handler

func (h journalHandler) at(l slog.Level) slog.Handler {
	switch {
	case l >= slog.LevelError:
		return h[3]
	case l >= slog.LevelWarn:
		return h[2]
	case l >= slog.LevelInfo:
		return h[1]
	}
	return h[0]
}

// Enabled implements slog.Handler.
func (h journalHandler) Enabled(ctx context.Context, l slog.Level) bool { return h[0].Enabled(ctx, l) }

// Handle implements slog.Handler.
func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	r.Time = time.Time{} // a handler writes none then
	return h.at(r.Level).Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for i := range h {
		h[i] = h[i].WithAttrs(attrs)
	}
	return h
}

// WithGroup implements slog.Handler.
func (h journalHandler) WithGroup(name string) slog.Handler {
	for i := range h {
		h[i] = h[i].WithGroup(name)
	}
	return h
}

// prefixed puts a prefix before each line. Its handler writes one record, which is one line, at a time, and in one piece, as
// must what goes out: the handlers of the other priorities write to the same w.
type prefixed struct {
	prefix string
	w      io.Writer
	buf    bytes.Buffer
}

// Write implements io.Writer.
func (p *prefixed) Write(line []byte) (int, error) {
	p.buf.Reset()
	p.buf.WriteString(p.prefix)
	p.buf.Write(line)
	_, err := p.w.Write(p.buf.Bytes())
	return len(line), err
}
