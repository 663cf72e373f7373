package api

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Backup is a backup that was made and not sent yet.
type Backup interface {
	// Size is its length in bytes.
	Size() int64
	io.WriterTo
	io.Closer
}

// backupChunkTime is how long a client may take for what is written to it at a time. A backup as a whole may take as
// long as it needs: nothing but room on the disk waits for it.
const backupChunkTime = time.Minute

// noBackup is for an API without anything to back up.
func noBackup(context.Context) (Backup, error) {
	return nil, unavailableFor(retryStop, "this daemon makes no backups now")
}

// readBackup makes a backup and sends it.
func (a *API) readBackup(c *call) error {
	if !a.backingUp.CompareAndSwap(false, true) {
		return unavailableFor(retryFull, "another backup is under way; there is one at a time")
	}
	defer a.backingUp.Store(false)
	begun := time.Now()
	// What has to be made before the first byte is sent is not held against the time for an answer.
	rc := http.NewResponseController(c.ResponseWriter)
	_ = rc.SetWriteDeadline(time.Time{}) // not every writer has one
	b, err := a.backup(c.r.Context())
	if err != nil {
		a.metrics.backupFailed.Inc()
		return err
	}
	defer func() {
		if err := b.Close(); err != nil {
			a.logger.WarnContext(c.r.Context(), "backup: room not given back", "error", err)
		}
	}()
	h := c.Header()
	h.Set("Content-Type", "application/x-tar")
	h.Set("Content-Length", strconv.FormatInt(b.Size(), 10))
	h["Cache-Control"] = noStore
	c.WriteHeader(http.StatusOK)
	if c.r.Method == http.MethodHead {
		return nil
	}
	if _, err := b.WriteTo(&patientWriter{c, rc}); err != nil {
		a.metrics.backupFailed.Inc()
		a.logger.WarnContext(c.r.Context(), "backup not sent to its end", "error", err)
		panic(http.ErrAbortHandler) // the client must see that something is missing
	}
	a.metrics.backupDone.Inc()
	a.metrics.backupSuccess.SetToCurrentTime()
	a.metrics.backupDuration.Set(time.Since(begun).Seconds())
	return nil
}

// patientWriter gives each write its own time.
type patientWriter struct {
	w  io.Writer
	rc *http.ResponseController
}

// Write implements io.Writer.
func (p *patientWriter) Write(b []byte) (int, error) {
	_ = p.rc.SetWriteDeadline(time.Now().Add(backupChunkTime)) // not every writer has one
	return p.w.Write(b)
}

// NoRoom is the error of a backup for which the disk has no room, in words for the caller.
func NoRoom(format string, args ...any) error { return unavailableFor(retryFull, format, args...) }
