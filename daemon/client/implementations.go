package client

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"time"
)

// Implementation is an app of an account, as the daemon reports it: the credentials its notifications are sent with, without what is
// secret. A platform that is nil has none.
type Implementation struct {
	// ID is chosen when it is created, or made by the daemon.
	ID string `json:"id"`
	// Name is for people.
	Name    string       `json:"name"`
	Android *AndroidInfo `json:"android,omitempty"`
	IOS     *IOSInfo     `json:"ios,omitempty"`
	Web     *WebInfo     `json:"web,omitempty"`
	// Status tells how its platforms fare.
	Status []PlatformStatus `json:"status"`
	// StatusSigningSecret is what is pushed to the callback URLs of messages is signed with: returned once, when the daemon generated it.
	StatusSigningSecret string    `json:"statusSigningSecret,omitempty"`
	CreatedAt           time.Time `json:"createdAt,omitzero"`
	UpdatedAt           time.Time `json:"updatedAt,omitzero"`
}

// ServiceAccountInfo is the key of a service account, without the key. The names are those of Google's file.
type ServiceAccountInfo struct {
	ProjectID   string `json:"project_id"`
	ClientEmail string `json:"client_email"`
	KeyID       string `json:"private_key_id,omitempty"`
	TokenURI    string `json:"token_uri"`
}

// AndroidInfo says how Android devices are reached.
type AndroidInfo struct {
	ServiceAccount *ServiceAccountInfo `json:"serviceAccount"`
}

// IOSInfo says how iOS devices are reached.
type IOSInfo struct {
	// Provider is "apns" or "fcm"; the service account is that of fcm, nil for that of Android, and all else of apns.
	Provider string `json:"provider"`
	KeyID    string `json:"keyId,omitempty"`
	TeamID   string `json:"teamId,omitempty"`
	// Certificate is set when there is one in place of a key.
	Certificate *struct {
		Subject  string    `json:"subject"`
		NotAfter time.Time `json:"notAfter"`
	} `json:"certificateInfo,omitempty"`
	Topic          string              `json:"topic,omitempty"`
	Environment    string              `json:"environment,omitempty"`
	ServiceAccount *ServiceAccountInfo `json:"serviceAccount,omitempty"`
}

// WebInfo says how browsers are reached.
type WebInfo struct {
	// VAPID has the key that browsers subscribe with, as their applicationServerKey.
	VAPID struct {
		PublicKey string `json:"publicKey"`
		Subject   string `json:"subject"`
	} `json:"vapid"`
	ServiceAccount *ServiceAccountInfo `json:"serviceAccount,omitempty"`
}

// PlatformStatus is how notifications of a platform fare that go through one provider.
type PlatformStatus struct {
	// Platform is "android", "ios" or "web", Provider "fcm", "apns" or "webpush".
	Platform string `json:"platform"`
	Provider string `json:"provider"`
	// State is "active", or "suspended" since Since because of Reason: its provider does not take the credentials. What waits is
	// held, and tried again by itself at NextProbeAt.
	State       string    `json:"state"`
	Reason      string    `json:"reason,omitempty"`
	Since       time.Time `json:"since,omitzero"`
	NextProbeAt time.Time `json:"nextProbeAt,omitzero"`
	// Waiting notifications were not sent yet.
	Waiting int64 `json:"waiting"`
}

// ImplementationInput is what an implementation is made from. What is nil or "" is left out.
type ImplementationInput struct {
	// ID is 1 to 64 letters, digits, dots, hyphens and underscores, beginning with a letter or a digit; empty lets the daemon make one.
	ID string `json:"id,omitempty"`
	// Name is for people, at most 200 characters.
	Name    string        `json:"name,omitempty"`
	Android *AndroidInput `json:"android,omitempty"`
	IOS     *IOSInput     `json:"ios,omitempty"`
	Web     *WebInput     `json:"web,omitempty"`
	// StatusSigningSecret is "whsec_" and base64; empty lets the daemon generate one.
	StatusSigningSecret string `json:"statusSigningSecret,omitempty"`
}

// AndroidInput is the key for Android devices: the file of a service account, as Google gives it.
type AndroidInput struct {
	ServiceAccount json.RawMessage `json:"serviceAccount"`
}

// IOSInput is what iOS devices are reached with: Key, KeyID and TeamID, or Certificate and Password; or the Provider "fcm".
type IOSInput struct {
	Provider string `json:"provider,omitempty"`
	// Key is the text of a .p8 file.
	Key    string `json:"key,omitempty"`
	KeyID  string `json:"keyId,omitempty"`
	TeamID string `json:"teamId,omitempty"`
	// Certificate is a .p12 file, opened by Password.
	Certificate []byte `json:"certificate,omitempty"`
	Password    string `json:"password,omitempty"`
	// Topic is the bundle id of the app, Environment "production" or "sandbox".
	Topic          string          `json:"topic,omitempty"`
	Environment    string          `json:"environment,omitempty"`
	ServiceAccount json.RawMessage `json:"serviceAccount,omitempty"`
}

// WebInput is what browsers are reached with.
type WebInput struct {
	VAPID          VAPIDInput      `json:"vapid,omitzero"`
	ServiceAccount json.RawMessage `json:"serviceAccount,omitempty"`
}

// VAPIDInput is a key pair. An empty PrivateKey has one made.
type VAPIDInput struct {
	// PrivateKey is 32 bytes in base64url.
	PrivateKey string `json:"privateKey,omitempty"`
	// Subject is a mailto: or https: URI under which push services reach the sender; empty takes the operator's.
	Subject string `json:"subject,omitempty"`
	// ReplaceKey lets another key take the place of the one there is: all browsers have to subscribe again.
	ReplaceKey bool `json:"replaceKey,omitempty"`
}

// CreateImplementation adds an implementation. Needs the send scope, as all that changes one.
func (c *Client) CreateImplementation(ctx context.Context, i ImplementationInput) (Implementation, error) {
	var out Implementation
	err := c.submit(ctx, http.MethodPost, "/implementations", i, &out)
	return out, err
}

// Implementation returns one implementation. Needs the send or the devices scope.
func (c *Client) Implementation(ctx context.Context, id string) (Implementation, error) {
	var out Implementation
	path, err := join("/implementations", id)
	if err != nil {
		return out, err
	}
	err = c.call(ctx, request{method: http.MethodGet, path: path}, &out)
	return out, err
}

// Implementations lists the account's implementations, ascending by id.
func (c *Client) Implementations(ctx context.Context) iter.Seq2[Implementation, error] {
	return list[Implementation](ctx, c, "/implementations", nil)
}

// PatchImplementation changes parts of an implementation. The patch is anything that encodes as a JSON merge patch (RFC 7396), such as
// an ImplementationInput or map[string]any{"ios": nil}, which takes a platform away.
func (c *Client) PatchImplementation(ctx context.Context, id string, patch any) (Implementation, error) {
	var out Implementation
	path, err := join("/implementations", id)
	if err != nil {
		return out, err
	}
	err = c.submitAs(ctx, http.MethodPatch, path, mergePatch, patch, &out)
	return out, err
}

// DeleteImplementation removes an implementation with its devices; nothing is sent to them any more.
func (c *Client) DeleteImplementation(ctx context.Context, id string) error {
	path, err := join("/implementations", id)
	if err != nil {
		return err
	}
	return c.call(ctx, request{method: http.MethodDelete, path: path}, nil)
}
