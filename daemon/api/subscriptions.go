package api

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"herald/queue"
	"herald/store"
)

// subscriptionView is a subscription as a read shows it: what was given, without the secrets.
type subscriptionView struct {
	ID               string          `json:"id"`
	DataCallbackURL  string          `json:"dataCallbackURL,omitempty"`
	Notification     *templateView   `json:"notification,omitempty"`
	ValidationURL    string          `json:"validationCallbackURL,omitempty"`
	Validation       string          `json:"validation,omitempty"`
	ExportFormat     string          `json:"exportFormat,omitempty"`
	NumberOfRecords  int             `json:"numberOfRecords,omitzero"`
	MaxWaitSeconds   *float64        `json:"maxWaitSeconds,omitempty"`
	Resource         string          `json:"resource,omitempty"`
	Events           []string        `json:"events,omitempty"`
	Filter           jsontext.Value  `json:"filter,omitempty"`
	Payload          string          `json:"payload,omitempty"`
	Method           string          `json:"method,omitempty"`
	Authentication   *authView       `json:"authentication,omitempty"`
	Delivery         *deliveryPolicy `json:"delivery,omitempty"`
	ClientCert       any             `json:"clientCertificate,omitzero"`
	MessageSignature bool            `json:"messageSignature,omitzero"`
	SigningSecretSet bool            `json:"signingSecretSet"`
	SignatureScheme  string          `json:"signatureScheme,omitempty"`
	PublicKeys       []string        `json:"signingPublicKeys,omitempty"`
	SigningSecret    string          `json:"signingSecret,omitempty"`
	State            string          `json:"state"`
	StateReason      string          `json:"stateReason,omitempty"`
	StateSince       time.Time       `json:"stateSince"`
	AllowedRate      int             `json:"allowedRatePerMinute,omitzero"`
	CreatedAt        time.Time       `json:"createdAt"`
	UpdatedAt        time.Time       `json:"updatedAt"`
}

type authView struct {
	Type            store.AuthType `json:"type"`
	Username        string         `json:"username,omitempty"`
	Name            string         `json:"name,omitempty"`
	TokenURL        string         `json:"tokenURL,omitempty"`
	ClientID        string         `json:"clientId,omitempty"`
	Scopes          []string       `json:"scopes,omitempty"`
	TokenSet        bool           `json:"tokenSet,omitzero"`
	PasswordSet     bool           `json:"passwordSet,omitzero"`
	ValueSet        bool           `json:"valueSet,omitzero"`
	ClientSecretSet bool           `json:"clientSecretSet,omitzero"`
}

// templateView is what notification an event becomes.
type templateView struct {
	Implementation string `json:"implementationId"`
	ContactID      string `json:"routeeContactId"`
	notificationView
}

func viewSubscription(s *store.Subscription) subscriptionView {
	v := subscriptionView{
		ID:              s.ID.String(),
		DataCallbackURL: s.DataCallbackURL, ValidationURL: s.ValidationCallbackURL,
		Validation: string(s.ValidationKind),
		Resource:   s.Resource, Events: s.Events, Delivery: viewPolicy(&s.Delivery),
		ClientCert:       viewClientCertificate(&s.ClientCertificate),
		MessageSignature: s.MessageSignature,
		SigningSecretSet: len(s.SigningSecrets) > 0, SignatureScheme: shownScheme(s.SigningSecrets),
		PublicKeys: publicKeys(s.SigningSecrets, time.Now()),
		State:      string(s.State), StateReason: s.StateReason, StateSince: s.StateSince.UTC(),
		CreatedAt: s.CreatedAt.UTC(), UpdatedAt: s.UpdatedAt.UTC(),
	}
	if t := s.Notification; t != nil {
		v.Notification = &templateView{t.ImplementationID, t.Contact, viewNotification(&t.Notification)}
	} else {
		wait := s.MaxWait.Seconds()
		v.ExportFormat, v.NumberOfRecords, v.MaxWaitSeconds = s.ExportFormat, s.NumberOfRecords, &wait
		v.Payload, v.Method = string(s.Payload), s.Method
	}
	if a := s.Authentication; a.Type != store.AuthNone {
		v.Authentication = &authView{
			Type: a.Type, Username: a.Username, Name: a.Name,
			TokenURL: a.TokenURL, ClientID: a.ClientID, Scopes: strings.Fields(a.Scopes),
			TokenSet: a.Token != "", PasswordSet: a.Password != "", ValueSet: a.Value != "", ClientSecretSet: a.ClientSecret != "",
		}
	}
	if s.Validated() { // for another URL nothing is permitted yet
		v.AllowedRate = s.AllowedRate()
	}
	if s.Filter != nil {
		v.Filter = jsontext.Value(s.Filter.Text())
	}
	return v
}

func (a *API) listSubscriptions(c *call) error {
	var fs faults
	q := c.r.URL.Query()
	limit := limitOf(q, &fs, 0)
	var after store.SubscriptionID
	if s := q.Get("after"); s != "" {
		var err error
		if after, err = store.ParseSubscriptionID(s); err != nil {
			fs.add("after", "is %s", err.Error())
		}
	}
	if err := fs.err(); err != nil {
		return err
	}
	view := viewOf(func(s **store.Subscription) subscriptionView { return viewSubscription(*s) })
	return stream(c, q, limit, func(last **store.Subscription, n int) ([]*store.Subscription, error) {
		if last != nil {
			after = (*last).ID
		}
		return a.store.Subscriptions(c.r.Context(), c.account.ID, after, n)
	}, func(s **store.Subscription) string { return (*s).ID.String() }, view)
}

// subscription finds the subscription of the path, if it is the account's.
func (c *call) subscription() (*store.Subscription, error) {
	id, err := store.ParseSubscriptionID(c.r.PathValue("subscription"))
	if err != nil {
		return nil, errNoSubscription()
	}
	s, err := c.api.store.Subscription(c.r.Context(), id)
	// A lane of an implementation is nobody's subscription.
	if errors.Is(err, store.ErrNotFound) || err == nil && (s.AccountID != c.account.ID || s.Role != store.RoleNone) {
		return nil, errNoSubscription()
	}
	return s, err
}

func errNoSubscription() *problem {
	return newProblem(notFound, "there is no such subscription of this account; GET /subscriptions lists those there are")
}

func (a *API) readSubscription(c *call) error {
	s, err := c.subscription()
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, viewSubscription(s))
}

func (a *API) createSubscription(c *call) error {
	in, err := c.readSubscriptionInput(typeJSON)
	if err != nil {
		return err
	}
	now := a.moment()
	s := defaultSubscription()
	if s.ID, err = store.NewSubscriptionID(); err != nil {
		return err
	}
	s.AccountID, s.CreatedAt, s.UpdatedAt, s.StateSince = c.account.ID, now, now, now
	s.State = store.StateActive
	made, err := a.apply(c.r.Context(), in, creating, nil, s)
	if err != nil {
		return err
	}
	if err := c.mayNotify(nil, s); err != nil {
		return err
	}
	c.validateNew(s, now)
	switch err := a.store.CreateSubscription(c.r.Context(), s, c.settings.MaxSubscriptionsPerAccount); {
	case errors.Is(err, store.ErrLimit):
		return newProblem(conflict, "the account has %d subscriptions, as many as it may have; delete one, or ask the operator for more (subscriptions.max_per_account)",
			c.settings.MaxSubscriptionsPerAccount)
	case errors.Is(err, store.ErrNotFound):
		return newProblem(notFound, "the account %s was deleted", c.account.ID)
	case err != nil:
		return err
	}
	a.changed(s.ID)
	v := viewSubscription(s)
	v.SigningSecret = made
	c.Header().Set("Location", "/subscriptions/"+v.ID)
	return c.answer(http.StatusOK, v)
}

func (a *API) replaceSubscription(c *call) error {
	return a.rewriteSubscription(c, replacing, typeJSON)
}

func (a *API) patchSubscription(c *call) error {
	return a.rewriteSubscription(c, patching, typeMergePatch, typeJSON)
}

// rewriteSubscription is PUT and PATCH. What has to be looked up is judged before the store's step,
// everything else once more within it, on the subscription as it is then.
func (a *API) rewriteSubscription(c *call, how mode, types ...string) error {
	current, err := c.subscription()
	if err != nil {
		return err
	}
	in, err := c.readSubscriptionInput(types...)
	if err != nil {
		return err
	}
	ctx, next := c.r.Context(), startingPoint(how, current)
	if _, err := a.apply(ctx, in, how, current, next); err != nil {
		return err
	}
	if err := c.mayNotify(current, next); err != nil {
		return err
	}
	return a.update(c, current.ID, func(s *store.Subscription) error {
		next := startingPoint(how, s)
		// The catalogue has been asked above; the store must not be called from within its own step.
		if _, err := a.applyUnchecked(in, how, s, next); err != nil {
			return err
		}
		if next.DataCallbackURL != s.DataCallbackURL || next.Method != s.Method || next.Authentication != s.Authentication ||
			!sameCertificate(&next.ClientCertificate, &s.ClientCertificate) || !sameTemplate(next, s) {
			forgetHealth(next)
		}
		if next.Delivery.OnDisabled != s.Delivery.OnDisabled {
			policy := effective(&next.Delivery, &c.settings.Policy)
			next.Discarding = next.State == store.StateDisabled && policy.OnDisabled == store.OnDisabledDiscard
		}
		c.validateChange(s, next, a.moment())
		*s = *next
		return nil
	})
}

// mayNotify lets nobody have notifications sent who may not send them.
func (c *call) mayNotify(current, next *store.Subscription) error {
	if next.Notification == nil || current != nil && sameTemplate(current, next) || c.token.Has(store.ScopeSend) {
		return nil
	}
	return lacking([]store.Scope{store.ScopeSend})
}

func sameTemplate(a, b *store.Subscription) bool {
	return reflect.DeepEqual(a.Notification, b.Notification)
}

// forgetHealth is for a subscription whose past says nothing of its future. What is still to be told of
// the past is kept.
func forgetHealth(s *store.Subscription) {
	s.Health = store.Health{Notice: s.Health.Notice, NoticeAt: s.Health.NoticeAt}
}

// startingPoint is what absent members leave: for PATCH what is there, for PUT the defaults and what
// is there of secrets and of what a caller does not set.
func startingPoint(how mode, current *store.Subscription) *store.Subscription {
	c := current.Clone()
	if how == patching {
		return c
	}
	d := defaultSubscription()
	d.ID, d.AccountID, d.CreatedAt, d.UpdatedAt = c.ID, c.AccountID, c.CreatedAt, c.UpdatedAt
	d.State, d.StateReason, d.StateSince = c.State, c.StateReason, c.StateSince
	d.Discarding, d.Health, d.Validation = c.Discarding, c.Health, c.Validation
	d.Authentication, d.SigningSecrets = c.Authentication, c.SigningSecrets
	if c.ClientCertificate.Chain != "" { // with its key; Herald's own is no secret of the subscription
		d.ClientCertificate = c.ClientCertificate
	}
	return d
}

// update changes a subscription of the account and answers with it.
func (a *API) update(c *call, id store.SubscriptionID, change func(*store.Subscription) error) error {
	s, err := a.change(c, id, change)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, viewSubscription(s))
}

// errDiscardFirst stops a change that would let flow what is to be discarded.
var errDiscardFirst = errors.New("what waits is to be discarded first")

// change changes a subscription as one step, and tells the daemon. The id comes from call.subscription,
// which has checked whose it is; that never changes.
//
// Before a subscription stops discarding, what has come for it until then is given up in the queue, whether
// or not the dispatcher has got to it: nothing of it may flow afterwards.
func (a *API) change(c *call, id store.SubscriptionID, change func(*store.Subscription) error) (*store.Subscription, error) {
	return a.changeIn(c.r.Context(), id, change)
}

// changeIn is change for what is no call.
func (a *API) changeIn(ctx context.Context, id store.SubscriptionID, change func(*store.Subscription) error) (*store.Subscription, error) {
	now, discarded := a.moment(), false
	step := func(s *store.Subscription) error {
		discarding := s.Discarding
		if err := change(s); err != nil {
			return err
		}
		if discarding && !s.Discarding && !discarded {
			return errDiscardFirst
		}
		s.UpdatedAt = now
		return nil
	}
	s, err := a.store.UpdateSubscription(ctx, id, step)
	if errors.Is(err, errDiscardFirst) {
		// A lane that is gone is that of a subscription deleted meanwhile, as the store is about to say.
		if err := a.queue.Discard(ctx, queue.Lane(id), queue.ReasonDisabled); err != nil && !errors.Is(err, queue.ErrGone) {
			return nil, err
		}
		discarded = true
		s, err = a.store.UpdateSubscription(ctx, id, step)
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil, errNoSubscription()
	}
	if err != nil {
		return nil, err
	}
	a.changed(s.ID)
	return s, nil
}

func (a *API) deleteSubscription(c *call) error {
	s, err := c.subscription()
	if err != nil {
		return err
	}
	err = a.store.DeleteSubscription(c.r.Context(), c.account.ID, s.ID)
	if errors.Is(err, store.ErrNotFound) {
		return errNoSubscription()
	}
	if err != nil {
		return err
	}
	a.dropLanes(c.r.Context(), []store.SubscriptionID{s.ID})
	return c.empty()
}

// enabledType is the type of the operational event of a subscription that was enabled.
const enabledType = reservedPrefix + "subscription.enabled"

// enableSubscription makes a subscription active, and takes back what is held against its receiver: whoever
// enables it, also while it is active, says that it is worth another try.
func (a *API) enableSubscription(c *call) error {
	s, err := c.subscription()
	if err != nil {
		return err
	}
	if s.State != store.StatePending && !s.Discarding {
		// What was tried before and is held has a time of its own, which may be far. Before it flows, all of it is due.
		if err := a.queue.Hasten(c.r.Context(), queue.Lane(s.ID)); err != nil {
			return err
		}
	}
	now, enabled := a.moment(), false
	s, err = a.change(c, s.ID, func(s *store.Subscription) error {
		enabled = false // the step may be taken over again
		switch s.State {
		case store.StatePending:
			if c.mustValidate(s) {
				return newProblem(conflict, "the subscription waits for its confirmation; it becomes active with it")
			}
			s.EndValidation() // the operator no longer asks for it
			activate(s, now)
			enabled = true
		case store.StatePaused, store.StateDisabled:
			s.State, s.StateReason, s.StateSince = c.resumed(s, now), "", now
			s.Discarding, enabled = false, s.State == store.StateActive
		case store.StateActive:
		}
		forgetHealth(s)
		return nil
	})
	if err != nil {
		return err
	}
	if enabled {
		a.operational(c.r.Context(), s, enabledType)
	}
	return c.answer(http.StatusOK, viewSubscription(s))
}

// reasonOwner is the reason of a subscription that was paused through the API.
const reasonOwner = "owner"

func (a *API) pauseSubscription(c *call) error {
	s, err := c.subscription()
	if err != nil {
		return err
	}
	now := a.moment()
	return a.update(c, s.ID, func(s *store.Subscription) error {
		switch s.State {
		case store.StatePending:
			return newProblem(conflict, "the subscription waits for its confirmation; nothing is pushed to it yet")
		case store.StateDisabled:
			return newProblem(conflict, "the subscription is disabled (%s) and gets nothing until it is enabled", s.StateReason)
		case store.StateActive:
			s.State, s.StateReason, s.StateSince = store.StatePaused, reasonOwner, now
		case store.StatePaused:
		}
		return nil
	})
}

const (
	// secretOverlap is how long a replaced signing secret goes on signing.
	secretOverlap = 24 * time.Hour
	// maxSecrets bounds the secrets in force, because each adds a signature to every push.
	maxSecrets = 5
)

// secretView has the secret to verify with, or the public keys of the key pairs in force.
type secretView struct {
	SigningSecret     string   `json:"signingSecret,omitempty"`
	SigningPublicKeys []string `json:"signingPublicKeys,omitempty"`
}

// errNoPush refuses what is for pushes.
func errNoPush() *problem {
	return newProblem(conflict, "the subscription notifies devices, and pushes nothing that a receiver could confirm or verify")
}

// rotateSecret puts a new signing secret of the same scheme in force beside those there are.
func (a *API) rotateSecret(c *call) error {
	s, err := c.subscription()
	if err != nil {
		return err
	}
	now, text := a.moment(), ""
	s, err = a.change(c, s.ID, func(s *store.Subscription) error {
		if s.Notification != nil {
			return errNoPush()
		}
		var secret store.SigningSecret
		secret, text = newSigningSecret(schemeOf(s.SigningSecrets) == asymmetricScheme)
		list := []store.SigningSecret{secret}
		for _, old := range s.SigningSecrets {
			if old.ExpiresAt.IsZero() {
				old.ExpiresAt = now.Add(secretOverlap)
			}
			if now.Before(old.ExpiresAt) {
				list = append(list, old)
			}
		}
		if len(list) > maxSecrets {
			return newProblem(conflict, "%d signing secrets are in force already; the oldest expires at %s", maxSecrets,
				list[len(list)-1].ExpiresAt.Format(time.RFC3339))
		}
		s.SigningSecrets = list
		return nil
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, secretView{text, publicKeys(s.SigningSecrets, now)})
}

// pingSubscription accepts a test event for this subscription alone.
func (a *API) pingSubscription(c *call) error {
	s, err := c.subscription()
	if err != nil {
		return err
	}
	id := s.ID.String()
	receipts, err := a.queue.Accept(c.r.Context(), []queue.Submission{{
		Event: queue.Event{
			AccountID: s.AccountID, Type: store.PingType, Time: a.now().UTC(),
			Data: []byte(`{"subscriptionId":"` + id + `"}`),
		},
		Lanes: []queue.Lane{queue.Lane(s.ID)},
	}})
	if err != nil {
		return err
	}
	return c.answer(http.StatusAccepted, idView{receipts[0].ID})
}

type idView struct {
	ID string `json:"id"`
}

// apply reads the input over next and judges all of it. It returns the signing secret that was
// generated, or "".
func (a *API) apply(ctx context.Context, in *node, how mode, current, next *store.Subscription) (string, error) {
	var fs faults
	p := &subscriptionInput{fields: object(in, "", &fs), faults: &fs, how: how, current: current, next: next, decode: a.decoder(ctx)}
	p.read()
	if p.refusal != nil {
		return "", p.refusal
	}
	if p.urlChanged() {
		if u, err := url.Parse(next.DataCallbackURL); err == nil {
			if err := a.checkURL(u); err != nil {
				fs.add("dataCallbackURL", "must be an address that pushes may go to; it is refused: %s", err.Error())
			}
		}
	}
	if p.validationURLChanged() {
		if u, err := url.Parse(next.ValidationCallbackURL); err == nil {
			if err := a.checkURL(u); err != nil {
				fs.add("validationCallbackURL", "must be an address that pushes may go to; it is refused: %s", err.Error())
			}
		}
	}
	if p.tokenURLChanged() {
		if u, err := url.Parse(next.Authentication.TokenURL); err == nil {
			if err := a.checkURL(u); err != nil {
				fs.add("/authentication/tokenURL", "must be an address that calls may go to; it is refused: %s", err.Error())
			}
		}
	}
	if p.implementationChanged() {
		_, err := a.store.Implementation(ctx, next.AccountID, next.Notification.ImplementationID)
		if errors.Is(err, store.ErrNotFound) {
			fs.add("/notification/implementationId", "there is no implementation %s; GET /implementations lists those there are", show(next.Notification.ImplementationID))
		} else if err != nil {
			return "", err
		}
	}
	if p.resourceChanged() {
		if err := a.checkSelector(ctx, next, &fs); err != nil {
			return "", err
		}
	}
	return p.generated, fs.err()
}

// applyUnchecked is apply without what asks others.
func (a *API) applyUnchecked(in *node, how mode, current, next *store.Subscription) (string, error) {
	var fs faults
	p := &subscriptionInput{fields: object(in, "", &fs), faults: &fs, how: how, current: current, next: next}
	p.read()
	return p.generated, fs.err()
}

// checkSelector looks the resource selector up in the catalogue.
func (a *API) checkSelector(ctx context.Context, s *store.Subscription, fs *faults) error {
	if kind, ok := strings.CutSuffix(s.Resource, "/*"); ok {
		has, err := a.store.HasResourceType(ctx, s.AccountID, kind)
		if err == nil && !has {
			fs.add("resource", "there is no resource of the type %s in the catalogue; the publisher adds them with PUT /resources", kind)
		}
		return err
	}
	key, err := store.ParseResource(s.Resource)
	if err != nil {
		return nil //nolint:nilerr // the fault was noted when the field was read
	}
	_, err = a.store.Resource(ctx, s.AccountID, key)
	if errors.Is(err, store.ErrNotFound) {
		fs.add("resource", "there is no resource %s in the catalogue; GET /resources lists those there are, and the publisher adds to them", key)
		return nil
	}
	return err
}
