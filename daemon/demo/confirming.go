package demo

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"herald/daemon/client"
)

// secret makes a signing secret of Standard Webhooks: 32 random bytes.
func secret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails, as its documentation says
	return "whsec_" + base64.StdEncoding.EncodeToString(b)
}

// confirm is the validation handshake, with all that must not happen before its end.
func (t *story) confirm(ctx context.Context) error {
	in := t.input()
	in.DataCallbackURL, in.ValidationCallbackURL = t.receiver.url+confirmedPath, t.receiver.url+validatePath
	in.Resource, in.Delivery = "project/proj2", nil
	// The record may be there before the answer is: with a secret of its own the receiver can verify it at once.
	in.SigningSecret = secret()
	err := errors.Join(
		t.receiver.trust(validatePath, in.SigningSecret, "application/json", readValidation),
		t.receiver.trust(confirmedPath, in.SigningSecret, "application/json", readJSON),
	)
	if err != nil {
		return err
	}
	api, err := t.as()
	if err != nil {
		return err
	}
	s, err := api.CreateSubscription(ctx, in)
	if err != nil {
		return err
	}
	if s.State != client.StatePending {
		return fmt.Errorf("the new subscription is %q, it should be %s", s.State, client.StatePending)
	}
	t.variable("SUBSCRIPTION2", s.ID)
	record, err := t.validationRecord(ctx, s.ID)
	if err != nil {
		return err
	}
	early := client.Event{Type: "task.create", Resource: in.Resource, Data: []byte(`{"title":"Too early"}`)}
	tooEarly, err := api.Publish(ctx, early)
	if err != nil {
		return err
	}
	t.accepted++
	if err := t.unwanted(ctx, tooEarly); err != nil {
		return err
	}
	// The receiver needs no access token: what proves that the record reached it is the signature.
	nobody, err := t.api(connection{})
	if err != nil {
		return err
	}
	p, err := refused(nobody.ConfirmSubscription(ctx, s.ID, "1.wrong"), http.StatusForbidden)
	if err != nil {
		return fmt.Errorf("confirm with a wrong signature: %w", err)
	}
	if s, err = api.Subscription(ctx, s.ID); err != nil {
		return err
	}
	if s.State != client.StatePending {
		return fmt.Errorf("the subscription is %q before it was confirmed, it should be %s", s.State, client.StatePending)
	}
	t.out.proved("pending: an event of now is not for it, and a wrong signature is refused: %d, %s", p.StatusCode, p.Detail)

	if err := t.sendConfirmation(ctx, record); err != nil {
		return err
	}
	if s, err = api.Subscription(ctx, s.ID); err != nil {
		return err
	}
	if s.State != client.StateActive {
		return fmt.Errorf("the subscription is %q after it was confirmed, it should be %s", s.State, client.StateActive)
	}
	data := []byte(`{"title":"In time"}`)
	id, err := api.Publish(ctx, client.Event{Type: "task.create", Resource: in.Resource, Data: data})
	if err != nil {
		return err
	}
	t.expect(id, data)
	if _, err := t.arrived(ctx, id); err != nil {
		return err
	}
	if pushed := t.receiver.at(confirmedPath, 0); len(pushed) != 1 {
		return fmt.Errorf("%d pushes came, the first of them %s; the first and only one should be %s", len(pushed), pushed[0].id, id)
	}
	t.out.proved("active: the next event arrived, verified, and it is the first push there was")
	return nil
}

// validationRecord waits for the record of a subscription, which the receiver takes only when it is signed.
func (t *story) validationRecord(ctx context.Context, id string) (*client.ValidationRecord, error) {
	var record arrival
	err := t.receiver.await(ctx, "the validation record", func(as []arrival) bool {
		i := slices.IndexFunc(as, func(a arrival) bool { return a.record != nil && a.taken() })
		if i >= 0 {
			record = as[i]
		}
		return i >= 0
	})
	if err != nil {
		return nil, err
	}
	t.out.note("pending; the receiver was sent this, and its signature verified:\n%s", record.data)
	if want := t.daemon.url + "/subscriptions/" + id + "/confirmation"; record.record.ConfirmationURL != want {
		return nil, fmt.Errorf("the confirmationURL is %s, it should be %s", record.record.ConfirmationURL, want)
	}
	return record.record, nil
}

// sendConfirmation does what a receiver does with a validation record, in a form.
func (t *story) sendConfirmation(ctx context.Context, record *client.ValidationRecord) error {
	form := url.Values{"signature": {record.Signature}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, record.ConfirmationURL, strings.NewReader(form))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := (&tracer{next: t.transport, out: t.out, names: t.names}).RoundTrip(req)
	if err != nil {
		return fmt.Errorf("confirm: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusNoContent {
		why, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
		return fmt.Errorf("the confirmation was answered %d, it should be %d: %s", res.StatusCode, http.StatusNoContent, why)
	}
	return nil
}
