// A receiver of Herald's pushes to start from; docs/receiving.md says why each step is there.
//
//	SIGNING_SECRETS=whsec_… go run ./docs/receivers/go
//
// It takes pushes in JSON with the payload "envelope" at /hook, single events and batches, and validation records at
// /validate. SIGNING_SECRETS are one or more signing secrets, with spaces between. RECEIVER_HOST and RECEIVER_PORT say where it
// listens: 127.0.0.1 and 9000, behind a proxy that speaks TLS. In a module of your own it needs one dependency:
//
//	go get github.com/standard-webhooks/standard-webhooks/libraries@v0.0.1
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	maxBody    = 8 << 20 // a batch has up to 4 MiB of data, and its envelopes
	maxWaiting = 1000    // pushes; Herald has 64 under way at once, unless told otherwise. Bound their bytes too if yours are large.
	maxKnown   = 100_000 // ids; enough for all that comes between a push and its last retry
)

// push is one that was verified and waits to be worked on.
type push struct {
	id   string
	body []byte
}

// event is a record of a push.
type event struct {
	ID   string          `json:"id"`
	Type string          `json:"type"`
	Data json.RawMessage `json:"data"`
}

type receiver struct {
	webhooks []*standardwebhooks.Webhook // one for each secret
	client   *http.Client                // confirms validations

	// What waits and what is known live in memory here, so a crash loses what was answered and not yet worked on. A real
	// receiver writes the push to its own durable store before it answers, with the id as a unique key, and works from there.
	waiting chan push
	mu      sync.Mutex
	known   map[string]bool
	oldest  []string // the ids of known, a ring
	next    int
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	r := &receiver{
		client:  &http.Client{Timeout: 5 * time.Second},
		waiting: make(chan push, maxWaiting),
		known:   make(map[string]bool),
		oldest:  make([]string, maxKnown),
	}
	for secret := range strings.FieldsSeq(os.Getenv("SIGNING_SECRETS")) {
		w, err := standardwebhooks.NewWebhook(secret)
		if err != nil || secret == "whsec_" { // with an empty key anybody could sign
			return errors.New("SIGNING_SECRETS: a secret is whsec_ and base64")
		}
		r.webhooks = append(r.webhooks, w)
	}
	if len(r.webhooks) == 0 {
		return errors.New("SIGNING_SECRETS: needed are one or more secrets (whsec_…), with spaces between")
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	address := net.JoinHostPort(cmp.Or(os.Getenv("RECEIVER_HOST"), "127.0.0.1"), cmp.Or(os.Getenv("RECEIVER_PORT"), "9000"))
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /hook", r.hook)
	mux.HandleFunc("POST /validate", r.validate)
	server := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	var wg sync.WaitGroup
	wg.Go(r.work)
	fmt.Println("listening", l.Addr())

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	// No new push is taken, those under way are answered, and what was answered is worked off.
	ending, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := server.Shutdown(ending); err != nil {
		return err
	}
	close(r.waiting)
	wg.Wait()
	return nil
}

// verified returns the body of a request that was signed with one of the secrets; any other it answers.
func (r *receiver) verified(w http.ResponseWriter, req *http.Request) (body []byte, ok bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		http.Error(w, "the body is too large", http.StatusRequestEntityTooLarge)
		return nil, false
	}
	if err != nil {
		http.Error(w, "the body did not arrive whole", http.StatusBadRequest)
		return nil, false
	}
	// The library compares in constant time and refuses timestamps more than five minutes away. It gets the body as it
	// came: the same JSON, parsed and written again, is not what was signed.
	for _, wh := range r.webhooks {
		if err = wh.Verify(body, req.Header); err == nil {
			return body, true
		}
	}
	log.Print("refused: ", err)
	http.Error(w, "the signature is wrong", http.StatusUnauthorized)
	return nil, false
}

// hook takes a push: verified, kept, answered. The work comes after.
func (r *receiver) hook(w http.ResponseWriter, req *http.Request) {
	body, ok := r.verified(w, req)
	if !ok {
		return
	}
	if !r.accept(push{req.Header.Get("webhook-id"), body}) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too much is waiting", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// accept queues a push, unless it is known: then it was taken before, and 2xx says so again. It reports false when there
// is no room; the push is not known then, so that it can come again.
func (r *receiver) accept(p push) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known[p.id] {
		return true
	}
	select {
	case r.waiting <- p:
		r.remember(p.id)
		return true
	default:
		return false
	}
}

// remember makes an id known, and forgets the oldest. The lock is held.
func (r *receiver) remember(id string) {
	delete(r.known, r.oldest[r.next])
	r.oldest[r.next], r.known[id] = id, true
	r.next = (r.next + 1) % maxKnown
}

// work is for everything that takes time or can fail: Herald has its answer already, so what fails is yours to try again.
func (r *receiver) work() {
	for p := range r.waiting {
		var body struct {
			event
			Records []event `json:"records"`
		}
		if err := json.Unmarshal(p.body, &body); err != nil {
			log.Printf("%s is not the JSON expected: %v", p.id, err)
			continue
		}
		if body.Records == nil {
			r.handle(body.event)
			continue
		}
		// A batch has an id of its own, and its records may have come in other company before.
		for _, e := range body.Records {
			r.mu.Lock()
			known := r.known[e.ID]
			if !known {
				r.remember(e.ID)
			}
			r.mu.Unlock()
			if !known {
				r.handle(e)
			}
		}
	}
}

// handle is where your own code goes. It lets types pass that it does not know.
func (r *receiver) handle(e event) {
	fmt.Println("event", e.ID, e.Type)
}

// validate confirms a subscription. The signature of the record shows that whoever made the subscription knows our secret;
// without that anyone could make us call any URL. It confirms before it answers: if that fails, the record comes again.
func (r *receiver) validate(w http.ResponseWriter, req *http.Request) {
	body, ok := r.verified(w, req)
	if !ok {
		return
	}
	if err := r.confirm(req.Context(), body); err != nil {
		log.Print("not confirmed: ", err)
		http.Error(w, "the confirmation failed", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// confirm sends the record, which has the signature in it, back to its confirmationURL.
func (r *receiver) confirm(ctx context.Context, record []byte) error {
	var m struct {
		ConfirmationURL string `json:"confirmationURL"`
	}
	if err := json.Unmarshal(record, &m); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.ConfirmationURL, bytes.NewReader(record))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close() // the status says all
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("%s answered %s", m.ConfirmationURL, resp.Status)
	}
	fmt.Println("confirmed", m.ConfirmationURL)
	return nil
}
