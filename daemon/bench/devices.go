package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"herald/daemon/standin"
)

const (
	defaultStandInLatency = 50 * time.Millisecond // about what the real ones take
	// lookups is how many contacts are asked for their devices, one after the other.
	lookups        = 1000
	benchApp       = "bench"
	notifiedText   = "Your parcel is on its way and will be with you between two and four this afternoon; follow it in the app."
	maxConnections = 4 // of an implementation to a provider
)

// Devices is what registering and notifying devices came to.
type Devices struct {
	Devices      int64        `json:"devices"`
	Latency      float64      `json:"standInLatency"` // how long a stand-in takes to answer, in milliseconds
	Registration Registration `json:"registration"`
	// Lookup is GET /contacts/{id}/devices of one caller, over HTTP.
	Lookup     Latency         `json:"lookup"`
	Idle       Memory          `json:"idle"`
	Registered Memory          `json:"registered"`
	Providers  []*Notification `json:"providers"`
	After      Memory          `json:"after"`
	Faults     []string        `json:"faults,omitempty"` // what the stand-ins found wrong with requests
}

// Registration is the load of POST /messages/{deviceType}, one device to a request.
type Registration struct {
	Seconds      float64  `json:"seconds"`
	PerSecond    float64  `json:"perSecond"`
	Ack          Latency  `json:"ack"`
	CPUPerDevice *float64 `json:"cpuPerDevice,omitempty"` // of the daemon, microseconds
	OthersCores  *float64 `json:"othersCores,omitempty"`
}

// Notification is what notifying one device with each message came to, through one provider. The stretches count notifications as events;
// end to end is from the request to the arrival at the stand-in.
type Notification struct {
	Provider string `json:"provider"`
	Devices  int64  `json:"devices"`
	Condition
	Connections int   `json:"connections"` // that the stand-in has seen, before a kill
	Kill        *Kill `json:"kill,omitempty"`
}

// standInLatency is how long the stand-ins of the providers take.
func (c *Command) standInLatency() time.Duration {
	if c.ReceiverLatency > 0 {
		return c.ReceiverLatency
	}
	return defaultStandInLatency
}

// provider is a stand-in of a push provider, and the devices that are reached through it.
type provider struct {
	name, platform string
	latency        time.Duration
	devices        int64
	book           atomic.Pointer[ledger]

	received, verified, corrupted, alien atomic.Int64

	close       func()
	connections func() int
	faults      func() []string
	url         string
	ca          []byte
	credentials any                           // those that the stand-in takes, as they stand in an implementation
	token       func(n int64) ([]byte, error) // of a device, as JSON
	vapid       []byte                        // the public key that browsers subscribe with
}

type providers []*provider

// openProviders starts the stand-ins in this process, as the receivers are, and writes the certificates that the daemon is to trust.
func openProviders(latency time.Duration, caFile string) (_ providers, err error) {
	var list providers
	defer func() {
		if err != nil {
			list.close()
		}
	}()
	for _, open := range []func(*provider) error{openFCM, openAPNs, openWebPush} {
		p := &provider{latency: latency}
		if err := open(p); err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	var ca []byte
	for _, p := range list {
		ca = append(ca, p.ca...)
	}
	if err := os.WriteFile(caFile, ca, 0o600); err != nil {
		return nil, fmt.Errorf("write the certificates of the stand-ins: %w", err)
	}
	return list, nil
}

func (list providers) close() {
	for _, p := range list {
		p.close()
	}
}

// settings are the lines of the daemon's configuration that lead to the stand-ins.
func (list providers) settings() []string {
	if len(list) == 0 {
		return nil
	}
	lines := []string{"providers:"}
	for _, p := range list {
		lines = append(lines, "  "+p.name+":", "    url: "+p.url)
	}
	return lines
}

func openFCM(p *provider) error {
	s, err := standin.NewFCM(standin.FCMOptions{Latency: p.latency, Received: func(r standin.FCMRequest) { p.take(r.Body, func() []byte { return r.Body }) }})
	if err != nil {
		return fmt.Errorf("open the stand-in of FCM: %w", err)
	}
	p.name, p.platform, p.url, p.ca = "fcm", "android", s.URL(), s.CA()
	p.close, p.connections, p.faults = s.Close, s.Connections, s.Faults
	var account map[string]any
	if err := json.Unmarshal(s.ServiceAccount(), &account); err != nil {
		s.Close()
		return fmt.Errorf("read the key of the stand-in of FCM: %w", err)
	}
	account["token_uri"] = "https://oauth2.googleapis.com/token" // as in every real key; the configured URL stands for it
	p.credentials = map[string]any{"serviceAccount": account}
	p.token = func(n int64) ([]byte, error) { // as long as a registration token
		return fmt.Appendf(nil, `"bench-%012d:%s"`, n, strings.Repeat("APA91b", 24)), nil
	}
	return nil
}

func openAPNs(p *provider) error {
	s, err := standin.NewAPNs(standin.APNsOptions{Topic: "org.example.bench", Latency: p.latency, Received: func(r standin.APNsPush) { p.take(r.Payload, func() []byte { return r.Payload }) }})
	if err != nil {
		return fmt.Errorf("open the stand-in of APNs: %w", err)
	}
	p.name, p.platform, p.url, p.ca = "apns", "ios", s.URL(), s.CA()
	p.close, p.connections, p.faults = s.Close, func() int { return s.Stats().Connections }, s.Faults
	key := s.Key()
	p.credentials = map[string]any{
		"key": string(key.PEM), "keyId": key.KeyID, "teamId": key.TeamID, "topic": "org.example.bench", "environment": "production",
	}
	p.token = func(n int64) ([]byte, error) { return fmt.Appendf(nil, `"%064x"`, n), nil }
	return nil
}

// openWebPush starts the push service. What comes is decrypted for one push in verifyEvery, because the browser's part costs as much as the
// daemon's; the Topic tells which one it is.
func openWebPush(p *provider) error {
	var s *standin.WebPush
	var err error
	s, err = standin.NewWebPush(standin.WebPushOptions{Latency: p.latency, Opaque: true, Received: func(m standin.WebPushMessage) {
		p.take([]byte(sequenceName+m.Topic+`"`), func() []byte {
			content, _, _ := s.Decrypt(m.Endpoint, m.Body) // without it there is nothing of what was sent
			return content
		})
	}})
	if err != nil {
		return fmt.Errorf("open the stand-in of a push service: %w", err)
	}
	p.name, p.platform, p.url, p.ca = "webpush", "web", s.URL(), s.CA()
	p.close, p.connections, p.faults = s.Close, s.Connections, s.Faults
	p.credentials = map[string]any{"vapid": map[string]any{"subject": "mailto:bench@example.org"}}
	p.token = func(int64) ([]byte, error) { return s.Subscribe(p.vapid) }
	return nil
}

// take notes a notification that arrived: in which its sequence number is, and what it says, which is asked for with one in verifyEvery.
func (p *provider) take(numbered []byte, content func() []byte) {
	seq, ok := findSequence(numbered)
	if !ok {
		p.alien.Add(1)
		return
	}
	if p.received.Add(1)%verifyEvery == 1 {
		p.verified.Add(1)
		text := content()
		if n, ok := findSequence(text); !ok || n != seq || !bytes.Contains(text, []byte(notifiedText)) {
			p.corrupted.Add(1)
		}
	}
	if book := p.book.Load(); book != nil {
		// It is told right before the answer, the latency after the arrival.
		book.arrive(0, seq, book.now()-int64(p.latency), nil)
	}
}

// contact is who has the one device of that number: the number stands in its last sequenceDigits.
func (p *provider) contact(n int64) string {
	return fmt.Sprintf("bench-%s-%0*d", p.platform, sequenceDigits, n)
}

// template is a request in which numbers are written.
type template struct {
	text    []byte
	numbers []int // where the sequence number stands
	device  int   // where that of the device stands
}

// newTemplate makes the request of a head and a body in which numbers are zeros, that of the device as it ends the text given for it.
func newTemplate(head, body, device string) *template {
	zeros := strings.Repeat("0", sequenceDigits)
	text := fmt.Sprintf("%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", head, len(body), body)
	t := &template{text: []byte(text), device: strings.Index(text, device) + len(device) - sequenceDigits}
	for at := 0; ; at += sequenceDigits {
		i := strings.Index(text[at:], zeros)
		if i < 0 {
			return t
		}
		if at += i; at != t.device {
			t.numbers = append(t.numbers, at)
		}
	}
}

func (t *template) append(b []byte, seq, device int64) []byte {
	begin := len(b)
	b = append(b, t.text...)
	for _, at := range t.numbers {
		putSequence(b[begin+at:], seq)
	}
	putSequence(b[begin+t.device:], device)
	return b
}

// head begins a request.
func (s *requestShape) head(path string) string {
	return "POST " + path + " HTTP/1.1\r\nHost: " + s.host + "\r\nAuthorization: Bearer " + s.token + "\r\n"
}

// message composes POST /messages for one contact after the other, of which each has one device.
func (p *provider) message(shape requestShape, keys string) compose {
	zeros := strings.Repeat("0", sequenceDigits)
	contact := p.contact(0)
	body := fmt.Sprintf(`{"implementationId":%q,"routeeContactId":%q,"body":{"title":{"en":"On its way"},"text":{"en":%q}},"data":{%s%s"},"collapseKey":%q,"ttl":86400}`,
		benchApp, contact, notifiedText, sequenceName, zeros, zeros)
	head := shape.head("/messages")
	once := newTemplate(head, body, contact)
	again := newTemplate(head+"Idempotency-Key: "+keys+zeros+"\r\n", body, contact)
	return func(b []byte, seq int64, keyed bool) []byte {
		t := once
		if keyed {
			t = again
		}
		return t.append(b, seq, seq%p.devices)
	}
}

// stageDevices registers devices, looks contacts up, and notifies through each provider.
func (r *run) stageDevices(ctx context.Context, report *ScenarioReport) (err error) {
	d := &Devices{Devices: r.Devices, Latency: millis(r.standInLatency())}
	report.Devices = d
	r.ownIDs = "bench-" + strings.ToLower(rand.Text()[:8]) + "-"
	if d.Idle, err = r.memory(ctx); err != nil {
		return err
	}
	report.IdleRSS = d.Idle.RSS
	if err := r.implement(ctx); err != nil {
		return err
	}
	if err := r.register(ctx, &d.Registration); err != nil {
		return fmt.Errorf("registering devices: %w", err)
	}
	if d.Lookup, err = r.lookUp(ctx); err != nil {
		return fmt.Errorf("looking devices up: %w", err)
	}
	if d.Registered, err = r.memory(ctx); err != nil {
		return err
	}
	for n, p := range r.providers {
		through, err := r.notify(ctx, p, n == len(r.providers)-1)
		if err != nil {
			return fmt.Errorf("notifying through %s: %w", p.name, err)
		}
		d.Providers = append(d.Providers, through)
	}
	if d.After, err = r.memory(ctx); err != nil {
		return err
	}
	for _, p := range r.providers {
		for _, fault := range p.faults() {
			d.Faults = append(d.Faults, p.name+": "+fault)
		}
		r.found.Verified += p.verified.Load()
		r.found.Corrupted += p.corrupted.Load()
		r.found.Alien += p.alien.Load()
	}
	report.Findings, report.Deliveries = r.found, r.delivered
	return nil
}

// implement creates an implementation with the credentials of all providers.
func (r *run) implement(ctx context.Context) error {
	wishes := map[string]any{"id": benchApp, "name": "Bench"}
	for _, p := range r.providers {
		wishes[p.platform] = p.credentials
	}
	body, err := json.Marshal(wishes)
	if err != nil {
		return err
	}
	var made struct {
		Web struct {
			VAPID struct {
				PublicKey string `json:"publicKey"`
			} `json:"vapid"`
		} `json:"web"`
	}
	if err := r.server.call(ctx, http.MethodPost, r.server.api("/implementations"), bytes.NewReader(body), &made); err != nil {
		return err
	}
	key, err := base64.RawURLEncoding.DecodeString(made.Web.VAPID.PublicKey)
	if err != nil {
		return fmt.Errorf("POST /implementations: the public key of web push: %w", err)
	}
	for n, p := range r.providers {
		p.vapid = key
		// As many to each, and what is left over to the first ones.
		p.devices = (r.Devices + int64(len(r.providers)-1-n)) / int64(len(r.providers))
	}
	return nil
}

// register registers the devices, one in a request, those of the providers in turn.
func (r *run) register(ctx context.Context, to *Registration) error {
	r.progress.say("making tokens")
	tokens := make([][]byte, r.Devices)
	var group errgroup
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	group.fail = cancel
	for n, p := range r.providers {
		group.run(func() (err error) {
			for i := int64(n); i < r.Devices && err == nil && ctx.Err() == nil; i += int64(len(r.providers)) {
				tokens[i], err = p.token(i / int64(len(r.providers)))
			}
			return err
		})
	}
	if err := group.wait(); err != nil {
		return err
	}
	l := r.newLoad(nil)
	l.base, l.events, l.rate, l.duration, l.success = 0, r.Devices, 0, 0, http.StatusOK
	l.compose = func(b []byte, n int64, _ bool) []byte {
		p := r.providers[n%int64(len(r.providers))]
		contact := p.contact(n / int64(len(r.providers)))
		const id, token = `{"implementationId":"` + benchApp + `","routeeContactId":"`, `","token":`
		b = fmt.Appendf(b, "%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", l.shape.head("/messages/"+p.platform),
			len(id)+len(contact)+len(token)+len(tokens[n])+1)
		b = append(append(append(b, id...), contact...), token...)
		return append(append(b, tokens[n]...), '}')
	}
	r.progress.say("registering devices")
	before, err := r.sample(ctx)
	if err != nil {
		return err
	}
	sent, err := l.run(ctx)
	if err != nil {
		return err
	}
	after, err := r.sample(ctx)
	if err != nil {
		return err
	}
	*to = Registration{
		Seconds: sent.elapsed.Seconds(), PerSecond: float64(sent.issued) / sent.elapsed.Seconds(), Ack: l.acks.latency(),
		CPUPerDevice: per(int64(before.daemon.CPU), int64(after.daemon.CPU), float64(sent.issued)*float64(time.Microsecond)),
		OthersCores:  othersOf(before, after),
	}
	return nil
}

// lookUp asks for the devices of contacts all over the file, one after the other.
func (r *run) lookUp(ctx context.Context) (Latency, error) {
	r.progress.say("looking devices up")
	var h histogram
	c := &connection{addr: r.server.addr}
	defer c.close()
	for n := range min(int64(lookups), r.Devices) {
		n = n * r.Devices / min(lookups, r.Devices)
		p := r.providers[n%int64(len(r.providers))]
		contact := p.contact(n / int64(len(r.providers)))
		request := fmt.Appendf(nil, "GET /contacts/%s/devices HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", contact, r.server.addr, r.server.token)
		begin := time.Now()
		m, err := c.do(ctx, request)
		if err != nil {
			return Latency{}, err
		}
		h.add(time.Since(begin))
		if id, rest, ok := nextID(m.body); m.status != http.StatusOK || !ok || len(id) == 0 || !bytes.Contains(m.body, []byte(contact)) {
			return Latency{}, fmt.Errorf("%w: contact %s has other devices than its one: %d %s", ErrWrong, contact, m.status, excerpt(m.body))
		} else if _, _, more := nextID(rest); more {
			return Latency{}, fmt.Errorf("%w: contact %s has more than its one device: %s", ErrWrong, contact, excerpt(m.body))
		}
	}
	return h.latency(), nil
}

// notify measures notifications through one provider; the last one is profiled, if that was asked for.
func (r *run) notify(ctx context.Context, p *provider, last bool) (_ *Notification, err error) {
	n := &Notification{Provider: p.name, Devices: p.devices}
	r.aim = p
	defer func() { r.aim = nil }()
	if r.WarmUp > 0 {
		if err := r.warmUp(ctx); err != nil {
			return nil, err
		}
	}
	if n.Condition, err = r.condition(ctx, p.name, last, nil); err != nil {
		return nil, err
	}
	n.Connections = p.connections()
	if r.Kill {
		if n.Kill, err = r.killed(ctx, 0); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// problem returns what is wrong with the daemon, or nil. Slowness is not: the figures tell it; and what did not come is in the
// findings.
func (d *Devices) problem() error {
	if len(d.Faults) > 0 {
		return fmt.Errorf("%w: the stand-ins were sent what the provider would refuse: %s", ErrWrong, strings.Join(d.Faults, "; "))
	}
	for _, n := range d.Providers {
		if n.Connections > maxConnections {
			return fmt.Errorf("%w: %d connections to %s instead of %d at most", ErrWrong, n.Connections, n.Provider, maxConnections)
		}
	}
	return nil
}

func (d *Devices) rows(row func(...string)) {
	g := &d.Registration
	row("devices", strconv.FormatInt(d.Devices, 10), fmt.Sprintf("registered in %s s; the stand-ins take %s ms to answer", number(g.Seconds, 1), number(d.Latency, 0)))
	row("registered/s", number(g.PerSecond, 0), fmt.Sprintf("asked 5000 at least; p50 %s, p99 %s ms; %s µs of the daemon's CPU each; others %s",
		number(g.Ack.P50, 2), number(g.Ack.P99, 2), optional(g.CPUPerDevice, 1), optional(g.OthersCores, 2)))
	row("looked up, ms", number(d.Lookup.P50, 2), fmt.Sprintf("p50, p99 %s: the devices of one contact over HTTP, asked 1 at most", number(d.Lookup.P99, 2)))
	row()
	stretchHead(row)
	for _, n := range d.Providers {
		n.rows(row, n.Provider)
		if n.Kill != nil {
			n.Kill.Stretch.row(row, n.Provider+", killed")
		}
	}
	row("", "notifications are the events here, to one device each; asked 5000/s at full speed")
	row()
	for _, n := range d.Providers {
		row("connections", strconv.Itoa(n.Connections), fmt.Sprintf("to %s, asked %d at most", n.Provider, maxConnections))
		n.Kill.rows(row)
	}
	row()
	row("memory, MiB", "resident", "anonymous", "files", "peak", "heap in use", "on disk")
	d.Idle.row(row, "idle")
	d.Registered.row(row, "registered")
	d.After.row(row, "after all")
}
