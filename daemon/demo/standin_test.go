package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"herald/daemon/sender/webpush"
	"herald/store"
)

// faultVariable names a fault for the stand-in to have. It does not begin with HERALD_, which the demo
// keeps from its child.
const faultVariable = "STANDIN_FAULT"

// standIn is as much of a daemon as the demo sees, in one test file: what it is for is to be wrong in
// one chosen way, so that a test can see the demo notice. It keeps its state in a file, rewritten with
// every change.
type standIn struct {
	fault string
	file  string

	mu    sync.Mutex
	state state

	// What it takes to reach the one browser. They come after the last restart, so they need not be kept.
	pushes   *webpush.Sender
	vapid    *store.VAPID
	device   store.DeviceToken
	template string // the text in the browser's language
}

type state struct {
	Tokens     map[string]map[string]any // by secret
	Resources  map[string]string
	Subs       map[string]*subscription
	Events     map[string]*event
	Deliveries []*delivery
	Replays    map[string]int // deliveries, by id
	Next       int
}

type subscription struct {
	ID, Resource, URL, Token, Secret string
	Format, State                    string
	Events                           []string
	Waits                            []string
}

// proof is the signature that confirms a subscription.
const proof = "1795437792403.zIxcdURapmVCnb"

type event struct {
	ID, Type, Resource string
	Data               []byte
}

type delivery struct {
	ID, EventID, SubID, State string
	Attempts                  []map[string]any
}

// runStandIn is the process that the demo starts in place of the daemon.
func runStandIn(config string) error {
	s := &standIn{fault: os.Getenv(faultVariable)}
	if s.fault == "does not start" {
		fmt.Fprintln(os.Stderr, "the stand-in does not feel like starting")
		return errors.New("no")
	}
	b, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	value := func(key string) string {
		m := regexp.MustCompile(`(?m)^\s*` + key + `: "?([^"\n]+)"?$`).FindSubmatch(b)
		if m == nil {
			return ""
		}
		return string(m[1])
	}
	dir, socket := value("data_dir"), value("socket")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	pem, err := os.ReadFile(value("ca_file"))
	if err != nil {
		return err
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(pem)
	s.pushes, err = webpush.New(webpush.Options{
		Transport: func() *http.Transport { return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}} },
		UserAgent: "stand-in",
	})
	if err != nil {
		return err
	}
	s.file = filepath.Join(dir, "state.json")
	s.state = state{
		Tokens: map[string]map[string]any{}, Resources: map[string]string{},
		Subs: map[string]*subscription{}, Events: map[string]*event{}, Replays: map[string]int{},
	}
	if b, err := os.ReadFile(s.file); err == nil {
		if err := json.Unmarshal(b, &s.state); err != nil {
			return err
		}
	}
	_ = os.Remove(socket)
	local, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	public, err := net.Listen("tcp", value("address"))
	if err != nil {
		return err
	}
	for _, d := range s.state.Deliveries {
		if d.State == "pending" {
			go s.deliver(d)
		}
	}
	go func() { _ = http.Serve(local, s.routes(true)) }()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		code := 0
		if s.fault == "stops badly" {
			code = 3
		}
		os.Exit(code)
	}()
	return http.Serve(public, s.routes(false))
}

func (s *standIn) save() {
	b, err := json.Marshal(s.state)
	if err != nil {
		panic(err)
	}
	if err := os.WriteFile(s.file+".new", b, 0o600); err != nil {
		panic(err)
	}
	if err := os.Rename(s.file+".new", s.file); err != nil {
		panic(err)
	}
}

func refuse(w http.ResponseWriter, r *http.Request, status int, detail string, fields ...string) {
	p := map[string]any{"title": http.StatusText(status), "statusCode": status, "detail": detail, "instance": r.URL.Path}
	var list []map[string]string
	for _, f := range fields {
		list = append(list, map[string]string{"field": f, "detail": "is wrong"})
	}
	if list != nil {
		p["errors"] = list
	}
	w.Header().Set("Content-Type", "application/problem+json")
	answer(w, status, p)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.WriteHeader(status)
	if v != nil {
		_ = json.NewEncoder(w).Encode(v)
	}
}

func (s *standIn) id(prefix string) string {
	s.state.Next++
	return prefix + strconv.Itoa(s.state.Next)
}

func (s *standIn) routes(admin bool) http.Handler {
	m := http.NewServeMux()
	handle := func(pattern string, do func(http.ResponseWriter, *http.Request)) {
		m.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			defer s.mu.Unlock()
			secret, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			token := s.state.Tokens[secret]
			switch {
			case admin, strings.HasSuffix(pattern, "/confirmation"):
			case token == nil:
				refuse(w, r, 401, "no valid token")
				return
			case strings.Contains(pattern, "/tokens") && s.fault != "anyone mints":
				refuse(w, r, 403, "needs the scope admin")
				return
			}
			do(w, r)
			s.save()
		})
	}
	m.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, map[string]string{"status": "ok"}) })
	m.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		if s.fault != "no metrics" {
			_, _ = io.WriteString(w, "# HELP x\nherald_api_events_accepted_total 5\ngo_x 1\n")
		}
	})
	handle("POST /tokens", func(w http.ResponseWriter, r *http.Request) {
		var in map[string]any
		_ = json.NewDecoder(r.Body).Decode(&in)
		in["id"] = s.id("tok_")
		secret := "hrld_" + rand.Text()
		s.state.Tokens[secret] = in
		out := map[string]any{"token": secret}
		maps.Copy(out, in)
		answer(w, 200, out)
	})
	handle("DELETE /tokens/{id}", func(w http.ResponseWriter, r *http.Request) {
		for secret, t := range s.state.Tokens {
			if t["id"] == r.PathValue("id") && s.fault != "revoked tokens live on" {
				delete(s.state.Tokens, secret)
			}
		}
		w.WriteHeader(204)
	})
	handle("PUT /resources/{type}/{id}", func(w http.ResponseWriter, r *http.Request) {
		s.state.Resources[r.PathValue("type")+"/"+r.PathValue("id")] = ""
		answer(w, 200, map[string]string{"type": r.PathValue("type"), "id": r.PathValue("id")})
	})
	handle("PUT /resources", func(w http.ResponseWriter, r *http.Request) {
		var in []struct{ Type, ID string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		for _, x := range in {
			if s.fault != "forgets resources" {
				s.state.Resources[x.Type+"/"+x.ID] = ""
			}
		}
		answer(w, 200, map[string]int{"resources": len(in)})
	})
	handle("GET /resources", func(w http.ResponseWriter, r *http.Request) {
		out := []map[string]string{}
		for key := range s.state.Resources {
			typ, id, _ := strings.Cut(key, "/")
			if typ == r.URL.Query().Get("type") {
				out = append(out, map[string]string{"type": typ, "id": id})
			}
		}
		slices.SortFunc(out, func(a, b map[string]string) int { return strings.Compare(a["id"], b["id"]) })
		answer(w, 200, out)
	})
	handle("POST /subscriptions", s.createSubscription)
	handle("GET /subscriptions/{id}", func(w http.ResponseWriter, r *http.Request) {
		if s.state.Subs[r.PathValue("id")] == nil {
			refuse(w, r, 404, "there is no such subscription")
			return
		}
		answer(w, 200, map[string]string{"id": r.PathValue("id"), "state": s.state.Subs[r.PathValue("id")].State})
	})
	handle("POST /subscriptions/{id}/confirmation", func(w http.ResponseWriter, r *http.Request) {
		in := struct{ Signature string }{r.FormValue("signature")}
		if r.Header.Get("Content-Type") == "application/json" {
			_ = json.NewDecoder(r.Body).Decode(&in)
		}
		sub := s.state.Subs[r.PathValue("id")]
		switch {
		case in.Signature != proof && s.fault == "activates in secret":
			sub.State = "active"
			fallthrough
		case in.Signature != proof && s.fault != "takes any signature", s.fault == "takes no signature":
			refuse(w, r, 403, "it is not the signature of this subscription")
			return
		case s.fault != "stays pending":
			sub.State = "active"
		}
		w.WriteHeader(204)
	})
	handle("POST /subscriptions/{id}/replay", s.replay)
	handle("GET /subscriptions/{id}/replays/{replay}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, map[string]any{
			"id": r.PathValue("replay"), "state": "done", "deliveries": s.state.Replays[r.PathValue("replay")],
			"createdAt": time.Now(), "endedAt": time.Now(),
		})
	})
	handle("DELETE /subscriptions/{id}", func(w http.ResponseWriter, r *http.Request) {
		if s.fault != "pushes after deletion" {
			delete(s.state.Subs, r.PathValue("id"))
		}
		w.WriteHeader(204)
	})
	handle("POST /subscriptions/{id}/ping", func(w http.ResponseWriter, r *http.Request) {
		e := &event{ID: s.id("evt_"), Type: "herald.ping", Data: []byte(`{}`)}
		if s.fault == "mute ping" {
			e.Type = "task.create"
		}
		if s.fault == "notifies once more later" {
			s.notify("Once", "more", "nl")
			time.Sleep(100 * time.Millisecond) // the demo does not wait for what must not come
		}
		if s.fault == "replays once more later" {
			sub, e := s.state.Subs[r.PathValue("id")], s.state.Events[s.state.Deliveries[0].EventID]
			s.send(sub, sub.URL, e.ID, "application/json", envelope(e, e.ID), time.Now(), http.Header{"Herald-Replay": {"true"}})
		}
		s.state.Events[e.ID] = e
		s.fanOut(e, s.state.Subs[r.PathValue("id")])
		answer(w, 202, map[string]string{"id": e.ID})
	})
	handle("POST /implementations", func(w http.ResponseWriter, _ *http.Request) {
		var err error
		if s.vapid, err = store.GenerateVAPID(); err != nil {
			panic(err)
		}
		s.vapid.Subject = "mailto:push@shop.example"
		key := s.vapid.PublicText()
		if s.fault == "no VAPID key" {
			key = ""
		}
		answer(w, 200, map[string]any{"id": "shop", "web": map[string]any{"vapid": map[string]string{"publicKey": key}}})
		if s.fault == "signs with another VAPID key" {
			s.vapid, _ = store.GenerateVAPID()
			s.vapid.Subject = "mailto:push@shop.example"
		}
	})
	handle("POST /messages/web", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			RouteeContactID string
			Token           json.RawMessage
		}
		_ = json.NewDecoder(r.Body).Decode(&in)
		var err error
		if s.device, err = store.ParseWebSubscription(in.Token); err != nil {
			refuse(w, r, 400, err.Error())
			return
		}
		if s.fault == "encrypts for another browser" {
			s.device.Auth = make([]byte, len(s.device.Auth))
		}
		if s.fault == "registers somebody else's" {
			in.RouteeContactID = "bob"
		}
		answer(w, 200, map[string]string{"routeeContactId": in.RouteeContactID})
	})
	handle("POST /messages", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Body struct{ Title, Text map[string]string }
		}
		_ = json.NewDecoder(r.Body).Decode(&in)
		lang := "nl"
		if s.fault == "speaks another language" {
			lang = "en"
		}
		if s.fault != "sends no notification" {
			s.notify(in.Body.Title[lang], in.Body.Text[lang], lang)
		}
		answer(w, 202, map[string]string{"trackingId": "msg_1"})
	})
	handle("GET /messages/{id}", func(w http.ResponseWriter, r *http.Request) {
		status := "SENT"
		if s.fault == "never says SENT" {
			status = "QUEUED"
		}
		answer(w, 200, map[string]string{"trackingId": r.PathValue("id"), "status": status})
	})
	handle("POST /events", s.publish)
	handle("GET /events/{id}", func(w http.ResponseWriter, r *http.Request) {
		out := []map[string]any{}
		for _, d := range s.state.Deliveries {
			if d.EventID == r.PathValue("id") {
				out = append(out, s.show(d))
			}
		}
		answer(w, 200, map[string]any{"id": r.PathValue("id"), "data": map[string]any{}, "deliveries": out})
	})
	handle("GET /deliveries", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		out := []map[string]any{}
		for _, d := range slices.Backward(s.state.Deliveries) {
			if (q.Get("subscription") == "" || q.Get("subscription") == d.SubID) && (q.Get("event") == "" || q.Get("event") == d.EventID) && (q.Get("state") == "" || q.Get("state") == d.State) {
				out = append(out, s.show(d))
			}
		}
		answer(w, 200, out)
	})
	handle("GET /deliveries/{id}", func(w http.ResponseWriter, r *http.Request) {
		for _, d := range s.state.Deliveries {
			if d.ID == r.PathValue("id") {
				out := s.show(d)
				out["attempts"] = d.Attempts
				if s.fault == "forgets attempts" {
					out["attempts"] = d.Attempts[1:]
				}
				answer(w, 200, out)
				return
			}
		}
		refuse(w, r, 404, "there is no such delivery")
	})
	return m
}

func (s *standIn) show(d *delivery) map[string]any {
	return map[string]any{
		"id": d.ID, "eventId": d.EventID, "eventType": s.state.Events[d.EventID].Type, "state": d.State, "attemptCount": len(d.Attempts),
	}
}

func (s *standIn) createSubscription(w http.ResponseWriter, r *http.Request) {
	var in struct {
		DataCallbackURL, ValidationCallbackURL, ExportFormat, Resource, SigningSecret string

		Events          []string
		NumberOfRecords int
		Authentication  struct{ Token string }
		Delivery        struct{ RetrySchedule []string }
		Notification    struct {
			Body struct{ Text map[string]string }
		}
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	if text := in.Notification.Body.Text["nl"]; text != "" {
		s.template = text
		answer(w, 200, map[string]any{"id": s.id("sub-"), "state": "active"})
		return
	}
	if _, known := s.state.Resources[in.Resource]; !known && in.Resource != "" && s.fault != "subscribes to anything" {
		refuse(w, r, 400, "the subscription has wrong fields", "resource", "events", "numberOfRecords")
		return
	}
	sub := &subscription{
		ID: s.id("sub-"), Resource: in.Resource, URL: in.DataCallbackURL, Token: in.Authentication.Token,
		Secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", Events: in.Events, Waits: in.Delivery.RetrySchedule,
		State: "active", Format: in.ExportFormat,
	}
	s.state.Subs[sub.ID] = sub
	secret := sub.Secret
	if s.fault == "other secret" {
		secret = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	}
	if in.SigningSecret != "" {
		sub.Secret = in.SigningSecret
	}
	if in.ValidationCallbackURL != "" {
		s.validate(r, sub, in.ValidationCallbackURL)
	}
	answer(w, 200, map[string]any{"id": sub.ID, "state": sub.State, "dataCallbackURL": sub.URL, "signingSecret": secret})
}

// validate sends the validation record of a new subscription.
func (s *standIn) validate(r *http.Request, sub *subscription, to string) {
	record := map[string]string{"confirmationURL": "http://" + r.Host + "/subscriptions/" + sub.ID + "/confirmation", "signature": proof}
	signer := *sub
	switch s.fault {
	case "record of another secret":
		signer.Secret = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	case "record leads elsewhere":
		record["confirmationURL"] = "http://" + r.Host + "/subscriptions/sub-0/confirmation"
	case "record without signature":
		delete(record, "signature")
	}
	if s.fault != "active at once" {
		sub.State = "pending"
	}
	body, err := json.Marshal(record)
	if err != nil {
		panic(err)
	}
	if s.fault != "no record" {
		s.send(&signer, to, "val_1", "application/json", body, time.Now(), nil)
	}
}

// replay pushes again what was delivered to the subscription, before it answers.
func (s *standIn) replay(w http.ResponseWriter, r *http.Request) {
	var in struct{ DryRun bool }
	_ = json.NewDecoder(r.Body).Decode(&in)
	sub := s.state.Subs[r.PathValue("id")]
	var events []*event
	for _, d := range s.state.Deliveries {
		if d.SubID == sub.ID || s.fault == "replays what others got" && !in.DryRun {
			events = append(events, s.state.Events[d.EventID])
		}
	}
	if in.DryRun {
		n := len(events)
		if s.fault == "counts a replay wrong" {
			n++
		}
		answer(w, 200, map[string]int{"count": n})
		if s.fault != "replays what it shall count" {
			return
		}
	}
	again, times := *sub, 1
	header, now := http.Header{"Herald-Replay": {"true"}}, time.Now()
	id := func(e *event) string { return e.ID }
	switch s.fault {
	case "replays with a new id":
		id = func(e *event) string { return e.ID + "-again" }
	case "replays without saying so":
		header = nil
	case "replays not all":
		events = events[1:]
	case "replays twice":
		times = 2
	case "replays with a wrong signature":
		again.Secret = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	case "replays with an old signature":
		now = now.Add(-time.Minute)
	case "replays other data":
		for i, e := range events {
			e := *e
			e.Data = []byte(`{}`)
			events[i] = &e
		}
	}
	for range times {
		for _, e := range events {
			s.send(&again, sub.URL, id(e), "application/json", envelope(e, id(e)), now, header)
		}
	}
	if in.DryRun {
		return
	}
	made := s.id("rpl_")
	s.state.Replays[made] = len(events)
	if s.fault == "replays what others got" {
		s.state.Replays[made] = 28
	}
	if s.fault == "sums a replay up wrong" || s.fault == "replays not all" {
		s.state.Replays[made]++
	}
	answer(w, 202, map[string]string{"id": made, "state": "running"})
}

func (s *standIn) publish(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	type wire struct {
		ID, Type, Resource string
		Data               json.RawMessage
	}
	var in []wire
	var err error
	single := false
	switch {
	case r.Header.Get("Content-Type") == "application/x-ndjson":
		for line := range bytes.Lines(body) {
			var e wire
			d := json.NewDecoder(bytes.NewReader(line))
			if s.fault != "takes typos" {
				d.DisallowUnknownFields()
			}
			err = errors.Join(err, d.Decode(&e))
			in = append(in, e)
		}
	case body[0] == '[':
		err = json.Unmarshal(body, &in)
	default:
		single = true
		in = make([]wire, 1)
		err = json.Unmarshal(body, &in[0])
	}
	if err != nil {
		detail := "resuorce is no member of an event"
		if s.fault == "vague problems" {
			detail = "something is wrong"
		}
		refuse(w, r, 400, detail)
		return
	}
	var out []map[string]string
	for _, x := range in {
		e := &event{ID: x.ID, Type: x.Type, Resource: x.Resource, Data: x.Data}
		if s.fault == "rewrites data" {
			var b bytes.Buffer
			_ = json.Compact(&b, e.Data)
			e.Data = b.Bytes()
		}
		if old := s.state.Events[e.ID]; old != nil {
			if !bytes.Equal(old.Data, e.Data) && s.fault != "no conflicts" {
				refuse(w, r, 409, "the id was used for another event")
				return
			}
			if s.fault != "delivers repeats" {
				out = append(out, map[string]string{"id": e.ID})
				continue
			}
		}
		if e.ID == "" {
			e.ID = s.id("evt_")
		}
		s.state.Events[e.ID] = e
		out = append(out, map[string]string{"id": e.ID})
		if e.Type == "task.assigned" {
			s.notifyOf(e)
			if s.fault == "only notifies" {
				continue
			}
		}
		for _, sub := range s.state.Subs {
			switch {
			case sub.Resource != "" && sub.Resource != e.Resource && s.fault != "pushes everything":
			case sub.State == "active" || s.fault == "pushes before confirmation":
				s.fanOut(e, sub)
			case s.fault == "pushes in secret before confirmation":
				s.push(sub, e, 1)
			}
		}
	}
	if single {
		answer(w, 202, out[0])
		return
	}
	answer(w, 202, out)
}

// notifyOf sends the notification that an event is to become.
func (s *standIn) notifyOf(e *event) {
	var data struct {
		Title string
		Due   struct{ Time string }
	}
	_ = json.Unmarshal(e.Data, &data)
	if s.fault == "leaves the places empty" {
		data.Due.Time = ""
	}
	if s.fault != "notifies of no event" {
		s.notify(data.Title, strings.ReplaceAll(s.template, "{{due.time}}", data.Due.Time), "nl")
	}
}

// notify has the browser show something.
func (s *standIn) notify(title, text, lang string) {
	if s.fault == "sends another text" {
		text = "Something else"
	}
	push := webpush.Push{
		Endpoint: s.device.Token, P256DH: s.device.P256DH, Auth: s.device.Auth, TTL: time.Minute, Headers: webpush.Headers{Urgency: "high"},
		Payload: fmt.Appendf(nil, `{"title":%q,"options":{"body":%q,"lang":%q}}`, title, text, lang),
	}
	go s.pushes.Send(context.Background(), "shop", s.vapid, push)
}

func (s *standIn) fanOut(e *event, sub *subscription) {
	d := &delivery{ID: s.id("dlv_"), EventID: e.ID, SubID: sub.ID, State: "pending"}
	if s.fault == "loses what it holds" {
		d.State = "in memory only"
	}
	s.state.Deliveries = append(s.state.Deliveries, d)
	go s.deliver(d)
}

func (s *standIn) deliver(d *delivery) {
	s.mu.Lock()
	sub, e := s.state.Subs[d.SubID], s.state.Events[d.EventID]
	n := len(d.Attempts)
	s.mu.Unlock()
	if sub == nil {
		return
	}
	for {
		n++
		status := s.push(sub, e, n)
		s.mu.Lock()
		d.Attempts = append(d.Attempts, map[string]any{"number": n, "time": time.Now(), "status": status, "outcome": "x"})
		if status == 200 {
			d.State = "delivered"
		}
		s.save()
		s.mu.Unlock()
		if status == 200 || n > len(sub.Waits) || s.fault == "does not retry" {
			return
		}
		wait, err := time.ParseDuration(sub.Waits[n-1])
		if err != nil {
			panic(err)
		}
		time.Sleep(wait / 10) // the demo looks at what comes, not at when: this spares each test seconds
	}
}

func (s *standIn) push(sub *subscription, e *event, attempt int) int {
	id := e.ID
	if s.fault == "new id for a retry" && attempt > 1 {
		id += "x"
	}
	if s.fault == "counts wrong" {
		attempt = 1
	}
	contentType, body := "application/json", envelope(e, id)
	if sub.Format == "application/xml" && s.fault != "pushes JSON for XML" {
		contentType, body = sub.Format, s.xml(e)
	}
	return s.send(sub, sub.URL, id, contentType, body, time.Now(), http.Header{"Herald-Attempt": {strconv.Itoa(attempt)}})
}

func envelope(e *event, id string) []byte {
	return fmt.Appendf(nil, `{"id":%q,"type":%q,"resource":%q,"data":%s}`, id, e.Type, e.Resource, e.Data)
}

// xml is the envelope as XML.
func (s *standIn) xml(e *event) []byte {
	d := json.NewDecoder(bytes.NewReader(e.Data))
	if s.fault != "XML of other numbers" {
		d.UseNumber()
	}
	var data any
	if err := d.Decode(&data); err != nil {
		panic(err)
	}
	id, typ, root := e.ID, e.Type, "record"
	switch s.fault {
	case "XML of another id":
		id = "evt_0"
	case "XML of another type":
		typ = "order.sent"
	case "XML of another root":
		root = "event"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "<%s><id>%s</id><type>%s</type><resource>%s</resource>", root, id, typ, e.Resource)
	s.element(&b, "data", data)
	fmt.Fprintf(&b, "</%s>", root)
	if s.fault == "XML that goes on" {
		b.WriteString("<record></record>")
	}
	return b.Bytes()
}

func (s *standIn) element(b *bytes.Buffer, name string, value any) {
	start, end := name, name
	if strings.Contains(name, " ") && s.fault != "XML with a forbidden name" {
		start, end = `field name="`+name+`"`, "field"
		if s.fault == "XML with a made-up name" {
			start, end = "unit_price", "unit_price"
		}
	}
	b.WriteString("<" + start + ">")
	switch v := value.(type) {
	case map[string]any:
		if s.fault == "XML with more" && name == "data" {
			b.WriteString("<more>1</more>")
		}
		for key, value := range v {
			values, many := value.([]any)
			switch {
			case s.fault == "XML with less" && key == "total":
			case many && s.fault != "XML without repeats":
				for _, x := range values {
					s.element(b, key, x)
				}
			default:
				s.element(b, key, value)
			}
		}
	case []any:
		for _, x := range v {
			s.element(b, "item", x)
		}
	case string:
		if s.fault == "ill-formed XML" {
			b.WriteString(v)
		} else if err := xml.EscapeText(b, []byte(v)); err != nil {
			panic(err)
		}
	default:
		fmt.Fprint(b, v)
	}
	b.WriteString("</" + end + ">")
}

// send signs a request, makes it, and returns the status of the answer.
func (s *standIn) send(sub *subscription, to, id, contentType string, body []byte, now time.Time, header http.Header) int {
	wh, err := standardwebhooks.NewWebhook(sub.Secret)
	if err != nil {
		panic(err)
	}
	signature, err := wh.Sign(id, now, body)
	if err != nil {
		panic(err)
	}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
	req.Header.Set("webhook-signature", signature)
	if s.fault != "forgets the token" {
		req.Header.Set("Authorization", "Bearer "+sub.Token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	_ = res.Body.Close()
	return res.StatusCode
}
