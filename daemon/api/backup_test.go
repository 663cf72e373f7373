package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// fakeBackup is a text as a backup.
type fakeBackup struct {
	text   string
	fail   error // of sending, after the text
	closed chan struct{}
}

func (f *fakeBackup) Size() int64 {
	if f.fail != nil {
		return int64(len(f.text)) + 1
	}
	return int64(len(f.text))
}

func (f *fakeBackup) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, f.text)
	return int64(n), errors.Join(err, f.fail)
}

func (f *fakeBackup) Close() error { close(f.closed); return nil }

func askBackup(t *testing.T, s *httptest.Server, token string) (*http.Response, string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/admin/backup", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	res, err := s.Client().Do(r)
	if err != nil {
		return &http.Response{}, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res, string(b), err
}

// backingUp serves an API that makes its backups like this, with little time for any other answer.
func backingUp(t *testing.T, backup func(context.Context) (Backup, error)) (*bed, *httptest.Server) {
	t.Helper()
	b := newBed(t)
	b.api.backup = backup
	s := httptest.NewUnstartedServer(b.h)
	s.Config.ReadTimeout, s.Config.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond
	s.Start()
	t.Cleanup(s.Close)
	return b, s
}

func TestBackup(t *testing.T) {
	t.Parallel()
	// One that takes longer to make than any other answer may.
	f := &fakeBackup{text: "all of it", closed: make(chan struct{})}
	making, made := make(chan struct{}), make(chan struct{})
	b, s := backingUp(t, func(ctx context.Context) (Backup, error) {
		close(making)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-made:
			return f, nil
		}
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		if res, body, err := askBackup(t, s, "adm"); err != nil || res.StatusCode != 200 || body != "all of it" || res.Header.Get("Content-Type") != "application/x-tar" {
			t.Errorf("%d %q: %v", res.StatusCode, body, err)
		}
	}()
	<-making
	// Meanwhile there is no second one.
	if res, body, _ := askBackup(t, s, "adm"); res.StatusCode != 503 || !strings.Contains(body, "another backup") || res.Header.Get("Retry-After") == "" {
		t.Errorf("beside another: %d %s", res.StatusCode, body)
	}
	time.AfterFunc(300*time.Millisecond, func() { close(made) })
	<-done
	<-f.closed
	if done, failed := counter(t, b.reg, "herald_backups_total", "result", "done"), counter(t, b.reg, "herald_backups_total", "result", "failed"); done != 1 || failed != 0 {
		t.Errorf("counted %v done and %v failed", done, failed)
	}
}

func TestBackupFails(t *testing.T) {
	t.Parallel()
	f := &fakeBackup{text: "half of", fail: errors.New("broken"), closed: make(chan struct{})}
	b, s := backingUp(t, func(context.Context) (Backup, error) { return f, nil })
	if _, body, err := askBackup(t, s, "adm"); err == nil {
		t.Errorf("half of it came without an error: %q", body)
	}
	<-f.closed
	if done, failed := counter(t, b.reg, "herald_backups_total", "result", "done"), counter(t, b.reg, "herald_backups_total", "result", "failed"); done != 0 || failed != 1 {
		t.Errorf("counted %v done and %v failed", done, failed)
	}
	b, s = backingUp(t, func(context.Context) (Backup, error) { return nil, NoRoom("there is no room for %d", 7) })
	if res, body, _ := askBackup(t, s, "adm"); res.StatusCode != 503 || !strings.Contains(body, "no room for 7") {
		t.Errorf("without room: %d %s", res.StatusCode, body)
	}
	if res, _, _ := askBackup(t, s, "sub"); res.StatusCode != 403 {
		t.Errorf("without the scope: %d", res.StatusCode)
	}
	if failed := counter(t, b.reg, "herald_backups_total", "result", "failed"); failed != 1 {
		t.Errorf("counted %v failed", failed)
	}
	_, s = backingUp(t, noBackup)
	if res, _, _ := askBackup(t, s, "adm"); res.StatusCode != 503 {
		t.Errorf("without anything to back up: %d", res.StatusCode)
	}
}
