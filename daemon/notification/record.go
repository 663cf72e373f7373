package notification

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"herald/daemon/sender/apns"
	"herald/daemon/sender/webpush"
	"herald/queue"
	"herald/store"
)

// recordVersion is that of every record here. A newer one is refused.
const recordVersion = 1

// deviceRecord is the data of a typeDevice event: what one device gets.
type deviceRecord struct {
	Version        int            `json:"v"`
	Implementation string         `json:"i"`
	Contact        string         `json:"c,omitempty"`
	Platform       store.Platform `json:"p"`
	Provider       store.Provider `json:"s"`
	// Device is a registered one, Token one that is not.
	Device string       `json:"d,omitempty"`
	Token  *tokenRecord `json:"t,omitempty"`
	// Message is the tracking id. Without it Offset tells how many events before this one the message is: 0 for itself.
	Message string `json:"m,omitempty"`
	Offset  int    `json:"o,omitempty"`
	// Expires is when it is given up, in milliseconds of Unix time, TTL its seconds.
	Expires  int64            `json:"x"`
	TTL      int64            `json:"l"`
	Callback string           `json:"u,omitempty"`
	APNs     *apns.Headers    `json:"a,omitempty"`
	Web      *webpush.Headers `json:"w,omitempty"`
	Payload  jsontext.Value   `json:"b"`
}

type tokenRecord struct {
	Kind   store.TokenKind `json:"k"`
	Token  string          `json:"t"`
	P256DH []byte          `json:"p,omitempty"`
	Auth   []byte          `json:"a,omitempty"`
}

// messageRecord is the data of a typeMessage event. Its devices are the Devices events that follow it, or, with Contacts, those that
// follow each of its pages.
type messageRecord struct {
	Version        int            `json:"v"`
	Implementation string         `json:"i"`
	Contact        string         `json:"c,omitempty"`
	Devices        int            `json:"n,omitempty"`
	Contacts       []string       `json:"cs,omitempty"`
	Notification   jsontext.Value `json:"b,omitempty"` // as encoding/json writes a store.Notification
	SendAt         int64          `json:"at,omitempty"`
	Expires        int64          `json:"x"`
	Callback       string         `json:"u,omitempty"`
}

// pageRecord is the data of a typePage event.
type pageRecord struct {
	Version int `json:"v"`
	// Contacts is how many contacts it is about, Missing how many of them had no device, and Devices how many events follow.
	Contacts int `json:"c"`
	Missing  int `json:"m,omitempty"`
	Devices  int `json:"n"`
}

// statusRecord is the data of a TypeStatus event: what a callback URL gets.
type statusRecord struct {
	TrackingID       string              `json:"trackingId"`
	ImplementationID string              `json:"implementationId"`
	DeviceID         string              `json:"deviceId,omitempty"`
	DeviceType       store.Platform      `json:"deviceType"`
	Contact          string              `json:"routeeContactId,omitempty"`
	Status           store.MessageStatus `json:"status"`
	Date             time.Time           `json:"date"`
	Reason           string              `json:"reason,omitempty"`
	Error            string              `json:"error,omitempty"`
	ServiceMessageID string              `json:"serviceMessageId,omitempty"`
}

// encode writes a record, whose members marshal without fail.
func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("write the record of a message: %w", err)
	}
	return b, nil
}

// decode reads the record of an event.
func decode[T any](e *queue.Event, version func(*T) int) (*T, error) {
	r := new(T)
	if err := json.Unmarshal(e.Data, r); err != nil {
		return nil, fmt.Errorf("read the record of message %s: %w", e.ID, err)
	}
	if v := version(r); v != recordVersion {
		return nil, fmt.Errorf("the record of message %s has version %d; this Herald reads %d", e.ID, v, recordVersion)
	}
	return r, nil
}

func decodeDevice(e *queue.Event) (*deviceRecord, error) {
	return decode(e, func(r *deviceRecord) int { return r.Version })
}

func decodeMessage(e *queue.Event) (*messageRecord, error) {
	return decode(e, func(r *messageRecord) int { return r.Version })
}

func decodePage(e *queue.Event) (*pageRecord, error) {
	return decode(e, func(r *pageRecord) int { return r.Version })
}

// A tracking id is "msg_" and the rest of the id of the message's event, or, when the caller gave the message a key, that id itself, which
// is made of the key.
const (
	trackingPrefix = "msg_"
	eventPrefix    = "evt_"
	keyedLength    = len(trackingPrefix) + 32
)

func keyedID(accountID, key string) string {
	sum := sha256.Sum256([]byte(accountID + "\x00" + key))
	return trackingPrefix + hex.EncodeToString(sum[:16])
}

func trackingID(eventID string) string {
	if rest, ok := strings.CutPrefix(eventID, eventPrefix); ok {
		return trackingPrefix + rest
	}
	return eventID
}

// eventID returns the id of a message's event.
func eventID(trackingID string) string {
	if rest, ok := strings.CutPrefix(trackingID, trackingPrefix); ok && len(trackingID) != keyedLength {
		return eventPrefix + rest
	}
	return trackingID
}

// pageID is the id of a page of a message to many contacts.
func pageID(trackingID string, page int) string { return fmt.Sprintf("%s.%d", trackingID, page) }

// origin is the part of a callback URL that its lane goes by.
func origin(callback string) (string, error) {
	u, err := url.Parse(callback)
	if err != nil || u.Host == "" {
		return "", &store.MessageError{Field: "callbackUrl", Detail: "must be an absolute http or https URL"}
	}
	return strings.ToLower(u.Scheme + "://" + u.Host), nil
}
