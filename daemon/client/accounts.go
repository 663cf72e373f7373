package client

import (
	"context"
	"iter"
	"net/http"
	"time"
)

// Account is a tenant; everything else belongs to one.
type Account struct {
	// ID is chosen when the account is created: 1 to 64 letters, digits, dots, hyphens and
	// underscores, beginning with a letter or a digit.
	ID string `json:"id"`
	// Name is for people, at most 200 characters.
	Name string `json:"name"`
	// Suspended accounts are refused by the API with 403; what is queued goes on.
	Suspended bool `json:"suspended"`
	// CreatedAt is set by the daemon.
	CreatedAt time.Time `json:"createdAt,omitzero"`
}

// AccountPatch changes parts of an account; nil members stay as they are.
type AccountPatch struct {
	Name      *string `json:"name,omitempty"`
	Suspended *bool   `json:"suspended,omitempty"`
}

// CreateAccount adds an account; needs the admin scope, as all calls on accounts do.
func (c *Client) CreateAccount(ctx context.Context, id, name string) (Account, error) {
	in := struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	}{id, name}
	var out Account
	err := c.submit(ctx, http.MethodPost, "/accounts", in, &out)
	return out, err
}

// Account returns one account.
func (c *Client) Account(ctx context.Context, id string) (Account, error) {
	var out Account
	path, err := join("/accounts", id)
	if err != nil {
		return out, err
	}
	err = c.call(ctx, request{method: http.MethodGet, path: path}, &out)
	return out, err
}

// Accounts lists all accounts, ascending by id.
func (c *Client) Accounts(ctx context.Context) iter.Seq2[Account, error] {
	return list[Account](ctx, c, "/accounts", nil)
}

// UpdateAccount changes the parts of an account that the patch sets.
func (c *Client) UpdateAccount(ctx context.Context, id string, p AccountPatch) (Account, error) {
	var out Account
	path, err := join("/accounts", id)
	if err != nil {
		return out, err
	}
	err = c.submitAs(ctx, http.MethodPatch, path, mergePatch, p, &out)
	return out, err
}

// ReplaceAccount sets both changeable parts of an account.
func (c *Client) ReplaceAccount(ctx context.Context, id, name string, suspended bool) (Account, error) {
	var out Account
	path, err := join("/accounts", id)
	if err != nil {
		return out, err
	}
	in := struct {
		Name      string `json:"name"`
		Suspended bool   `json:"suspended"`
	}{name, suspended}
	err = c.submit(ctx, http.MethodPut, path, in, &out)
	return out, err
}

// DeleteAccount removes an account with its tokens, resources and subscriptions. The account
// "default" cannot be removed: a Problem with status 409.
func (c *Client) DeleteAccount(ctx context.Context, id string) error {
	path, err := join("/accounts", id)
	if err != nil {
		return err
	}
	return c.call(ctx, request{method: http.MethodDelete, path: path}, nil)
}
