package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"herald/daemon/config"
)

// watched is a certificate whose files are looked at in virtual time.
type watched struct {
	t     *testing.T
	files config.TLS
	c     *certificate
	log   lines
}

// lines is a log that is taken away piece by piece.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return slices.Collect(strings.Lines(l.text.String()))
}

// write puts a new pair in place: a serial number, and from when to when it is valid.
func (w *watched) write(serial int64, from, until time.Duration) {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: now.Add(from), NotAfter: now.Add(until)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		w.t.Fatal(err)
	}
	for path, b := range map[string]*pem.Block{w.files.Cert: {Type: "CERTIFICATE", Bytes: der}, w.files.Key: {Type: "PRIVATE KEY", Bytes: private}} {
		// The files' own times go by the real clock, in which all of this happens at once.
		if err := errors.Join(os.WriteFile(path, pem.EncodeToMemory(b), 0o600), os.Chtimes(path, now, now)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// after lets time go by, and fails the test unless the certificate in force is the one of the serial number and the log has got the
// lines since, by what they contain.
func (w *watched) after(d time.Duration, serial int64, want ...string) {
	w.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	if n := w.c.current.Load().Certificates[0].Leaf.SerialNumber.Int64(); n != serial {
		w.t.Errorf("the certificate in force is %d, want %d", n, serial)
	}
	got := w.log.take()
	if len(got) != len(want) {
		w.t.Fatalf("logged %q, want %q", got, want)
	}
	for i, l := range want {
		if !strings.Contains(got[i], l) {
			w.t.Errorf("logged %q, want %q", got[i], l)
		}
	}
}

func TestCertificateFilesAreWatched(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const day = time.Minute // a day of a look each second would take long, even so
		dir := t.TempDir()
		w := &watched{t: t, files: config.TLS{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}}
		w.write(1, -day, 90*day)
		var err error
		w.c, err = openCertificate(w.files, slog.New(slog.NewTextHandler(&w.log, nil)), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.c.run(ctx) }()
		time.Sleep(certificateCheck / 2) // between two looks
		w.after(day, 1)

		// What goes on changing is not read.
		for n := range int64(5) {
			w.write(10+n, -day, 90*day)
			w.after(certificateCheck, 1)
		}
		w.after(2*certificateCheck, 14, `"certificate loaded"`)

		// What does not fit is refused once, and what is away may come back.
		other := w.files.Key + ".other"
		if err := errors.Join(os.Rename(w.files.Key, other), os.WriteFile(w.files.Key, []byte("nonsense"), 0o600)); err != nil {
			t.Fatal(err)
		}
		w.after(10*time.Second, 14, "does not load together with")
		if err := os.Remove(w.files.Key); err != nil {
			t.Fatal(err)
		}
		w.after(10*time.Second, 14, w.files.Key+" cannot be read: no such file")
		if err := os.Rename(other, w.files.Key); err != nil {
			t.Fatal(err)
		}
		w.after(10*time.Second, 14, "again those in force")
		if n := testutil.ToFloat64(w.c.failures); n != 2 {
			t.Errorf("%v failures, want 2", n)
		}

		// What is not valid yet waits for its time; what ends is told of.
		w.write(20, 10*time.Second, 30*day)
		w.after(5*time.Second, 14, "is not valid before")
		w.after(10*time.Second, 20, `"certificate loaded"`)
		w.after(day, 20)
		w.after(20*day, 20, "level=WARN msg=\"the certificate of the API has to be replaced\"")
		w.after(10*day, 20, "expired at")
		w.write(21, -2*day, -day)
		w.after(10*time.Second, 20, w.files.Cert+": the certificate expired at")
		w.write(22, -day, 90*day)
		w.after(10*time.Second, 22, `"certificate loaded"`)
		if n := testutil.ToFloat64(w.c.expiry); n != float64(time.Now().Add(90*day-10*time.Second).Unix()) {
			t.Errorf("the metric says that it expires at %v", n)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
