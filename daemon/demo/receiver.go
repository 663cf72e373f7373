package demo

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"herald/daemon/client"
)

// The paths at the receiver: where the pushes of each subscription go, and the validation record of the one that has to be
// confirmed.
const (
	hookPath      = "/hook"
	xmlPath       = "/xml"
	confirmedPath = "/confirmed"
	validatePath  = "/validate"
)

// arrival is one request at the receiver.
type arrival struct {
	// id is the webhook-id, attempt the Herald-Attempt of the request.
	id      string
	attempt int
	// path is where it came to, signed the webhook-timestamp, replay whether it says that it is one.
	path   string
	signed time.Time
	replay bool
	// eventType, resource and data are those of the envelope; of a push in XML and of a validation record data is all of it.
	eventType string
	resource  string
	data      []byte
	// content is the data of a push in XML, record what a validation record says; nil in other arrivals.
	content *element
	record  *client.ValidationRecord
	// err says why the push was not accepted as genuine; nil when it was.
	err error
	// status is what was answered: 0 while the answer is withheld, broken when the sender went away
	// before there was one.
	status int
	at     time.Time
}

// broken is the status of a push whose connection ended before it was answered.
const broken = -1

// taken says whether the push was verified and taken.
func (a *arrival) taken() bool { return a.err == nil && a.status == http.StatusOK }

// hook is what the receiver knows of what comes to one path: the secret that signs it, its Content-Type, and how to read it.
type hook struct {
	webhook     *standardwebhooks.Webhook
	contentType string
	read        func(a *arrival, body []byte) error
}

// maxBody bounds a push.
const maxBody = 1 << 20

// receiver is a webhook endpoint on the loopback interface. It knows what a subscriber knows, the
// signing secret and the token, and takes nothing that does not carry both.
type receiver struct {
	url    string // without a path
	server *http.Server
	wg     sync.WaitGroup
	served error

	mu       sync.Mutex
	hooks    map[string]hook // by path
	arrivals []arrival
	changed  chan struct{} // closed and replaced with every change
	failing  int           // how many of the next pushes are answered with 500
	held     chan struct{} // while not nil, pushes wait for it to be closed
	watch    func(arrival) // called for each answered push when set
}

func newReceiver() (*receiver, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // listening on loopback does not block
	if err != nil {
		return nil, err
	}
	r := &receiver{url: "http://" + l.Addr().String(), hooks: map[string]hook{}, changed: make(chan struct{})}
	r.server = &http.Server{
		Handler:           r,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // connections of a killed daemon are part of the story
	}
	r.wg.Go(func() {
		if err := r.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			r.served = err
		}
	})
	return r, nil
}

func (r *receiver) close() error {
	err := r.server.Close()
	r.wg.Wait()
	return errors.Join(err, r.served)
}

// trust tells the receiver what comes to a path, and the secret it is signed with.
func (r *receiver) trust(path, secret, contentType string, read func(*arrival, []byte) error) error {
	w, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hooks[path] = hook{w, contentType, read}
	return nil
}

// ServeHTTP takes a push.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	a := arrival{id: req.Header.Get("webhook-id"), at: time.Now(), path: req.URL.Path, replay: req.Header.Get("Herald-Replay") == "true"}
	a.attempt, _ = strconv.Atoi(req.Header.Get("Herald-Attempt")) // 0 when it is no number, which no step expects
	if err == nil {
		err = r.verify(&a, body, req)
	}
	a.err = err

	r.mu.Lock()
	status := http.StatusOK
	switch {
	case a.err != nil:
		status = http.StatusUnauthorized
	case r.failing > 0:
		r.failing--
		status = http.StatusInternalServerError
	}
	held := r.held
	r.arrivals = append(r.arrivals, a)
	at := len(r.arrivals) - 1
	r.announce()
	r.mu.Unlock()

	if held != nil {
		select {
		case <-held:
		case <-req.Context().Done():
			r.answered(at, broken)
			return
		}
	}
	r.answered(at, status)
	w.WriteHeader(status)
}

func (r *receiver) answered(at, status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.arrivals[at].status = status
	r.announce()
	if r.watch != nil {
		r.watch(r.arrivals[at])
	}
}

// announce wakes everyone who awaits something. The lock is held.
func (r *receiver) announce() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// verify checks the signature with the library of the Standard Webhooks project, then the token, then
// that the body is what is to come here.
func (r *receiver) verify(a *arrival, body []byte, req *http.Request) error {
	r.mu.Lock()
	h, ok := r.hooks[a.path]
	r.mu.Unlock()
	if !ok {
		return fmt.Errorf("a push came to %s before there was a subscription", a.path)
	}
	if err := h.webhook.Verify(body, req.Header); err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(req.Header.Get("Authorization")), []byte("Bearer "+receiverToken)) != 1 {
		return errors.New("the push does not carry the token the subscription was given")
	}
	seconds, err := strconv.ParseInt(req.Header.Get("webhook-timestamp"), 10, 64)
	if err != nil {
		return err
	}
	a.signed = time.Unix(seconds, 0)
	if got := req.Header.Get("Content-Type"); got != h.contentType {
		return fmt.Errorf("the Content-Type is %q, the subscription asks for %s", got, h.contentType)
	}
	return h.read(a, body)
}

// readJSON reads a push in JSON. Its envelope must be the one that the signed id names.
func readJSON(a *arrival, body []byte) error {
	var envelope struct {
		ID       string          `json:"id"`
		Type     string          `json:"type"`
		Resource string          `json:"resource"`
		Data     json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &envelope); err != nil {
		return fmt.Errorf("the push is not JSON: %w", err)
	}
	if envelope.ID != a.id {
		return fmt.Errorf("the envelope's id %q is not the webhook-id %q", envelope.ID, a.id)
	}
	a.eventType, a.resource, a.data = envelope.Type, envelope.Resource, bytes.Clone(envelope.Data)
	return nil
}

// readXML reads a push in XML: one document, whose record is the envelope that the signed id names.
func readXML(a *arrival, body []byte) error {
	var record struct {
		XMLName  xml.Name `xml:"record"`
		ID       string   `xml:"id"`
		Type     string   `xml:"type"`
		Resource string   `xml:"resource"`
		Data     *element `xml:"data"`
	}
	d := xml.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&record); err != nil {
		return fmt.Errorf("the push is not XML as it should be: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("the push goes on after the end of the XML document")
	}
	if record.ID != a.id || record.Data == nil {
		return fmt.Errorf("the record's id %q is not the webhook-id %q, or it has no data", record.ID, a.id)
	}
	a.eventType, a.resource, a.data, a.content = record.Type, record.Resource, body, record.Data
	return nil
}

// readValidation reads a validation record.
func readValidation(a *arrival, body []byte) error {
	var record client.ValidationRecord
	if err := json.Unmarshal(body, &record); err != nil {
		return fmt.Errorf("the validation record is not JSON: %w", err)
	}
	if record.ConfirmationURL == "" || record.Signature == "" {
		return fmt.Errorf("the validation record lacks a confirmationURL or a signature: %s", body)
	}
	a.data, a.record = body, &record
	return nil
}

// fail makes the next n genuine pushes be answered with 500.
func (r *receiver) fail(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failing = n
}

// hold keeps every push waiting for its answer until the function returned is called.
func (r *receiver) hold() (release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := make(chan struct{})
	r.held = held
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.held = nil
		close(held)
	})
}

// follow calls f, under the receiver's lock, for each push answered from now on.
func (r *receiver) follow(f func(arrival)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watch = f
}

// all returns what has arrived so far.
func (r *receiver) all() []arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.arrivals)
}

// at returns what has arrived at a path so far, without the first ones.
func (r *receiver) at(path string, without int) []arrival {
	here := slices.DeleteFunc(r.all(), func(a arrival) bool { return a.path != path })
	return here[min(without, len(here)):]
}

// await waits until what has arrived fulfils the condition. It ends at once when a push was not
// genuine, because no later one can mend that.
func (r *receiver) await(ctx context.Context, what string, done func([]arrival) bool) error {
	for {
		r.mu.Lock()
		arrivals, changed := slices.Clone(r.arrivals), r.changed
		r.mu.Unlock()
		for i := range arrivals {
			if err := arrivals[i].err; err != nil {
				return fmt.Errorf("wait for %s: push %s was refused: %w", what, arrivals[i].id, err)
			}
		}
		if done(arrivals) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
}

// awaitTaken waits until each of the ids was delivered, and returns the deliveries in their order.
func (r *receiver) awaitTaken(ctx context.Context, ids ...string) ([]arrival, error) {
	var found []arrival
	err := r.await(ctx, fmt.Sprintf("%d push(es)", len(ids)), func(as []arrival) bool {
		found = found[:0]
		for _, id := range ids {
			i := slices.IndexFunc(as, func(a arrival) bool { return a.id == id && a.taken() })
			if i < 0 {
				return false
			}
			found = append(found, as[i])
		}
		return true
	})
	return found, err
}
