package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"herald/daemon/client"
)

// startFirst starts the daemon on a free port. Another program may take the port in the moment
// between finding and using it, so a daemon that ends at once is given another one.
func (t *story) startFirst(ctx context.Context) error {
	const tries = 3
	var err error
	for range tries {
		if err = t.daemon.configure(); err != nil {
			return err
		}
		if err = t.daemon.start(ctx); err == nil {
			return nil
		}
		if e := t.daemon.stop(); e != nil || ctx.Err() != nil {
			return errors.Join(err, e)
		}
	}
	return err
}

func (t *story) start(ctx context.Context) error {
	began := time.Now()
	t.out.command("herald serve --config " + t.daemon.configFile() + " &")
	if err := t.startFirst(ctx); err != nil {
		return err
	}
	took := time.Since(began)
	t.variable("HERALD", t.daemon.url)
	t.variable("SOCKET", t.daemon.socket())
	api, err := t.api(connection{})
	if err != nil {
		return err
	}
	if err := api.Ready(ctx); err != nil {
		return err
	}
	t.out.proved("ready after %s, process %d, data in %s", round(took), t.daemon.cmd.Process.Pid, t.daemon.dir)
	return nil
}

// mintToken makes a token for all but administration.
func (t *story) mintToken(ctx context.Context, name string) (client.Token, error) {
	admin, err := t.api(connection{socket: true})
	if err != nil {
		return client.Token{}, err
	}
	token, err := admin.CreateToken(ctx, client.NewToken{
		Name: name, Scopes: []string{client.ScopePublish, client.ScopeSubscribe, client.ScopeDevices, client.ScopeSend},
	})
	if err == nil && token.Secret == "" {
		err = errors.New("the answer holds no token")
	}
	return token, err
}

func (t *story) mint(ctx context.Context) error {
	token, err := t.mintToken(ctx, "demo")
	if err != nil {
		return err
	}
	t.token = token
	t.variable("TOKEN", token.Secret)
	t.out.proved("token %s has the scopes %s; Herald keeps only its hash", token.ID, strings.Join(token.Scopes, ", "))

	// The scopes are not decoration: this token may not make others.
	api, err := t.as()
	if err != nil {
		return err
	}
	_, err = api.CreateToken(ctx, client.NewToken{Name: "more", Scopes: []string{client.ScopeAdmin}})
	p, err := refused(err, http.StatusForbidden)
	if err != nil {
		return fmt.Errorf("mint a token without the admin scope: %w", err)
	}
	t.out.proved("with it no other token can be made: %d, %s", p.StatusCode, p.Detail)
	return nil
}

func (t *story) catalogue(ctx context.Context) error {
	api, err := t.as()
	if err != nil {
		return err
	}
	if _, err := api.PutResource(ctx, client.Resource{Type: "project", ID: "proj1", Name: "Relaunch"}); err != nil {
		return err
	}
	if err := api.PutResources(ctx, []client.Resource{
		{Type: "project", ID: "proj2", Name: "Archive"},
		{Type: "order", ID: "o-77", Name: "Order 77"},
	}); err != nil {
		return err
	}
	var names []string
	for r, err := range api.Resources(ctx, "project") {
		if err != nil {
			return err
		}
		names = append(names, r.Type+"/"+r.ID)
	}
	if got := strings.Join(names, " "); got != "project/proj1 project/proj2" {
		return fmt.Errorf("the projects in the catalogue are %q, not proj1 and proj2", got)
	}
	t.out.proved("the catalogue's projects: %s", strings.Join(names, ", "))
	return nil
}

// receiverToken is what the subscription tells the daemon to send, beside the signature.
const receiverToken = "demo-receiver-token"

func (t *story) input() client.SubscriptionInput {
	return client.SubscriptionInput{
		DataCallbackURL: t.receiver.url + hookPath,
		Resource:        "project/proj1",
		Events:          []string{"task.*"},
		Authentication:  &client.Authentication{Type: "bearer", Token: receiverToken},
		Delivery:        &client.DeliveryPolicy{RetrySchedule: client.Schedule{Waits: []string{"1s", "2s", "2s"}}},
	}
}

func (t *story) register(ctx context.Context, in client.SubscriptionInput) error {
	api, err := t.as()
	if err != nil {
		return err
	}
	s, err := api.CreateSubscription(ctx, in)
	if err != nil {
		return err
	}
	if s.SigningSecret == "" || s.State != client.StateActive {
		return fmt.Errorf("the new subscription is %q, and has a signing secret: %t", s.State, s.SigningSecret != "")
	}
	t.subscription = s
	return t.receiver.trust(hookPath, s.SigningSecret, "application/json", readJSON)
}

func (t *story) subscribe(ctx context.Context) error {
	if err := t.register(ctx, t.input()); err != nil {
		return err
	}
	t.variable("SUBSCRIPTION", t.subscription.ID)
	t.out.note("signing secret, told this once: %s", t.subscription.SigningSecret)
	t.out.proved("active: task.* on project/proj1 goes to %s", t.subscription.DataCallbackURL)
	return nil
}
