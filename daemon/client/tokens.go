package client

import (
	"context"
	"iter"
	"net/http"
	"time"
)

// The scopes of an access token.
const (
	// ScopePublish: publish and read events, keep the catalogue of resources.
	ScopePublish = "publish"
	// ScopeSubscribe: manage the account's subscriptions and deliveries, read events and resources.
	ScopeSubscribe = "subscribe"
	// ScopeDevices: register, list and delete devices, read implementations.
	ScopeDevices = "devices"
	// ScopeSend: send notifications, manage implementations, read devices.
	ScopeSend = "send"
	// ScopeAdmin: all of it, for any account, and accounts and tokens.
	ScopeAdmin = "admin"
)

// Scopes lists every scope, in the order of the documentation.
func Scopes() []string {
	return []string{ScopePublish, ScopeSubscribe, ScopeDevices, ScopeSend, ScopeAdmin}
}

// Token is an access token of an account.
type Token struct {
	// ID names the token for listing and revoking; it is no secret.
	ID        string `json:"id"`
	AccountID string `json:"accountId"`
	// Name is for people.
	Name   string   `json:"name"`
	Scopes []string `json:"scopes"`
	// CreatedAt is in UTC; so is ExpiresAt, which is zero when the token does not expire.
	CreatedAt time.Time `json:"createdAt,omitzero"`
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
	// Secret is the token itself. It is set by CreateToken only: the daemon keeps no more than a hash.
	Secret string `json:"token,omitempty"`
}

// NewToken says what token to mint.
type NewToken struct {
	// AccountID is whose token it is; empty means the account the client acts for.
	AccountID string `json:"accountId,omitempty"`
	// Name is for people, at most 200 characters.
	Name string `json:"name"`
	// Scopes is what the token may do; at least one.
	Scopes []string `json:"scopes"`
	// ExpiresAt is when it stops being valid; zero means never.
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
}

// CreateToken mints a token and returns it with its Secret, which cannot be had again; needs the
// admin scope, as all calls on tokens do.
func (c *Client) CreateToken(ctx context.Context, t NewToken) (Token, error) {
	if !t.ExpiresAt.IsZero() {
		t.ExpiresAt = t.ExpiresAt.UTC()
	}
	var out Token
	err := c.submit(ctx, http.MethodPost, "/tokens", t, &out)
	return out, err
}

// Tokens lists tokens without their secrets, ascending by id.
func (c *Client) Tokens(ctx context.Context) iter.Seq2[Token, error] {
	return list[Token](ctx, c, "/tokens", nil)
}

// DeleteToken revokes a token: it is refused from this moment on.
func (c *Client) DeleteToken(ctx context.Context, id string) error {
	path, err := join("/tokens", id)
	if err != nil {
		return err
	}
	return c.call(ctx, request{method: http.MethodDelete, path: path}, nil)
}
