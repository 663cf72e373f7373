package api

import (
	"context"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"time"

	"herald/queue"
	"herald/store"
)

// The media types of forms.
const (
	typeForm      = "application/x-www-form-urlencoded"
	typeMultipart = "multipart/form-data"
)

// mustValidate says whether the receiver of a subscription has to confirm it: because it names a URL to ask at, or a kind that needs
// none, or because the operator wants it of all. Devices are no receivers.
func (c *call) mustValidate(s *store.Subscription) bool {
	return s.Notification == nil && (s.ValidationCallbackURL != "" || s.ValidationKind == store.ValidationCloudEvents || c.settings.ValidationRequired)
}

// validateNew makes a new subscription pending if it has to be validated.
func (c *call) validateNew(s *store.Subscription, now time.Time) {
	if c.mustValidate(s) {
		s.State = store.StatePending
		s.BeginValidation(now)
	}
}

// validateChange decides what a change of a subscription means for its validation. Confirmed are hosts, so one that takes the
// place of a confirmed one has to confirm first, and one that was confirmed before need not again. A path is no
// other receiver; but a record under way goes to the new one, with a signature for it. Permitted is the whole URL, and another kind
// of validation is to be had anew.
func (c *call) validateChange(before, next *store.Subscription, now time.Time) {
	if !c.mustValidate(next) {
		next.EndValidation()
		activate(next, now)
		return
	}
	asked := before.ValidationCallbackURL == "" && next.ValidationCallbackURL != ""
	moved := next.DataCallbackURL != before.DataCallbackURL || next.ValidationURL() != before.ValidationURL() ||
		next.ValidationKind != before.ValidationKind
	switch {
	case next.Validated():
		if moved || asked {
			next.EndValidation()
			activate(next, now)
		}
	case asked || next.Vouched() != before.Vouched():
		if next.State == store.StateActive {
			next.State, next.StateReason, next.StateSince = store.StatePending, "", now
		}
		next.BeginValidation(now)
	case moved && (next.State == store.StatePending || !next.Validation.NextAt.IsZero()):
		next.BeginValidation(now)
	}
}

// activate makes a pending subscription active.
func activate(s *store.Subscription, now time.Time) {
	if s.State == store.StatePending {
		s.State, s.StateReason, s.StateSince = store.StateActive, "", now
	}
}

// resumed is the state of a subscription that is enabled: one whose hosts were changed while it was stopped has still to be
// confirmed.
func (c *call) resumed(s *store.Subscription, now time.Time) store.State {
	if !c.mustValidate(s) || s.Validated() || len(s.Validation.Secret) == 0 {
		return store.StateActive
	}
	if !now.Before(s.Validation.ExpiresAt) {
		s.BeginValidation(now)
	}
	return store.StatePending
}

// validationView is how a validation record under way fares.
type validationView struct {
	ExpiresAt     time.Time `json:"expiresAt"`
	Attempts      int       `json:"attempts"`
	NextAttemptAt time.Time `json:"nextAttemptAt,omitzero"`
	LastError     string    `json:"lastError,omitempty"`
}

// viewValidation shows the record under way; nil for none.
func viewValidation(v *store.Validation) *validationView {
	if v.ExpiresAt.IsZero() {
		return nil
	}
	return &validationView{shown(v.ExpiresAt), v.Attempts, shown(v.NextAt), v.LastError}
}

// requestValidation sends a new validation record, whatever the state of the subscription. That is left as it is: an active one
// goes on until its hosts change.
func (a *API) requestValidation(c *call) error {
	s, err := c.subscription()
	if err != nil {
		return err
	}
	now := a.moment()
	s, err = a.change(c, s.ID, func(s *store.Subscription) error {
		if s.Notification != nil {
			return errNoPush()
		}
		s.BeginValidation(now)
		return nil
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusAccepted, viewValidation(&s.Validation))
}

// confirmSubscription takes the confirmation of a receiver. It needs no access token: that the signature is known is what shows
// that the record has arrived.
func (a *API) confirmSubscription(c *call) error {
	id, err := store.ParseSubscriptionID(c.r.PathValue("subscription"))
	if err != nil {
		return errNoneToConfirm()
	}
	signature, err := c.readSignature()
	if err != nil {
		return err
	}
	s, err := a.store.Subscription(c.r.Context(), id)
	if errors.Is(err, store.ErrNotFound) || err == nil && s.Role != store.RoleNone {
		return errNoneToConfirm()
	}
	if err != nil {
		return err
	}
	now := a.moment()
	// Anyone may call this, so what is forged must not get as far as the writer, nor what changes nothing.
	if err := confirmed(s, store.ValidationConfirmation, signature, now); err != nil {
		return err
	}
	if settled(s) {
		return c.empty()
	}
	_, err = a.validated(c.r.Context(), s, func(s *store.Subscription) error {
		if err := confirmed(s, store.ValidationConfirmation, signature, now); err != nil {
			return err
		}
		s.Confirm(now)
		return nil
	})
	if err != nil {
		return err
	}
	return c.empty()
}

// confirmed says whether the signature is one of the subscription and was made for that kind of validation.
func confirmed(s *store.Subscription, kind store.ValidationKind, signature string, now time.Time) error {
	if s.ValidationKind != kind || !s.CheckValidation(signature, now) {
		return errWrongSignature()
	}
	return nil
}

// settled says that a validation changes nothing, because the last one was for the subscription as it is.
func settled(s *store.Subscription) bool {
	return s.State != store.StatePending && s.Validated() && s.Validation.ExpiresAt.IsZero()
}

// validated writes down that the receiver of a subscription, read before, has agreed to it. step does so, having judged once more
// what there is by then.
func (a *API) validated(ctx context.Context, s *store.Subscription, step func(*store.Subscription) error) (*store.Subscription, error) {
	if s.State == store.StatePending {
		// What was tried at a host there was before may have been told to wait for long. It flows with the rest.
		if err := a.queue.Hasten(ctx, queue.Lane(s.ID)); err != nil {
			return nil, err
		}
	}
	s, err := a.changeIn(ctx, s.ID, step)
	if p, ok := errors.AsType[*problem](err); ok && p.kind == notFound {
		return nil, errNoneToConfirm()
	}
	return s, err
}

// permissionView answers a receiver that grants permission.
type permissionView struct {
	State       string `json:"state"`
	AllowedRate int    `json:"allowedRatePerMinute,omitzero"`
}

// permitSubscription takes the permission of a receiver that grants it at the callback URL ("HTTP 1.1 Web Hooks for Event Delivery",
// section 4.1.3), which both GET and POST do there: a person may open the URL in a browser. As with a confirmation the signature is the
// proof. HEAD, which no receiver uses and what looks at links does, answers as GET would and grants nothing. What a body says is nobody's
// business, because the specification gives it no meaning; nor does it give one to WebHook-Allowed-Origin here.
func (a *API) permitSubscription(c *call) error {
	id, err := store.ParseSubscriptionID(c.r.PathValue("subscription"))
	if err != nil {
		return errNoneToConfirm()
	}
	signature := c.r.URL.Query().Get(signatureName)
	if signature == "" {
		var fs faults
		fs.add(signatureName, "is needed: the one of WebHook-Request-Callback, as a query parameter")
		return fs.err()
	}
	s, err := a.store.Subscription(c.r.Context(), id)
	if errors.Is(err, store.ErrNotFound) || err == nil && s.Role != store.RoleNone {
		return errNoneToConfirm()
	}
	if err != nil {
		return err
	}
	now := a.moment()
	if err := confirmed(s, store.ValidationCloudEvents, signature, now); err != nil {
		return err
	}
	rate, err := store.ParseAllowedRate(c.r.Header[store.HeaderAllowedRate], s.RequestRate())
	if err != nil {
		return newProblem(badRequest, "%s", err.Error())
	}
	known := settled(s) && s.Validation.AllowedRate == rate
	if c.r.Method != http.MethodHead && !known {
		s, err = a.validated(c.r.Context(), s, func(s *store.Subscription) error {
			if err := confirmed(s, store.ValidationCloudEvents, signature, now); err != nil {
				return err
			}
			s.Permit(a.origin(), rate, now)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return c.answer(http.StatusOK, permissionView{string(s.State), s.AllowedRate()})
}

// errNotAsked says that a permission is not for what is asked now.
var errNotAsked = errors.New("the request for permission is no longer the one under way")

// Grant notes that the receiver of a subscription, as that was when it was asked, permits pushes in its answer: to the origin, at the
// rate (pushes a minute, 0 for no limit). It does nothing when the subscription is gone, has become another, or was permitted
// meanwhile. An error is that of an engine.
func (a *API) Grant(ctx context.Context, asked *store.Subscription, origin string, rate int) error {
	s, err := a.store.Subscription(ctx, asked.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	now := a.moment()
	_, err = a.validated(ctx, s, func(s *store.Subscription) error {
		if s.Validation.NextAt.IsZero() || !s.Validation.ExpiresAt.Equal(asked.Validation.ExpiresAt) || s.Vouched() != asked.Vouched() {
			return errNotAsked
		}
		s.Permit(origin, rate, now)
		return nil
	})
	if p, ok := errors.AsType[*problem](err); errors.Is(err, errNotAsked) || ok && p.kind == notFound {
		return nil
	}
	return err
}

func errNoneToConfirm() *problem {
	return newProblem(notFound, "there is no such subscription; it may have been deleted since the confirmation was asked for")
}

func errWrongSignature() *problem {
	return newProblem(forbidden, "signature: it is not one of this subscription as it is now, or it has expired; "+
		"the owner of the subscription has a new one sent with POST /subscriptions/{id}/validation")
}

const (
	// maxConfirmation bounds the body of a call that anyone may make; the signature has some 60 bytes.
	maxConfirmation = 16 << 10
	signatureName   = "signature"
	// recordURLName is the other member of a validation record, let pass so that a record may be sent back whole.
	recordURLName = "confirmationURL"
)

// readSignature finds the signature: a query parameter, a field of a form, or a member of a JSON object.
func (c *call) readSignature() (string, error) {
	limited := *c.settings
	limited.BodyBytes = min(limited.BodyBytes, maxConfirmation)
	c.settings = &limited
	var found []string
	if s := c.r.URL.Query().Get(signatureName); s != "" {
		found = append(found, s)
	}
	inBody, err := c.signatureInBody()
	if err != nil {
		return "", err
	}
	if inBody != "" {
		found = append(found, inBody)
	}
	if len(found) == 0 {
		var fs faults
		fs.add(signatureName, "is needed: the one of the validation record, as a field of a form, a member of a JSON object, or a query parameter")
		return "", fs.err()
	}
	if found[0] != found[len(found)-1] {
		var fs faults
		fs.add(signatureName, "is one in the query and another in the body; give it once")
		return "", fs.err()
	}
	return found[0], nil
}

// signatureInBody reads the body, if there is one; "" means that it holds no signature.
func (c *call) signatureInBody() (string, error) {
	got, err := c.readSome(typeJSON, typeForm, typeMultipart)
	if got == "" || err != nil {
		return "", err
	}
	var fs faults
	if got == typeJSON {
		n, err := c.parse()
		if err != nil {
			return "", err
		}
		f := object(n, "", &fs)
		s, is := f.text(signatureName)
		f.ignore(recordURLName)
		f.end("")
		if is == null || is == given && s == "" {
			f.fault(signatureName, "is needed: the one of the validation record")
		}
		return s, fs.err()
	}
	form, err := c.readForm(got)
	if err != nil {
		return "", err
	}
	checkValues(form, []string{signatureName, recordURLName}, "", &fs)
	return form.Get(signatureName), fs.err()
}

// readForm reads c.body as a form of that type.
func (c *call) readForm(mediaType string) (url.Values, error) {
	if mediaType == typeForm {
		form, err := url.ParseQuery(c.body.String())
		if err != nil {
			return nil, newProblem(badRequest, "the form cannot be read: fields are joined by '&', and '%%' begins an escape of two digits")
		}
		return form, nil
	}
	broken := newProblem(badRequest, "the form cannot be read: its parts do not fit its Content-Type")
	_, params, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || params["boundary"] == "" {
		return nil, broken
	}
	// The body is bounded, and with it whatever the parts hold.
	parts, form := multipart.NewReader(&c.body, params["boundary"]), url.Values{}
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return form, nil
		}
		if err != nil {
			return nil, broken
		}
		value, err := io.ReadAll(part)
		if err != nil {
			return nil, broken
		}
		form.Add(part.FormName(), string(value))
	}
}
