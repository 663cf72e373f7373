package client

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Validation is how the handshake of a subscription fares while its receiver has still to confirm it.
type Validation struct {
	// ExpiresAt is until when the validation record can be confirmed, and is tried to be handed over.
	ExpiresAt time.Time `json:"expiresAt"`
	// Attempts is how often it was tried, NextAttemptAt when it is tried again; zero when the receiver has taken it or it
	// was given up.
	Attempts      int       `json:"attempts"`
	NextAttemptAt time.Time `json:"nextAttemptAt,omitzero"`
	// LastError says why the last attempt failed; "" when it did not.
	LastError string `json:"lastError,omitempty"`
}

// ValidationRecord is what a receiver gets at the validation URL, as JSON.
type ValidationRecord struct {
	// ConfirmationURL is where to send the Signature, as ConfirmSubscription does. The subscription's id is in it.
	ConfirmationURL string `json:"confirmationURL"`
	Signature       string `json:"signature"`
}

// RequestValidation has a new validation record sent to the subscription's validation URL, or to its data URL when it names
// none; with ValidationCloudEvents its receiver is asked for permission anew. The subscription keeps its state. Needs the subscribe scope.
func (c *Client) RequestValidation(ctx context.Context, id string) (Validation, error) {
	var out Validation
	err := c.act(ctx, id, "validation", &out)
	return out, err
}

// ConfirmSubscription confirms a subscription with the signature of its validation record, which makes a pending one active. It
// needs no access token, and may be repeated. The Problem of a wrong or expired signature has the status 403.
func (c *Client) ConfirmSubscription(ctx context.Context, id, signature string) error {
	if signature == "" {
		return errors.New("a confirmation needs the signature of the validation record")
	}
	path, err := join("/subscriptions", id, "confirmation")
	if err != nil {
		return err
	}
	return c.submit(ctx, http.MethodPost, path, struct {
		Signature string `json:"signature"`
	}{signature}, nil)
}
