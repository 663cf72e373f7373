package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Notification is what is shown, or handed to the app. Members that are nil or zero are left out.
type Notification struct {
	Body     *NotificationBody `json:"body,omitempty"`
	ImageURL string            `json:"imageUrl,omitempty"`
	// Data is pairs for the app.
	Data    map[string]string    `json:"data,omitempty"`
	Android *AndroidOptions      `json:"android,omitempty"`
	APN     *APNOptions          `json:"apn,omitempty"`
	Web     *WebOptions          `json:"web,omitempty"`
	Actions []NotificationAction `json:"actions,omitempty"`
	// Badge is the number at the app's icon; 0 takes it away, nil leaves it.
	Badge *int   `json:"badge,omitempty"`
	Sound string `json:"sound,omitempty"`
	// Silent: nothing is shown, the app is woken.
	Silent bool `json:"silent,omitempty"`
	// TTL is how long it is kept for a device that cannot be reached, in seconds; nil is four weeks.
	TTL *int `json:"ttl,omitempty"`
	// Priority is "high" or "normal"; empty is high where something is shown.
	Priority string `json:"priority,omitempty"`
	// CollapseKey replaces what still waits with the same key.
	CollapseKey string `json:"collapseKey,omitempty"`
}

// NotificationBody is what is shown. Title and Text are each a string, or a map of strings by language tag.
type NotificationBody struct {
	Title       any    `json:"title,omitempty"`
	Text        any    `json:"text,omitempty"`
	ForceLocale string `json:"forceLocale,omitempty"`
}

// NotificationAction is a button.
type NotificationAction struct {
	ID      string `json:"id"`
	Title   string `json:"title"`
	IconURL string `json:"iconUrl,omitempty"`
}

// AndroidOptions are for Android devices alone.
type AndroidOptions struct {
	ClickAction        string   `json:"clickAction,omitempty"`
	Icon               string   `json:"icon,omitempty"`
	Color              string   `json:"color,omitempty"`
	ChannelID          string   `json:"channelId,omitempty"`
	Tag                string   `json:"tag,omitempty"`
	LocalizedTitle     string   `json:"localizedTitle,omitempty"`
	LocalizedTitleArgs []string `json:"localizedTitleArgs,omitempty"`
	LocalizedText      string   `json:"localizedText,omitempty"`
	LocalizedTextArgs  []string `json:"localizedTextArgs,omitempty"`
	TTL                *int     `json:"ttl,omitempty"`
}

// APNOptions are for iOS devices alone.
type APNOptions struct {
	LocalizedTitle     string   `json:"localizedTitle,omitempty"`
	LocalizedTitleArgs []string `json:"localizedTitleArgs,omitempty"`
	LocalizedText      string   `json:"localizedText,omitempty"`
	LocalizedTextArgs  []string `json:"localizedTextArgs,omitempty"`
	Subtitle           string   `json:"subtitle,omitempty"`
	Category           string   `json:"category,omitempty"`
	ThreadID           string   `json:"threadId,omitempty"`
	TargetContentID    string   `json:"targetContentId,omitempty"`
	InterruptionLevel  string   `json:"interruptionLevel,omitempty"`
	MutableContent     bool     `json:"mutableContent,omitempty"`
	Critical           bool     `json:"critical,omitempty"`
	Volume             *float64 `json:"volume,omitempty"`
	RelevanceScore     *float64 `json:"relevanceScore,omitempty"`
	TTL                *int     `json:"ttl,omitempty"`
}

// WebOptions are for browsers alone.
type WebOptions struct {
	IconURL            string `json:"iconUrl,omitempty"`
	TargetURL          string `json:"targetUrl,omitempty"`
	BadgeURL           string `json:"badgeUrl,omitempty"`
	Tag                string `json:"tag,omitempty"`
	RequireInteraction bool   `json:"requireInteraction,omitempty"`
	Renotify           bool   `json:"renotify,omitempty"`
	TTL                *int   `json:"ttl,omitempty"`
}

// NotificationTemplate is what notification an event becomes: its texts, its data and ContactID may hold {{path}}, in place of which stands
// what the path leads to in the event's data.
type NotificationTemplate struct {
	ImplementationID string `json:"implementationId"`
	ContactID        string `json:"routeeContactId"`
	Notification
}

// Message is a notification to send. Exactly one of ContactID, Contacts and DeviceToken is set.
type Message struct {
	ImplementationID string `json:"implementationId"`
	// ContactID has all its devices notified, Contacts those of up to 10,000.
	ContactID   string       `json:"routeeContactId,omitempty"`
	Contacts    []string     `json:"contacts,omitempty"`
	DeviceToken *DeviceToken `json:"deviceToken,omitempty"`
	Notification
	// CallbackURL gets the changes of its status.
	CallbackURL string `json:"callbackUrl,omitempty"`
	// SendAt is when it is sent, at most seven days ahead; zero is now.
	SendAt time.Time `json:"sendAt,omitzero"`
	// IdempotencyKey makes sending the same message again harmless: 1 to 128 printable ASCII characters, or empty for none.
	IdempotencyKey string `json:"idempotencyKey,omitempty"`
}

// DeviceToken is one device, registered or not.
type DeviceToken struct {
	// Type is one of the Device constants.
	Type string `json:"type"`
	// Token and TokenType are as in a Registration.
	Token     string `json:"token"`
	TokenType string `json:"tokenType,omitempty"`
}

// DryRun is what a message would have been.
type DryRun struct {
	// Devices is how many it would go to; 0 also where there are many contacts.
	Devices int `json:"devices"`
	// PayloadBytes is the size of what its provider would get, by platform.
	PayloadBytes map[string]int `json:"payloadBytes"`
}

// path is where a message is sent to.
func (m *Message) path() string {
	if m.Contacts != nil {
		return "/messages/multicast"
	}
	return "/messages"
}

// SendMessage sends a message and returns its tracking id. When it returns without an error the message is on disk, synced. Needs the send scope,
// as all calls on messages do.
func (c *Client) SendMessage(ctx context.Context, m Message) (string, error) {
	var out struct {
		TrackingID string `json:"trackingId"`
	}
	err := c.submit(ctx, http.MethodPost, m.path(), m, &out)
	return out.TrackingID, err
}

// TryMessage checks a message, and sends nothing.
func (c *Client) TryMessage(ctx context.Context, m Message) (DryRun, error) {
	in := struct {
		Message
		DryRun bool `json:"dryRun"`
	}{m, true}
	var out DryRun
	err := c.submit(ctx, http.MethodPost, m.path(), in, &out)
	return out, err
}

// The statuses of a message.
const (
	MessageQueued = "QUEUED"
	MessageSent   = "SENT"
	MessageFailed = "FAILED"
)

// MessageStatus is a message as it stands.
type MessageStatus struct {
	TrackingID       string `json:"trackingId"`
	ImplementationID string `json:"implementationId"`
	// ContactID is whom it was sent to; "" for a token or many contacts. Contacts is how many it was sent to then, and ContactsLookedUp how
	// many of them have been looked up so far.
	ContactID        string    `json:"routeeContactId,omitempty"`
	Contacts         int       `json:"contacts,omitempty"`
	ContactsLookedUp int       `json:"contactsLookedUp,omitempty"`
	CreatedAt        time.Time `json:"createdAt,omitzero"`
	SendAt           time.Time `json:"sendAt,omitzero"`
	ExpiresAt        time.Time `json:"expiresAt,omitzero"`
	// Status is one of the Message constants: queued while it is for one of its devices, sent when any was reached. Reason is why it failed.
	Status     string     `json:"status"`
	Reason     string     `json:"reason,omitempty"`
	StatusInfo StatusInfo `json:"statusInfo"`
	// Counts are how many devices have which status.
	Counts struct {
		Queued int `json:"queued"`
		Sent   int `json:"sent"`
		Failed int `json:"failed"`
	} `json:"counts"`
	// Devices is a page of its devices, and Next where the following one begins, "" after the last.
	Devices []MessageDevice `json:"devices"`
	Next    string          `json:"next,omitempty"`
}

// StatusInfo is a status and when it was reached.
type StatusInfo struct {
	Status string    `json:"status"`
	Date   time.Time `json:"date,omitzero"`
	Reason string    `json:"reason,omitempty"`
}

// MessageDevice is a message to one device.
type MessageDevice struct {
	// DeviceID is "" for a token that was not registered.
	DeviceID  string `json:"deviceId,omitempty"`
	Type      string `json:"type"`
	ContactID string `json:"routeeContactId,omitempty"`
	Status    string `json:"status"`
	// Reason is why it failed, for programs, Error what the provider said.
	Reason        string    `json:"reason,omitempty"`
	Error         string    `json:"error,omitempty"`
	Date          time.Time `json:"date,omitzero"`
	NextAttemptAt time.Time `json:"nextAttemptAt,omitzero"`
	// ServiceMessageID is what the provider calls it.
	ServiceMessageID string `json:"serviceMessageId,omitempty"`
	// Statuses are those before.
	Statuses []StatusInfo `json:"statuses"`
	Attempts []Attempt    `json:"attempts"`
}

// Message returns a message as it stands, with at most limit of its devices (0: 100), beginning at after ("": with the first).
func (c *Client) Message(ctx context.Context, trackingID, after string, limit int) (MessageStatus, error) {
	var out MessageStatus
	path, err := join("/messages", trackingID)
	if err != nil {
		return out, err
	}
	query := url.Values{}
	paging(query, limit, after)
	err = c.call(ctx, request{method: http.MethodGet, path: path, query: query}, &out)
	return out, err
}
