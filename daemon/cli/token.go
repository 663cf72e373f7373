package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"herald/daemon/client"
)

// Token is the command token with its subcommands.
type Token struct {
	Create TokenCreate `cmd:"" help:"Mint an access token and print it, once."`
	List   TokenList   `cmd:"" help:"List access tokens (never the secrets)."`
	Revoke TokenRevoke `cmd:"" help:"Revoke access tokens; they are refused from that moment on."`
}

// TokenCreate is the command token create.
type TokenCreate struct {
	Name    string   `placeholder:"NAME" help:"What the token is for, for people."`
	Scope   []string `required:"" short:"s" placeholder:"SCOPE" enum:"publish,subscribe,devices,send,admin" help:"What it may do; repeat for several: publish (events, resources), subscribe (subscriptions, deliveries), devices, send, admin (everything, for every account)."`
	Expires string   `placeholder:"WHEN" help:"When it ends: an age such as 90d or 12h, or a date such as 2027-01-31. Without it, never."`
	JSON    bool     `name:"json" help:"Print the whole answer as JSON."`
	Remote
}

// Help is shown below the summary.
func (TokenCreate) Help() string {
	return `The token goes to standard output, everything else to standard error, so that a script can catch it. It is shown this one time: Herald keeps only a hash.

Examples:

    herald token create --name ci --scope publish --scope subscribe --expires 90d

    TOKEN=$(herald token create --account default --name shop --scope publish)

    HERALD_URL=https://push.example.com HERALD_TOKEN=… herald token create --scope admin

Several tokens may be valid at once: to replace one, create the new, switch over, then 'herald token revoke' the old.`
}

// Run mints the token.
func (c TokenCreate) Run(ctx context.Context, s Streams, v Version) error {
	expires, err := parseExpiry(c.Expires, time.Now())
	if err != nil {
		return Usage(fmt.Errorf("--expires %s: %w", c.Expires, err))
	}
	api, err := c.client(s, v.Number)
	if err != nil {
		return err
	}
	defer api.Close()
	t, err := api.CreateToken(ctx, client.NewToken{AccountID: c.Account, Name: c.Name, Scopes: c.Scope, ExpiresAt: expires})
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.Stdout, t)
	}
	if _, err := fmt.Fprintln(s.Stdout, t.Secret); err != nil {
		return err
	}
	ends := "never"
	if !t.ExpiresAt.IsZero() {
		ends = moment(t.ExpiresAt)
	}
	_, err = fmt.Fprintf(s.Stderr, `
This is the token. It cannot be shown again: keep it where secrets are kept.

  id       %s
  account  %s
  scopes   %s
  expires  %s

Send it as a header:    Authorization: Bearer <token>
For herald's commands:  export HERALD_TOKEN=<token>
To take it back:        herald token revoke %s
`, printable(t.ID), printable(t.AccountID), strings.Join(t.Scopes, ", "), ends, printable(t.ID))
	return err
}

// parseExpiry reads an age, in Go's notation or in whole days or weeks, or a date, which means the
// end of that day in UTC, or a time. Empty means never, the zero time.
func parseExpiry(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	const want = "not an age such as 90d or 12h, a date such as 2027-01-31, or a time such as 2027-01-31T12:00:00Z"
	at, err := time.Parse(time.RFC3339, text)
	if err == nil {
		return future(at, now)
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return future(day.AddDate(0, 0, 1), now)
	}
	age, ok := parseAge(text)
	if !ok {
		return time.Time{}, errors.New(want)
	}
	return future(now.Add(age), now)
}

// parseAge reads a duration in Go's notation, or in whole days or weeks.
func parseAge(text string) (time.Duration, bool) {
	for suffix, unit := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if digits, ok := strings.CutSuffix(text, suffix); ok {
			n, err := strconv.ParseUint(digits, 10, 16)
			return time.Duration(n) * unit, err == nil
		}
	}
	age, err := time.ParseDuration(text)
	return age, err == nil
}

func future(at, now time.Time) (time.Time, error) {
	if !at.After(now) {
		return time.Time{}, errors.New("that is not in the future")
	}
	return at.UTC().Truncate(time.Second), nil
}

// TokenList is the command token list.
type TokenList struct {
	JSON bool `name:"json" help:"Print a JSON array."`
	Remote
}

// Help is shown below the summary.
func (TokenList) Help() string {
	return `The secrets are not listed: Herald does not have them. The id is what 'herald token revoke' takes.

Examples:

    herald token list

    herald token list --json | jq -r '.[] | select(.scopes | index("admin")) | .id'`
}

// Run prints the tokens.
func (c TokenList) Run(ctx context.Context, s Streams, v Version) error {
	api, err := c.client(s, v.Number)
	if err != nil {
		return err
	}
	defer api.Close()
	tokens := []client.Token{}
	for t, err := range api.Tokens(ctx) {
		if err != nil {
			return err
		}
		tokens = append(tokens, t)
	}
	if c.JSON {
		return printJSON(s.Stdout, tokens)
	}
	if len(tokens) == 0 {
		_, err := fmt.Fprintln(s.Stderr, "no tokens yet: make one with `herald token create --scope publish`")
		return err
	}
	rows := make([][]string, len(tokens))
	for i, t := range tokens {
		expires := moment(t.ExpiresAt)
		if expires == "" {
			expires = "never"
		}
		rows[i] = []string{t.ID, t.AccountID, t.Name, strings.Join(t.Scopes, ","), moment(t.CreatedAt), expires}
	}
	return s.table(s.Stdout, []string{"ID", "ACCOUNT", "NAME", "SCOPES", "CREATED", "EXPIRES"}, rows)
}

// TokenRevoke is the command token revoke.
type TokenRevoke struct {
	IDs []string `arg:"" name:"id" help:"Ids of tokens, as 'herald token list' shows them (not the tokens themselves)."`
	Remote
}

// Help is shown below the summary.
func (TokenRevoke) Help() string {
	return `Requests with a revoked token are answered 401 from that moment on. Subscriptions and queued deliveries are not touched: they belong to the account.

Example:

    herald token revoke tok_01abc`
}

// Run revokes one token after the other. It goes on after one that is not there, so that the rest of
// a list is revoked in any case, and fails in the end.
func (c TokenRevoke) Run(ctx context.Context, s Streams, v Version) error {
	// A pasted token would end up in the URL, and with it in the logs of every proxy on the way.
	for i, id := range c.IDs {
		if strings.HasPrefix(id, "hrld_") {
			return Usage(fmt.Errorf("argument %d is a token, not the id of one; `herald token list` shows the ids", i+1))
		}
	}
	api, err := c.client(s, v.Number)
	if err != nil {
		return err
	}
	defer api.Close()
	var failures []error
	for _, id := range c.IDs {
		err := api.DeleteToken(ctx, id)
		if p, ok := errors.AsType[*client.Problem](err); ok && p.StatusCode == http.StatusNotFound {
			failures = append(failures, fmt.Errorf("there is no token with the id %s; `herald token list` shows those there are", printable(id)))
			continue
		}
		if err != nil {
			return errors.Join(append(failures, err)...)
		}
		if _, err := fmt.Fprintf(s.Stdout, "revoked %s\n", printable(id)); err != nil {
			return err
		}
	}
	return errors.Join(failures...)
}
