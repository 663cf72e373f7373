package demo

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
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
)

// arrival is one request at the receiver.
type arrival struct {
	// id is the webhook-id, attempt the Herald-Attempt of the request.
	id      string
	attempt int
	// eventType, resource and data are those of the envelope.
	eventType string
	resource  string
	data      []byte
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

// maxBody bounds a push.
const maxBody = 1 << 20

// receiver is a webhook endpoint on the loopback interface. It knows what a subscriber knows, the
// signing secret and the token, and takes nothing that does not carry both.
type receiver struct {
	url    string
	server *http.Server
	wg     sync.WaitGroup
	served error

	mu       sync.Mutex
	webhook  *standardwebhooks.Webhook
	token    string
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
	r := &receiver{url: "http://" + l.Addr().String() + "/hook", changed: make(chan struct{})}
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

// trust tells the receiver what genuine pushes carry.
func (r *receiver) trust(secret, token string) error {
	w, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.webhook, r.token = w, token
	return nil
}

// ServeHTTP takes a push.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	a := arrival{id: req.Header.Get("webhook-id"), at: time.Now()}
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
// that the envelope is the one the signed id names.
func (r *receiver) verify(a *arrival, body []byte, req *http.Request) error {
	r.mu.Lock()
	webhook, token := r.webhook, r.token
	r.mu.Unlock()
	if webhook == nil {
		return errors.New("a push came before there was a subscription")
	}
	if err := webhook.Verify(body, req.Header); err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(req.Header.Get("Authorization")), []byte("Bearer "+token)) != 1 {
		return errors.New("the push does not carry the token the subscription was given")
	}
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
