package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"time"
)

// mergePatch is the media type of RFC 7396.
const mergePatch = "application/merge-patch+json"

// The states of a subscription.
const (
	// StatePending waits for validation: it gets nothing.
	StatePending = "pending"
	// StateActive is pushed to.
	StateActive = "active"
	// StatePaused was stopped by its owner; its deliveries are held.
	StatePaused = "paused"
	// StateDisabled was stopped by the daemon; its deliveries are held until a person enables it.
	StateDisabled = "disabled"
)

// ValidationCloudEvents is the Validation of a subscription whose receiver is asked for permission by an OPTIONS request, as the
// webhook specification of CloudEvents has it (section 4).
const ValidationCloudEvents = "cloudevents"

// Subscription says who wants which events, and where, as the daemon reports it. Secrets are not in
// it, only whether they are set; the one exception is SigningSecret after CreateSubscription.
type Subscription struct {
	// ID is a UUID, version 7.
	ID string `json:"id"`
	// DataCallbackURL is where pushes go; empty when there is a Notification.
	DataCallbackURL string `json:"dataCallbackURL,omitempty"`
	// Notification is what notification an event becomes, in place of a push; nil for a push.
	Notification *NotificationTemplate `json:"notification,omitempty"`
	// ValidationCallbackURL is where the validation record goes; empty when the subscription names none.
	ValidationCallbackURL string `json:"validationCallbackURL,omitempty"`
	// Validation is ValidationCloudEvents, or "" for the confirmation of a record.
	Validation string `json:"validation,omitempty"`
	// AllowedRatePerMinute is how many pushes a minute the receiver has permitted; 0 is no limit. Only ValidationCloudEvents has one.
	AllowedRatePerMinute int `json:"allowedRatePerMinute,omitempty"`
	// ExportFormat is the media type of a push.
	ExportFormat string `json:"exportFormat"`
	// NumberOfRecords is the most records in one push.
	NumberOfRecords int `json:"numberOfRecords"`
	// MaxWaitSeconds is how long a push may wait to fill up.
	MaxWaitSeconds float64 `json:"maxWaitSeconds"`
	// Resource is "type/id", "type/*", or empty for all.
	Resource string `json:"resource,omitempty"`
	// Events are patterns of event types; empty means all.
	Events []string `json:"events,omitempty"`
	// Filter is the conditions on the data of an event; nil means all.
	Filter json.RawMessage `json:"filter,omitempty"`
	// Payload is the form of a record: "envelope", "data" or "cloudevents".
	Payload string `json:"payload"`
	// Method is the HTTP method of a push.
	Method string `json:"method"`
	// Authentication is what a push proves itself with, without the secret parts; nil for nothing.
	Authentication *AuthenticationInfo `json:"authentication,omitempty"`
	// ClientCertificate is what the TLS handshake of a push presents; nil for nothing.
	ClientCertificate *CertificateInfo `json:"clientCertificate,omitempty"`
	// MessageSignature says whether pushes are also signed with the key of Herald's certificate (RFC 9421).
	MessageSignature bool `json:"messageSignature,omitempty"`
	// SignatureScheme is SchemeAsymmetric, or "" for SchemeSymmetric.
	SignatureScheme string `json:"signatureScheme,omitempty"`
	// SigningPublicKeys are the public halves ("whpk_" and base64) of the key pairs in force, the newest first.
	SigningPublicKeys []string `json:"signingPublicKeys,omitempty"`
	// SigningSecretSet says whether pushes are signed.
	SigningSecretSet bool `json:"signingSecretSet"`
	// SigningSecret is the secret the daemon generated: returned once, by CreateSubscription, when none
	// was given.
	SigningSecret string `json:"signingSecret,omitempty"`
	// Delivery is the subscription's own policy; nil when it has none.
	Delivery *DeliveryPolicy `json:"delivery,omitempty"`
	// State is one of the State constants, since StateSince, because of StateReason.
	State       string    `json:"state"`
	StateReason string    `json:"stateReason,omitempty"`
	StateSince  time.Time `json:"stateSince,omitzero"`
	CreatedAt   time.Time `json:"createdAt,omitzero"`
	UpdatedAt   time.Time `json:"updatedAt,omitzero"`
}

// AuthenticationInfo is an Authentication without its secrets.
type AuthenticationInfo struct {
	// Type is "bearer", "basic", "header", "query" or "oauth2".
	Type string `json:"type"`
	// Username is that of basic, Name the header's or the parameter's.
	Username string `json:"username,omitempty"`
	Name     string `json:"name,omitempty"`
	// TokenURL, ClientID and Scopes are those of oauth2.
	TokenURL string   `json:"tokenURL,omitempty"`
	ClientID string   `json:"clientId,omitempty"`
	Scopes   []string `json:"scopes,omitempty"`
	// The secret part of the type is set when this is true.
	TokenSet        bool `json:"tokenSet,omitempty"`
	PasswordSet     bool `json:"passwordSet,omitempty"`
	ValueSet        bool `json:"valueSet,omitempty"`
	ClientSecretSet bool `json:"clientSecretSet,omitempty"`
}

// SubscriptionInput is what a subscription is made from. Members left at their zero value take the
// daemon's default, which the field names.
type SubscriptionInput struct {
	// DataCallbackURL is where pushes go: absolute, http or https, no user info, no fragment; required, unless there is a
	// Notification.
	DataCallbackURL string
	// Notification is what notification an event becomes, in place of a push; it excludes all that is about pushes, and needs the
	// send scope beside the subscribe scope.
	Notification *NotificationTemplate
	// ValidationCallbackURL is where the validation record goes, of the same form: the subscription is pending until its
	// receiver has confirmed it. Empty means that it is not asked to, unless the daemon requires it.
	ValidationCallbackURL string
	// Validation is ValidationCloudEvents for a subscription that is pending until its receiver permits pushes to DataCallbackURL, which
	// excludes a ValidationCallbackURL and needs the Method POST. Empty means that a record is to be confirmed, if anything is.
	Validation string
	// ExportFormat is the media type of a push, application/json or application/xml; application/json.
	ExportFormat string
	// NumberOfRecords is the most records in one push, 1 to 1000, with GET only 1; 1. With more than 1 a push
	// is always a batch.
	NumberOfRecords int
	// MaxWaitSeconds is how long a push may wait to fill up, 0 to 3600; nil means 1.
	MaxWaitSeconds *float64
	// Resource selects by what the event happened to: "type/id" or "type/*", which has to be in the
	// catalogue; empty means all events.
	Resource string
	// Events selects by type: "task.create", "task.*", "*.delete"; empty means all.
	Events []string
	// Filter selects by the data: a JSON object such as {"customer.country":"NL"}; nil means all.
	Filter json.RawMessage
	// Payload is "envelope", "data" or "cloudevents", which needs a body in JSON; envelope.
	Payload string
	// Method is POST, PUT or GET; POST.
	Method string
	// Authentication is what a push proves itself with; nil means nothing. On a replacement, absent
	// secrets are kept.
	Authentication *Authentication
	// ClientCertificate is what the TLS handshake of a push presents; it needs an https URL. Nil means nothing, and on a
	// replacement keeps a file that is set.
	ClientCertificate *Certificate
	// MessageSignature has pushes signed with the key of Herald's certificate, too.
	MessageSignature bool
	// SignatureScheme is SchemeSymmetric or SchemeAsymmetric, for a secret that the daemon generates; empty means the first.
	SignatureScheme string
	// SigningSecret is a Standard Webhooks secret ("whsec_" and base64), or a private key ("whsk_"). Empty lets the daemon generate
	// one at creation, and keeps the one there is on a replacement.
	SigningSecret string
	// Unsigned says that pushes shall not be signed; it excludes SigningSecret.
	Unsigned bool
	// Delivery overrides the configured policy; nil does not.
	Delivery *DeliveryPolicy
}

// MarshalJSON writes the members that are set. Unsigned is a signingSecret of null on the wire.
func (s SubscriptionInput) MarshalJSON() ([]byte, error) {
	if s.Unsigned && s.SigningSecret != "" {
		return nil, errors.New("an Unsigned subscription and a SigningSecret exclude each other")
	}
	var secret json.RawMessage
	if s.Unsigned {
		secret = json.RawMessage("null")
	} else if s.SigningSecret != "" {
		b, err := encode(s.SigningSecret)
		if err != nil {
			return nil, err
		}
		secret = b
	}
	return encode(struct {
		DataCallbackURL   string          `json:"dataCallbackURL,omitempty"`
		ValidationURL     string          `json:"validationCallbackURL,omitempty"`
		Validation        string          `json:"validation,omitempty"`
		ExportFormat      string          `json:"exportFormat,omitempty"`
		NumberOfRecords   int             `json:"numberOfRecords,omitempty"`
		MaxWaitSeconds    *float64        `json:"maxWaitSeconds,omitempty"`
		Resource          string          `json:"resource,omitempty"`
		Events            []string        `json:"events,omitempty"`
		Filter            json.RawMessage `json:"filter,omitempty"`
		Payload           string          `json:"payload,omitempty"`
		Method            string          `json:"method,omitempty"`
		Authentication    *Authentication `json:"authentication,omitempty"`
		ClientCertificate *Certificate    `json:"clientCertificate,omitempty"`
		MessageSignature  bool            `json:"messageSignature,omitempty"`
		SignatureScheme   string          `json:"signatureScheme,omitempty"`
		SigningSecret     json.RawMessage `json:"signingSecret,omitempty"`
		Delivery          *DeliveryPolicy `json:"delivery,omitempty"`

		Notification *NotificationTemplate `json:"notification,omitempty"`
	}{
		s.DataCallbackURL, s.ValidationCallbackURL, s.Validation, s.ExportFormat, s.NumberOfRecords, s.MaxWaitSeconds, s.Resource, s.Events, s.Filter, s.Payload,
		s.Method, s.Authentication, s.ClientCertificate, s.MessageSignature, s.SignatureScheme, secret, s.Delivery, s.Notification,
	})
}

// Authentication is what a push proves itself with. Set the members of the one type.
type Authentication struct {
	// Type is "bearer" (Token), "basic" (Username, Password), "header" or "query" (Name, Value), or "oauth2"
	// (TokenURL, ClientID, ClientSecret, and Scopes if the token is to have some).
	Type     string `json:"type"`
	Token    string `json:"token,omitempty"`
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
	Name     string `json:"name,omitempty"`
	Value    string `json:"value,omitempty"`
	// TokenURL is the token endpoint, of the same form as a callback URL. Pushes carry the access token it gives
	// for the client credentials (RFC 6749, section 4.4).
	TokenURL     string   `json:"tokenURL,omitempty"`
	ClientID     string   `json:"clientId,omitempty"`
	ClientSecret string   `json:"clientSecret,omitempty"`
	Scopes       []string `json:"scopes,omitempty"`
}

// CreateSubscription adds a subscription; the next event is already chosen for it. The signing
// secret is in the answer when the daemon generated it, and cannot be had again. Needs the subscribe
// scope, as all calls on subscriptions do.
func (c *Client) CreateSubscription(ctx context.Context, s SubscriptionInput) (Subscription, error) {
	var out Subscription
	err := c.submit(ctx, http.MethodPost, "/subscriptions", s, &out)
	return out, err
}

// Subscription returns one subscription.
func (c *Client) Subscription(ctx context.Context, id string) (Subscription, error) {
	var out Subscription
	path, err := join("/subscriptions", id)
	if err != nil {
		return out, err
	}
	err = c.call(ctx, request{method: http.MethodGet, path: path}, &out)
	return out, err
}

// Subscriptions lists the account's subscriptions in the order of their creation. The whole list is
// streamed: it may be of any length.
func (c *Client) Subscriptions(ctx context.Context) iter.Seq2[Subscription, error] {
	return list[Subscription](ctx, c, "/subscriptions", nil)
}

// ReplaceSubscription puts s in the place of the subscription: members left out go back to their
// default, secrets left out are kept. The old selection stops and the new one starts in one moment.
func (c *Client) ReplaceSubscription(ctx context.Context, id string, s SubscriptionInput) (Subscription, error) {
	var out Subscription
	path, err := join("/subscriptions", id)
	if err != nil {
		return out, err
	}
	err = c.submit(ctx, http.MethodPut, path, s, &out)
	return out, err
}

// PatchSubscription changes parts of a subscription. The patch is anything that encodes as a JSON
// merge patch (RFC 7396), such as map[string]any{"events": []string{"task.*"}}; null removes.
func (c *Client) PatchSubscription(ctx context.Context, id string, patch any) (Subscription, error) {
	var out Subscription
	path, err := join("/subscriptions", id)
	if err != nil {
		return out, err
	}
	err = c.submitAs(ctx, http.MethodPatch, path, mergePatch, patch, &out)
	return out, err
}

// DeleteSubscription removes a subscription; no push starts afterwards.
func (c *Client) DeleteSubscription(ctx context.Context, id string) error {
	path, err := join("/subscriptions", id)
	if err != nil {
		return err
	}
	return c.call(ctx, request{method: http.MethodDelete, path: path}, nil)
}

// EnableSubscription makes a paused or disabled subscription active; what was held flows. The failures of its
// receiver are forgotten, also when it is active: it is tried again at once.
func (c *Client) EnableSubscription(ctx context.Context, id string) (Subscription, error) {
	var out Subscription
	err := c.act(ctx, id, "enable", &out)
	return out, err
}

// PauseSubscription holds the subscription's deliveries until it is enabled.
func (c *Client) PauseSubscription(ctx context.Context, id string) (Subscription, error) {
	var out Subscription
	err := c.act(ctx, id, "pause", &out)
	return out, err
}

// RotateSecret gives the subscription a new signing secret and returns it. The old one signs too for
// 24 hours. With SchemeAsymmetric there is nothing secret to return: it is "", and the new public key is the first of
// the subscription's SigningPublicKeys.
func (c *Client) RotateSecret(ctx context.Context, id string) (string, error) {
	var out struct {
		SigningSecret     string   `json:"signingSecret"`
		SigningPublicKeys []string `json:"signingPublicKeys"`
	}
	if err := c.act(ctx, id, "secret", &out); err != nil {
		return "", err
	}
	if out.SigningSecret == "" && len(out.SigningPublicKeys) == 0 {
		return "", fmt.Errorf("rotate the secret of %s: the answer holds none", id)
	}
	return out.SigningSecret, nil
}

// Ping sends a test push of type herald.ping to the subscription and returns its event id. The push
// is delivered as any other; this call does not wait for it.
func (c *Client) Ping(ctx context.Context, id string) (string, error) {
	var out struct {
		ID string `json:"id"`
	}
	err := c.act(ctx, id, "ping", &out)
	return out.ID, err
}

func (c *Client) act(ctx context.Context, id, action string, out any) error {
	path, err := join("/subscriptions", id, action)
	if err != nil {
		return err
	}
	return c.call(ctx, request{method: http.MethodPost, path: path}, out)
}
