package bench

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"herald/daemon/sender"
	"herald/daemon/sender/apns"
	"herald/daemon/sender/fcm"
	"herald/daemon/sender/webpush"
	"herald/queue"
	"herald/store"
)

// standInApp is an implementation of the stand-in, as it was created.
type standInApp struct {
	Android struct {
		ServiceAccount struct {
			ProjectID   string `json:"project_id"`
			ClientEmail string `json:"client_email"`
			KeyID       string `json:"private_key_id"`
			TokenURI    string `json:"token_uri"`
			PrivateKey  string `json:"private_key"`
		} `json:"serviceAccount"`
	} `json:"android"`
	IOS struct {
		Key    string `json:"key"`
		KeyID  string `json:"keyId"`
		TeamID string `json:"teamId"`
		Topic  string `json:"topic"`
	} `json:"ios"`
	VAPID []byte `json:"vapid,omitempty"` // the private key, made by the stand-in
}

// standInMessage is a notification on its way.
type standInMessage struct {
	ID, Contact, Text, Sequence, Key string
}

// standInDevices is what the stand-in for the daemon knows of devices, and how it reaches them: with the daemon's senders. Its journal
// keeps it across a kill. Guarded by standIn.mu.
type standInDevices struct {
	app     *standInApp
	tokens  map[string]json.RawMessage // by contact
	open    map[string]*standInMessage
	known   map[string]string // ids by key
	fcm     *fcm.Sender
	apns    *apns.Sender
	webpush *webpush.Sender
	sent    atomic.Int64
}

func (s *standIn) openSenders(urls map[string]struct{ URL string }) error {
	s.devices = standInDevices{tokens: map[string]json.RawMessage{}, open: map[string]*standInMessage{}, known: map[string]string{}}
	if len(urls) == 0 {
		return nil
	}
	connections := 0
	if s.fault == "crowd" {
		connections = maxConnections + 1
	}
	way := func() *http.Transport { return s.client.Transport.(*http.Transport).Clone() }
	var errs [3]error
	s.devices.fcm, errs[0] = fcm.New(fcm.Options{Transport: way, URL: urls["fcm"].URL, Connections: connections})
	s.devices.apns, errs[1] = apns.New(apns.Options{Transport: way, URL: urls["apns"].URL, Connections: connections})
	s.devices.webpush, errs[2] = webpush.New(webpush.Options{Transport: way, URL: urls["webpush"].URL, UserAgent: "Test", Connections: connections})
	return errors.Join(errs[:]...)
}

func (s *standIn) deviceRoutes(ctx context.Context, mux *http.ServeMux) {
	mux.HandleFunc("POST /implementations", func(w http.ResponseWriter, r *http.Request) {
		app := new(standInApp)
		key, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil || json.NewDecoder(r.Body).Decode(app) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		app.VAPID = key.Bytes()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.write(journalEntry{App: app})
		fmt.Fprintf(w, `{"web":{"vapid":{"publicKey":%q}}}`, base64.RawURLEncoding.EncodeToString(key.PublicKey().Bytes()))
	})
	mux.HandleFunc("POST /messages/{type}", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			RouteeContactID string
			Token           json.RawMessage
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || !strings.Contains(in.RouteeContactID, "-"+r.PathValue("type")+"-") {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.write(journalEntry{Contact: in.RouteeContactID, Token: in.Token})
	})
	mux.HandleFunc("GET /contacts/{id}/devices", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.devices.tokens[r.PathValue("id")] == nil || s.fault == "unfound" {
			fmt.Fprint(w, "[]")
			return
		}
		fmt.Fprintf(w, `[{"id":"dev_1","routeeContactId":%q}]`, r.PathValue("id"))
	})
	mux.HandleFunc("POST /messages", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			RouteeContactID string
			Body            struct{ Text map[string]string }
			Data            map[string]string
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Data["benchSequence"] == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		n := s.events.Add(1)
		m := &standInMessage{fmt.Sprintf("msg_%d_%d", s.starts, n), in.RouteeContactID, in.Body.Text["en"], in.Data["benchSequence"], r.Header.Get("Idempotency-Key")}
		s.mu.Lock()
		id, again := s.devices.known[m.Key]
		if !again {
			id = m.ID
			s.write(journalEntry{Message: m})
		}
		s.mu.Unlock()
		if !again {
			s.notify(ctx, m)
		}
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, `{"trackingId":%q}`, id)
	})
}

// applyDevices takes in an entry of the journal.
func (s *standIn) applyDevices(e journalEntry) {
	d := &s.devices
	switch {
	case e.App != nil:
		d.app = e.App
	case e.Contact != "":
		d.tokens[e.Contact] = e.Token
	case e.Message != nil:
		d.open[e.Message.ID] = e.Message
		if e.Message.Key != "" {
			d.known[e.Message.Key] = e.Message.ID
		}
	case e.Notified != "":
		delete(d.open, e.Notified)
	}
}

// notifyOpen goes on after a start.
func (s *standIn) notifyOpen(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, m := range s.devices.open {
		if s.fault == "forget" && s.starts > 1 {
			delete(s.devices.open, id)
			continue
		}
		s.notify(ctx, m)
	}
}

// notify sends a notification, once unless a fault says otherwise.
func (s *standIn) notify(ctx context.Context, m *standInMessage) {
	times, rest := 1, time.Duration(0)
	switch n := s.devices.sent.Add(1); {
	case s.fault == "forget" && n%3 == 0:
		rest = 300 * time.Millisecond // so that at the kill there are some that have not arrived
	case s.fault == "lose" && n == 30:
		return
	case s.fault == "repeat" && n%10 == 0:
		times = 2
	}
	s.wg.Go(func() {
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return
		}
		s.slots <- struct{}{}
		defer func() { <-s.slots }()
		for range times {
			if r := s.reach(ctx, m); r.Class != queue.ClassDelivered {
				return
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.write(journalEntry{Notified: m.ID})
	})
}

func (s *standIn) reach(ctx context.Context, m *standInMessage) (r sender.Result) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s.mu.Lock()
	app, token := s.devices.app, s.devices.tokens[m.Contact]
	s.mu.Unlock()
	n := &store.Notification{Title: map[string]string{"en": "On its way"}, Text: map[string]string{"en": m.Text}, Data: map[string]string{"benchSequence": m.Sequence}, CollapseKey: m.Sequence, TTL: time.Hour}
	if s.fault == "corrupt" {
		n.Text["en"] = "Something else"
	}
	der := func(text string) []byte {
		block, _ := pem.Decode([]byte(text))
		return block.Bytes
	}
	var text string
	_ = json.Unmarshal(token, &text) // web tokens are objects
	switch strings.Split(m.Contact, "-")[1] {
	case "android":
		body, _ := fcm.Render(n, store.PlatformAndroid, "")
		a := &app.Android.ServiceAccount
		key := &store.FCM{ProjectID: a.ProjectID, ClientEmail: a.ClientEmail, KeyID: a.KeyID, TokenURI: a.TokenURI, PrivateKey: der(a.PrivateKey)}
		return s.devices.fcm.Send(ctx, benchApp, key, fcm.Target{Token: text}, body, false)
	case "ios":
		body, headers, _ := apns.Render(n, "")
		if s.fault == "misprint" {
			headers.Priority = 7
		}
		key := &store.APNs{Key: der(app.IOS.Key), KeyID: app.IOS.KeyID, TeamID: app.IOS.TeamID, Topic: app.IOS.Topic}
		return s.devices.apns.Send(ctx, benchApp, key, apns.Push{ID: "0b7f8e3c-9a51-4b6e-8c1d-2f3a4b5c6d7e", Token: text, Payload: body, Headers: headers, ExpiresAt: time.Now().Add(time.Hour)})
	}
	body, headers, _ := webpush.Render(n, "")
	d, err := store.ParseWebSubscription(token)
	private, keyErr := ecdh.P256().NewPrivateKey(app.VAPID)
	if err = errors.Join(err, keyErr); err != nil {
		return sender.Result{Outcome: queue.Outcome{Class: queue.ClassRejected, Error: err.Error()}}
	}
	key := &store.VAPID{PrivateKey: app.VAPID, PublicKey: private.PublicKey().Bytes(), Subject: "mailto:bench@example.org"}
	return s.devices.webpush.Send(ctx, benchApp, key, webpush.Push{Endpoint: d.Token, P256DH: d.P256DH, Auth: d.Auth, Payload: body, Headers: headers, TTL: time.Hour})
}

func TestRunDevices(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts daemons and providers, and takes long")
	}
	t.Parallel()
	for name, args := range map[string][]string{
		"plain":  {"--devices", "20"},
		"killed": {"--devices", "3", "--kill"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := staged(t, "", append(args, "--receiver-latency", "2ms")...)
			if err != nil {
				t.Fatal(err)
			}
			d := r.Devices
			if d == nil || r.Replay != nil || d.Devices != r.Options.Devices || d.Latency != 2 || r.Options.ReceiverLatencyMS != 2 || len(d.Faults) != 0 {
				t.Fatalf("report %+v", d)
			}
			if g := d.Registration; g.PerSecond <= 0 || g.Seconds <= 0 || g.Ack.Count != uint64(d.Devices) || d.Lookup.Count != uint64(d.Devices) || d.Lookup.P50 <= 0 {
				t.Errorf("registration %+v, lookup %+v", g, d.Lookup)
			}
			for _, m := range []Memory{d.Idle, d.Registered, d.After} {
				if *m.Heap != 10<<20 || (runtime.GOOS == "linux" && *m.RSSAnon <= 0) {
					t.Errorf("memory %+v", m)
				}
			}
			var devices, delivered int64
			var names []string
			for _, n := range d.Providers {
				if !n.whole() || n.Connections < 1 || n.Connections > maxConnections {
					t.Errorf("%s: %+v", n.Provider, n)
				}
				names = append(names, n.Provider)
				devices += n.Devices
				delivered += n.Paced.Events + n.Full.Events
				if (n.Kill != nil) != (name == "killed") {
					t.Fatalf("kill %+v", n.Kill)
				}
				if k := n.Kill; k != nil {
					if k.Restart.Stop != "kill" || k.Restart.ReadySeconds <= 0 || k.Stretch.Events == 0 {
						t.Errorf("%s: kill %+v %+v", n.Provider, k.Stretch, k.Restart)
					}
					delivered += k.Stretch.Events
				}
			}
			if strings.Join(names, " ") != "fcm apns webpush" || devices != d.Devices || r.Lost != 0 || r.Verified < 3 || r.Deliveries < delivered {
				t.Errorf("%v with %d devices, %d of %d delivered, findings %+v", names, devices, r.Deliveries, delivered, r.Findings)
			}
		})
	}
}

func TestRunDevicesFindsFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts daemons and providers, and takes long")
	}
	t.Parallel()
	for _, test := range []struct {
		fault string
		want  error
		check func(*ScenarioReport) bool
	}{
		{"lose", ErrLost, func(r *ScenarioReport) bool { return r.Lost == 1 }},
		{"forget", ErrLost, func(r *ScenarioReport) bool { return r.Lost > 0 }},
		{"repeat", nil, func(r *ScenarioReport) bool { return r.Duplicated > 0 && r.Lost == 0 }},
		{"corrupt", ErrWrong, func(r *ScenarioReport) bool { return r.Corrupted == r.Verified && r.Verified > 0 }},
		{"crowd", ErrWrong, func(r *ScenarioReport) bool { return r.Devices.Providers[0].Connections > maxConnections }},
		{"misprint", ErrLost, func(r *ScenarioReport) bool { return len(r.Devices.Faults) > 0 }},
		{"unfound", ErrWrong, func(r *ScenarioReport) bool { return r == nil }},
	} {
		t.Run(test.fault, func(t *testing.T) {
			t.Parallel()
			args := []string{"--devices", "6", "--receiver-latency", "2ms", "--warm-up", "0"}
			if test.fault == "forget" {
				args = append(args, "--kill", "--receiver-latency", "30ms")
			}
			r, err := staged(t, test.fault, args...)
			if !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			if !test.check(r) {
				t.Errorf("report %+v", r)
			}
		})
	}
}

// The request for a message differs from one to the next in nothing but its numbers.
func TestMessageTemplate(t *testing.T) {
	t.Parallel()
	p := &provider{platform: "ios", devices: 7}
	make := p.message(requestShape{host: "127.0.0.1:1", token: "secret"}, "keys-")
	for _, keyed := range []bool{false, true} {
		text := string(make([]byte("before"), 9_000_000_010, keyed))
		head, body, ok := strings.Cut(strings.TrimPrefix(text, "before"), "\r\n\r\n")
		var m struct {
			RouteeContactID, CollapseKey string
			Data                         map[string]string
		}
		if err := json.Unmarshal([]byte(body), &m); err != nil || !ok {
			t.Fatalf("%q: %v", text, err)
		}
		if m.RouteeContactID != fmt.Sprintf("bench-ios-%012d", 9_000_000_010%7) || m.CollapseKey != "009000000010" || m.Data["benchSequence"] != m.CollapseKey {
			t.Errorf("body %s", body)
		}
		if !strings.HasPrefix(head, "POST /messages HTTP/1.1\r\n") || !strings.HasSuffix(head, fmt.Sprintf("Content-Length: %d", len(body))) ||
			strings.Contains(head, "\r\nIdempotency-Key: keys-009000000010\r\n") != keyed {
			t.Errorf("head %q", head)
		}
	}
}
