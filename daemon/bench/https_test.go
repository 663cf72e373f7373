package bench

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// openedTLS returns HTTPS receivers that end with the test, and a client that trusts them.
func openedTLS(t *testing.T, counts [3]int, http2 bool, latency time.Duration) (*receivers, *http.Client) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	config, err := certify(file)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := openReceivers(t.Context(), counts, receiverShape{latency: latency, data: buildData(200), tls: config, http2: http2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rs.close)
	client, err := trusting(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	return rs, client
}

// httpVersions are those of HTTPS receivers, and whether they are HTTP/2.
var httpVersions = map[string]bool{"HTTP/1.1": false, "HTTP/2": true}

func TestHTTPSReceiverNotesPushesAndHandshakes(t *testing.T) {
	t.Parallel()
	for name, http2 := range httpVersions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rs, client := openedTLS(t, [3]int{healthy: 1}, http2, 0)
			r, book := rs.all[0], newLedger(0, 1, time.Now())
			rs.keep(book)
			if err := r.secret(standInKey); err != nil {
				t.Fatal(err)
			}
			for seq := range int64(6) {
				if err := book.begin(seq, book.now()); err != nil {
					t.Fatal(err)
				}
				resp, err := client.Do(pushOf(t, r.url(), seq))
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(resp.Body)
				if err != nil || resp.StatusCode != 200 || string(b) != "ok" || (resp.ProtoMajor == 2) != http2 {
					t.Errorf("answer %d by %s, %q, %v", resp.StatusCode, resp.Proto, b, err)
				}
				_ = resp.Body.Close()
				book.ack(seq, fmt.Append(nil, "evt_", seq))
				if seq == 2 || seq == 4 {
					client.CloseIdleConnections()
				}
			}
			if got := book.audit(6); got != (audit{Sent: 6, Acked: 6}) {
				t.Errorf("audit %+v", got)
			}
			if r.pushes.Load() != 6 || r.verified.Load() != 1 || r.forged.Load()+r.corrupted.Load()+r.alien.Load()+r.broken.Load() != 0 {
				t.Errorf("receiver %+v", r)
			}
			// Three connections, the second and the third with a session of the one before.
			if got, want := rs.handshakes(), (Handshakes{Handshakes: 3, Resumed: 2, Connections: 3}); got != want {
				t.Errorf("counted %+v, want %+v", got, want)
			}
			// Whoever does not trust the certificate pushes nothing.
			if _, err := http.DefaultClient.Do(pushOf(t, r.url(), 7)); err == nil || r.pushes.Load() != 6 {
				t.Errorf("error %v, %d pushes", err, r.pushes.Load())
			}
		})
	}
}

func TestHTTPSReceiverBehaviours(t *testing.T) {
	t.Parallel()
	for name, http2 := range httpVersions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rs, client := openedTLS(t, [3]int{healthy: 1, failing: 1, hanging: 1}, http2, 30*time.Millisecond)
			begin := time.Now()
			if resp, err := client.Do(pushOf(t, rs.all[0].url(), 1)); err != nil || resp.StatusCode != 200 || time.Since(begin) < 30*time.Millisecond {
				t.Errorf("healthy: %v, %v after %v", resp, err, time.Since(begin))
			}
			if resp, err := client.Do(pushOf(t, rs.all[1].url(), 1)); err != nil || resp.StatusCode != 500 {
				t.Errorf("failing: %v, %v", resp, err)
			}
			unanswered(t, client, rs.all[2])
			answered := make(chan error, 1)
			go func() {
				_, err := client.Do(pushOf(t, rs.all[2].url(), 2))
				answered <- err
			}()
			for rs.all[2].pushes.Load() < 2 {
				time.Sleep(time.Millisecond)
			}
			rs.close() // waits for the one that never answers
			if <-answered == nil {
				t.Error("hanging: answered at the end")
			}
		})
	}
}

func TestHTTPSReceiverRefusesHugeBodies(t *testing.T) {
	t.Parallel()
	for name, http2 := range httpVersions {
		rs, client := openedTLS(t, [3]int{healthy: 1}, http2, 0)
		body := bytes.NewReader(make([]byte, rs.all[0].maxBody+1))
		huge, err := http.NewRequestWithContext(t.Context(), http.MethodPost, rs.all[0].url(), body)
		if err != nil {
			t.Fatal(err)
		}
		// A reset instead of the answer is possible when unread bytes are left behind.
		if resp, err := client.Do(huge); err == nil && resp.StatusCode != 400 {
			t.Errorf("%s: %v", name, resp)
		}
		rs.close()
		if rs.all[0].broken.Load() != 1 || rs.all[0].pushes.Load() != 0 {
			t.Errorf("%s: not counted", name)
		}
	}
}

func TestRunHTTPS(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault string
		args  []string
		check func(*Report) bool
	}{
		"HTTP/1.1": {"", []string{"--tls"}, func(r *Report) bool {
			return !r.Options.HTTP2 && r.TLS.WarmUp > 0 && r.TLS.Per1000 < 1000 && r.Ceilings.Deliver > 0
		}},
		"HTTP/2":  {"", []string{"--tls", "--http2", "--no-ceilings"}, func(r *Report) bool { return r.Options.HTTP2 && r.TLS.Per1000 < 300 }},
		"several": {"", []string{"--tls", "--events", "40", "--fan-out", "4", "--failing", "0.25", "--hanging", "0.25"}, func(r *Report) bool { return r.Deliveries == 80 && r.Failing.Pushes > 0 }},
		"batches": {"", []string{"--tls", "--http2", "--no-ceilings", "--batch", "10", "--records", "10"}, func(r *Report) bool { return r.Pushes == 20 && r.Verified > 0 }},
		// The meter shows what it is for: connections that are not used again.
		"not reused": {"reconnect", []string{"--tls", "--no-ceilings", "--producers", "1"}, func(r *Report) bool { return r.TLS.Per1000 > 300 && r.TLS.Resumed > 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := measured(t, test.fault, append([]string{"--events", "200"}, test.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			c := r.TLS
			if r.Lost+r.Strays != 0 || !r.Options.TLS || c == nil || c.Handshakes+c.WarmUp == 0 || !test.check(r) {
				t.Errorf("report %+v, handshakes %+v", r, c)
			}
		})
	}
	if r, err := measured(t, "", "--events", "10", "--no-ceilings"); err != nil || r.TLS != nil {
		t.Errorf("without --tls: error %v, handshakes %+v", err, r.TLS)
	}
}

func TestHandshakesTable(t *testing.T) {
	t.Parallel()
	report := Report{Options: Options{TLS: true, HTTP2: true}, TLS: &Handshakes{WarmUp: 9}}
	report.TLS.account(Handshakes{Handshakes: 10, Resumed: 1, Connections: 20}, Handshakes{Handshakes: 14, Resumed: 2, Connections: 25}, 1600)
	var out bytes.Buffer
	if err := report.writeTable(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"HTTPS with HTTP/2", "2.50", "per 1,000 pushes: 4, of them 1 resumed, 5 connections accepted; 9 while warming up"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in the table:\n%s", want, out.String())
		}
	}
}
