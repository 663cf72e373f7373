package client

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// The types of devices.
const (
	DeviceAndroid = "android"
	DeviceIOS     = "ios"
	DeviceWeb     = "web"
)

// Device is a device of a contact, without its token.
type Device struct {
	ID               string `json:"id"`
	ContactID        string `json:"routeeContactId"`
	ImplementationID string `json:"implementationId"`
	// Type is one of the Device constants, TokenType "token", "fid" or "webpush".
	Type      string `json:"type"`
	TokenType string `json:"tokenType"`
	// TokenHint is the end of the token.
	TokenHint  string `json:"tokenHint"`
	Locale     string `json:"locale,omitempty"`
	AppVersion string `json:"appVersion,omitempty"`
	// RegisteredAt is when the token was registered first, LastSeenAt when it was last registered or reached, to the day.
	RegisteredAt time.Time `json:"registeredAt,omitzero"`
	LastSeenAt   time.Time `json:"lastSeenAt,omitzero"`
	// RestUntil is until when its provider wants nothing more for it; zero for none.
	RestUntil time.Time `json:"restUntil,omitzero"`
}

// Registration is a device of a contact to register.
type Registration struct {
	// ContactID is whose device it is, ImplementationID the app on it.
	ContactID        string
	ImplementationID string
	// Token is what the app was given: a token, or for DeviceWeb also the JSON text of a subscription of the Push API.
	Token string
	// TokenType is "fid" for a Firebase installation id, else "".
	TokenType string
	// Replaces is the token that this one succeeds, or "".
	Replaces string
	// Locale is a language tag; AppVersion is for people.
	Locale, AppVersion string
}

// MarshalJSON writes the published names.
func (r Registration) MarshalJSON() ([]byte, error) {
	return encode(struct {
		ContactID        string `json:"routeeContactId"`
		Token            string `json:"token"`
		ImplementationID string `json:"implementationId"`
		TokenType        string `json:"tokenType,omitempty"`
		Replaces         string `json:"replaces,omitempty"`
		Locale           string `json:"locale,omitempty"`
		AppVersion       string `json:"appVersion,omitempty"`
	}{r.ContactID, r.Token, r.ImplementationID, r.TokenType, r.Replaces, r.Locale, r.AppVersion})
}

// RegisterDevice registers the token of a device of that type, one of the Device constants, for a contact. Registering it again is harmless; for
// another contact it moves the device there. Needs the devices scope.
func (c *Client) RegisterDevice(ctx context.Context, deviceType string, r Registration) error {
	path, err := join("/messages", deviceType)
	if err != nil {
		return err
	}
	var out json.RawMessage // repeats the contact
	return c.submit(ctx, http.MethodPost, path, r, &out)
}

// Devices lists the devices of a contact, the newest first: those of one implementation, or of all when that is "". Needs the devices or the send
// scope, as Device does.
func (c *Client) Devices(ctx context.Context, contactID, implementationID string) iter.Seq2[Device, error] {
	path, err := join("/contacts", contactID, "devices")
	if err != nil {
		return func(yield func(Device, error) bool) { yield(Device{}, err) }
	}
	query := url.Values{}
	if implementationID != "" {
		query.Set("implementationId", implementationID)
	}
	return list[Device](ctx, c, path, query)
}

// Device returns one device.
func (c *Client) Device(ctx context.Context, id string) (Device, error) {
	var out Device
	path, err := join("/devices", id)
	if err != nil {
		return out, err
	}
	err = c.call(ctx, request{method: http.MethodGet, path: path}, &out)
	return out, err
}

// DeleteDevice removes a device; its app may register it again. Needs the devices scope.
func (c *Client) DeleteDevice(ctx context.Context, id string) error {
	path, err := join("/devices", id)
	if err != nil {
		return err
	}
	return c.call(ctx, request{method: http.MethodDelete, path: path}, nil)
}

// DeleteContact removes all devices of a contact; a Problem with status 404 when it has none. Needs the devices scope.
func (c *Client) DeleteContact(ctx context.Context, contactID string) error {
	path, err := join("/contacts", contactID)
	if err != nil {
		return err
	}
	return c.call(ctx, request{method: http.MethodDelete, path: path}, nil)
}
