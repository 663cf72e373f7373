package store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"
)

// Platform is a kind of device.
type Platform string

// The platforms.
const (
	PlatformAndroid Platform = "android"
	PlatformIOS     Platform = "ios"
	PlatformWeb     Platform = "web"
)

// Platforms lists every platform.
func Platforms() []Platform { return []Platform{PlatformAndroid, PlatformIOS, PlatformWeb} }

// Provider is a service that hands notifications to devices.
type Provider string

// The providers.
const (
	// ProviderFCM is Firebase Cloud Messaging, HTTP v1.
	ProviderFCM Provider = "fcm"
	// ProviderAPNs is the Apple Push Notification service.
	ProviderAPNs Provider = "apns"
	// ProviderWebPush is whichever push service a browser has chosen (RFC 8030).
	ProviderWebPush Provider = "webpush"
)

// Implementation is an app of an account: the credentials its notifications are sent with. A platform without any has no
// devices. Values returned by a Store may be shared and are read-only; Clone makes one that may be changed.
type Implementation struct {
	AccountID string
	// ID is unique within the account: chosen by its owner, 1 to 64 characters of [A-Za-z0-9._-] beginning with a letter or a digit,
	// or made by NewImplementationID.
	ID string
	// UID is random and tells this implementation from one of the same id that was deleted before.
	UID [16]byte
	// Number is given by the store, and not again; it stands in the ids of its devices.
	Number uint32
	// Name is for people, at most 200 characters.
	Name                 string
	CreatedAt, UpdatedAt time.Time

	// Android sends to Android devices, and wherever a platform that goes through FCM names no key of its own.
	Android *FCM
	// IOSProvider is how iOS devices are reached: ProviderAPNs with APNs, ProviderFCM with IOSFCM or else Android, or "" not at all.
	IOSProvider Provider
	APNs        *APNs
	IOSFCM      *FCM
	// VAPID sends to the Push API subscriptions of browsers; FCM web tokens go with WebFCM or else Android. Web says that there are
	// web devices at all.
	Web    bool
	VAPID  *VAPID
	WebFCM *FCM

	// StatusSecret signs what is pushed to the callback URLs of messages (Standard Webhooks, v1).
	StatusSecret []byte
	// StatusOrigins are the origins of those URLs, each of which has a lane; at most MaxStatusOrigins.
	StatusOrigins []string
}

// MaxStatusOrigins bounds the origins of callback URLs of one implementation.
const MaxStatusOrigins = 100

// FCM is the key of a service account.
type FCM struct {
	// ProjectID and ClientEmail are no secrets; TokenURI is where tokens are asked for.
	ProjectID, ClientEmail, TokenURI string
	KeyID                            string
	// PrivateKey is the RSA key, as PKCS #8 in DER: a secret.
	PrivateKey []byte
}

// APNs is a key for signing tokens (.p8), or a certificate with its key (.p12).
type APNs struct {
	// Key is the P-256 key of KeyID and TeamID, as PKCS #8 in DER: a secret. Nil with a certificate.
	Key           []byte
	KeyID, TeamID string
	// Chain is the certificate first, as PEM, and CertificateKey its key as PKCS #8 in DER: a secret.
	Chain          string
	CertificateKey []byte
	// Topic is the bundle id of the app.
	Topic string
	// Sandbox: the development environment.
	Sandbox bool
}

// VAPID is the key pair that browsers' subscriptions are bound to (RFC 8292).
type VAPID struct {
	// PrivateKey is the scalar of the P-256 key, 32 bytes: a secret. PublicKey is the uncompressed point, 65 bytes.
	PrivateKey, PublicKey []byte
	// Subject is a mailto: or https: URI under which push services reach the sender.
	Subject string
}

// Clone returns a deep copy.
func (i *Implementation) Clone() *Implementation {
	c := *i
	c.Android, c.IOSFCM, c.WebFCM = i.Android.clone(), i.IOSFCM.clone(), i.WebFCM.clone()
	if i.APNs != nil {
		a := *i.APNs
		a.Key, a.CertificateKey = slices.Clone(a.Key), slices.Clone(a.CertificateKey)
		c.APNs = &a
	}
	if i.VAPID != nil {
		v := *i.VAPID
		v.PrivateKey, v.PublicKey = slices.Clone(v.PrivateKey), slices.Clone(v.PublicKey)
		c.VAPID = &v
	}
	c.StatusSecret, c.StatusOrigins = slices.Clone(i.StatusSecret), slices.Clone(i.StatusOrigins)
	return &c
}

func (f *FCM) clone() *FCM {
	if f == nil {
		return nil
	}
	c := *f
	c.PrivateKey = slices.Clone(f.PrivateKey)
	return &c
}

// FCM returns the key with which a platform's devices are reached through FCM, or nil.
func (i *Implementation) FCM(p Platform) *FCM {
	own := i.Android
	switch {
	case p == PlatformIOS && i.IOSProvider != ProviderFCM, p == PlatformWeb && !i.Web:
		return nil
	case p == PlatformIOS && i.IOSFCM != nil:
		own = i.IOSFCM
	case p == PlatformWeb && i.WebFCM != nil:
		own = i.WebFCM
	}
	return own
}

// Provider returns how a device of that platform and kind of token is reached; "" when the implementation has no credentials
// for it.
func (i *Implementation) Provider(p Platform, k TokenKind) Provider {
	switch {
	case p == PlatformWeb && k == TokenWebPush:
		if i.Web && i.VAPID != nil {
			return ProviderWebPush
		}
		return ""
	case p == PlatformIOS && i.IOSProvider == ProviderAPNs:
		if i.APNs != nil {
			return ProviderAPNs
		}
		return ""
	case i.FCM(p) != nil:
		return ProviderFCM
	}
	return ""
}

// LaneKind is what a lane of an implementation leads to.
type LaneKind byte

// The kinds. A platform has a lane for each provider it may be reached through at the same time.
const (
	LaneAndroid LaneKind = iota + 1
	LaneIOS
	LaneWebPush
	LaneWebFCM
	// LaneExpansion takes messages to many contacts apart.
	LaneExpansion
)

// LaneKinds lists every kind.
func LaneKinds() []LaneKind {
	return []LaneKind{LaneAndroid, LaneIOS, LaneWebPush, LaneWebFCM, LaneExpansion}
}

// String names the kind for people: the platform, and for the web the provider.
func (k LaneKind) String() string {
	switch k {
	case LaneAndroid:
		return "android"
	case LaneIOS:
		return "ios"
	case LaneWebPush:
		return "webpush"
	case LaneWebFCM:
		return "web-fcm"
	case LaneExpansion:
	}
	return "expansion"
}

// Platform returns whose devices the lane leads to; "" for LaneExpansion.
func (k LaneKind) Platform() Platform {
	switch k {
	case LaneAndroid:
		return PlatformAndroid
	case LaneIOS:
		return PlatformIOS
	case LaneWebPush, LaneWebFCM:
		return PlatformWeb
	case LaneExpansion:
	}
	return ""
}

// Lane returns what the lane of an implementation leads to; the subscription has RoleDevices or RoleExpansion.
func (s *Subscription) Lane() LaneKind { return LaneKind(s.ID[15]) }

// Lane returns the id of the lane of that kind.
func (i *Implementation) Lane(k LaneKind) SubscriptionID {
	id := SubscriptionID(i.UID)
	id[15] = byte(k)
	return id
}

// LaneOf returns the lane of devices of that platform that are reached through the provider.
func LaneOf(p Platform, by Provider) LaneKind {
	switch {
	case p == PlatformAndroid:
		return LaneAndroid
	case p == PlatformIOS:
		return LaneIOS
	case by == ProviderWebPush:
		return LaneWebPush
	}
	return LaneWebFCM
}

// NewImplementationID makes a new id: 24 hexadecimal digits, ascending in the order of creation.
func NewImplementationID() (string, error) {
	id, err := NewSubscriptionID()
	if err != nil {
		return "", fmt.Errorf("make implementation id: %w", err)
	}
	return hex.EncodeToString(id[:6]) + hex.EncodeToString(id[10:]), nil
}

// StatusLane returns the id of the lane of what is pushed to callback URLs of that origin.
func (i *Implementation) StatusLane(origin string) SubscriptionID {
	sum := sha256.Sum256(append(append([]byte("herald status lane\x00"), i.UID[:]...), origin...))
	return SubscriptionID(sum[:16])
}

// laneRetrySchedule is when a notification is tried again that a provider could not take: FCM asks for ten seconds at least and to give
// up after an hour, which this makes (3,070 seconds), growing as both FCM and APNs want it.
const laneRetrySchedule = "10s,20s,40s,80s,160s,320s,640s,900s,900s"

// Concurrency of the lanes. That of devices is how many streams a connection of a provider usually bears.
const (
	laneDeviceConcurrency    = 1000
	laneExpansionConcurrency = 4
)

// Lanes returns the lanes as they are made: one for each of LaneKinds, and one for each of StatusOrigins. None of them is ever disabled.
func (i *Implementation) Lanes() []*Subscription {
	lanes := make([]*Subscription, 0, len(LaneKinds())+len(i.StatusOrigins))
	for _, k := range LaneKinds() {
		lane := i.lane(i.Lane(k), RoleDevices)
		lane.Delivery.MaxConcurrency, lane.Delivery.RetrySchedule = laneDeviceConcurrency, laneRetrySchedule
		if k == LaneExpansion {
			lane.Role, lane.Delivery.MaxConcurrency, lane.Delivery.RetrySchedule = RoleExpansion, laneExpansionConcurrency, ""
		}
		lanes = append(lanes, lane)
	}
	for _, origin := range i.StatusOrigins {
		lane := i.lane(i.StatusLane(origin), RoleStatus)
		lane.DataCallbackURL, lane.Method, lane.ExportFormat, lane.Payload = origin, "POST", "application/json", PayloadEnvelope
		lane.SigningSecrets = i.statusSecrets()
		lanes = append(lanes, lane)
	}
	return lanes
}

// lane returns what all lanes have in common.
func (i *Implementation) lane(id SubscriptionID, role Role) *Subscription {
	return &Subscription{
		ID: id, AccountID: i.AccountID, CreatedAt: i.CreatedAt, UpdatedAt: i.CreatedAt, Role: role, ImplementationID: i.ID,
		NumberOfRecords: 1, Delivery: DeliveryPolicy{DisableAfter: DisableAfter{Set: true}}, State: StateActive, StateSince: i.CreatedAt,
	}
}

// statusSecrets returns what the pushes of the status lanes are signed with.
func (i *Implementation) statusSecrets() []SigningSecret {
	if len(i.StatusSecret) == 0 {
		return nil
	}
	return []SigningSecret{{Key: slices.Clone(i.StatusSecret)}}
}
