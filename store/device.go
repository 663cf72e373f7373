package store

import (
	"encoding/base32"
	"errors"
	"strings"
	"time"
)

// DeviceID names a device: its implementation's number (4 bytes), the milliseconds of its registration (6 bytes), and 6 random
// bytes. It stays the same when the device's token changes.
type DeviceID [16]byte

const devicePrefix = "dev_"

var deviceEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

// String returns "dev_" and 26 lower-case letters and digits.
func (id DeviceID) String() string {
	return devicePrefix + strings.ToLower(deviceEncoding.EncodeToString(id[:]))
}

// ParseDeviceID reads what String wrote, in exactly that form.
func ParseDeviceID(s string) (DeviceID, error) {
	text, ok := strings.CutPrefix(s, devicePrefix)
	b, err := deviceEncoding.DecodeString(strings.ToUpper(text))
	if !ok || err != nil || len(b) != 16 || DeviceID(b).String() != s {
		return DeviceID{}, errors.New("not a device id (dev_ and 26 letters and digits)")
	}
	return DeviceID(b), nil
}

// TokenKind is what the token of a device is.
type TokenKind string

// The kinds.
const (
	// TokenPlain is an FCM registration token or an APNs device token.
	TokenPlain TokenKind = "token"
	// TokenFID is a Firebase installation id.
	TokenFID TokenKind = "fid"
	// TokenWebPush is a subscription of the Push API: endpoint and keys.
	TokenWebPush TokenKind = "webpush"
)

// Token limits.
const (
	// MaxTokenLength bounds a token, and the endpoint of a web subscription, in bytes.
	MaxTokenLength = 4096
	// MaxContactLength bounds the id of a contact, in bytes.
	MaxContactLength = 256
)

// DeviceToken is where a device is reached.
type DeviceToken struct {
	Platform Platform
	Kind     TokenKind
	// Token is the token, installation id, or endpoint. With the platform it is unique within an implementation.
	Token string
	// P256DH and Auth are the keys of a web subscription: an uncompressed P-256 point of 65 bytes, and 16 bytes.
	P256DH, Auth []byte
}

// Device is a device of a contact in an implementation.
type Device struct {
	ID               DeviceID
	AccountID        string
	ImplementationID string
	// Contact is whose device it is: a phone number, an e-mail address, or any other id, as its owner writes it.
	Contact string
	DeviceToken
	// Locale is a language tag (BCP 47), such as nl-BE; "" when unknown. AppVersion is for people.
	Locale, AppVersion string
	// RegisteredAt is when this token was registered first, or registered again after it was gone, and LastSeenAt when the
	// app last registered it or a provider last took a notification for it, to the day. In UTC, with milliseconds.
	RegisteredAt, LastSeenAt time.Time
	// Proven: a provider has taken a notification for this token. OtherEnvironment: it belongs to the APNs environment that the
	// implementation does not name.
	Proven, OtherEnvironment bool
	// RestUntil is the moment before which the provider wants nothing more for this device; zero for none.
	RestUntil time.Time
}
