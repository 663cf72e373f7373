package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"herald/queue"
	"herald/store"
)

// Notifier sends messages to devices. Its methods are safe for concurrent use.
type Notifier interface {
	// Send makes a message durable for every device it goes to. A *store.MessageError is the sender's to mend; store.ErrNotFound: there is
	// no such implementation; a *queue.ConflictError: the key was used for another message; other errors are those of the engines.
	Send(ctx context.Context, m *store.Message) (store.Sent, error)
	// Message returns a message of the account as it stands, with at most limit of its devices, beginning at after ("": with the
	// first), or store.ErrNotFound.
	Message(ctx context.Context, accountID, trackingID, after string, limit int) (*store.MessageView, error)
	// Changed says that the credentials of an implementation were changed, or that it was deleted: lanes are those whose credentials are others
	// now, all when it was deleted. It must not block.
	Changed(accountID, id string, lanes []store.SubscriptionID)
}

// noNotifier stands for a Notifier that is not there.
type noNotifier struct{}

func (noNotifier) Send(context.Context, *store.Message) (store.Sent, error) {
	return store.Sent{}, unavailableFor(retryStop, "this daemon sends no notifications now")
}

func (noNotifier) Message(context.Context, string, string, string, int) (*store.MessageView, error) {
	return nil, store.ErrNotFound
}

func (noNotifier) Changed(string, string, []store.SubscriptionID) {}

type sentView struct {
	TrackingID string `json:"trackingId"`
}

type dryRunView struct {
	DryRun       bool                   `json:"dryRun"`
	Devices      int                    `json:"devices"`
	PayloadBytes map[store.Platform]int `json:"payloadBytes"`
}

// messageInput reads a message.
type messageInput struct {
	*fields
	api *API
	c   *call
	now time.Time
	m   *store.Message
	// token is the device that is named, if one is.
	token *tokenInput
}

// sendMessage takes a message to a contact, or to one device.
func (a *API) sendMessage(c *call) error { return a.send(c, maxNodes, (*messageInput).recipient) }

// sendMulticast takes a message to many contacts.
func (a *API) sendMulticast(c *call) error {
	return a.send(c, maxNodes+store.MaxContacts, (*messageInput).recipients)
}

// send takes a message; its answer is given after it is synced to disk.
func (a *API) send(c *call, budget int, recipients func(*messageInput)) error {
	if _, err := c.readBody(typeJSON); err != nil {
		return err
	}
	body := c.body.Bytes()
	n, err := c.parseUpTo(budget)
	if err != nil {
		return err
	}
	for i := range n.members { // the token may be an object
		n.members[i].value.keep(body, []string{"token"})
	}
	var fs faults
	p := &messageInput{fields: object(n, "", &fs), api: a, c: c, now: a.now(), m: &store.Message{AccountID: c.account.ID}}
	if t := c.trace(); t != nil {
		p.m.TraceParent, p.m.TraceState = t.Parent, t.State
	}
	p.m.ImplementationID = p.needed("implementationId", checkNotBlank)
	recipients(p)
	p.m.Notification = readNotification(p.fields, false)
	p.foreignBlocks()
	p.callback()
	p.schedule()
	p.m.DryRun, _ = p.boolean("dryRun")
	if err := p.key(body); err != nil {
		return err
	}
	p.end("")
	if err := fs.err(); err != nil {
		return err
	}
	if err := p.judge(); err != nil {
		return err
	}
	sent, err := a.notifier.Send(c.r.Context(), p.m)
	if err != nil {
		return a.refusedMessage(err)
	}
	if p.m.DryRun {
		if sent.Payloads == nil {
			sent.Payloads = map[store.Platform]int{}
		}
		return c.answer(http.StatusOK, dryRunView{true, sent.Devices, sent.Payloads})
	}
	c.Header().Set("Location", "/messages/"+sent.TrackingID)
	return c.answer(http.StatusAccepted, sentView{sent.TrackingID})
}

// recipient takes whom the message is for: all devices of a contact, or one device.
func (p *messageInput) recipient() {
	contact := p.called(contactName, contactAlias)
	n, is := p.get("deviceToken", `an object such as {"type":"ANDROID","token":"…"}`, jsontext.KindBeginObject)
	if is != absent && is != null {
		if p.has(contact) {
			p.fault("deviceToken", "excludes %s; give one of the two", contact)
			p.take(contact)
		}
		if is == given {
			p.device(object(n, "/deviceToken", p.faults))
		}
		return
	}
	s, is := p.text(contact)
	switch is {
	case absent, null:
		p.fault(contact, "is needed: the contact all of whose devices are notified; or deviceToken, for one device")
	case given:
		if err := store.CheckContact(s); err != nil {
			p.fault(contact, "%s", err.Error())
		}
		p.m.Contact = s
	case wrong:
	}
}

// deviceTypes are the published names of platforms, and ours.
func deviceTypes() map[string]store.Platform {
	return map[string]store.Platform{
		"android": store.PlatformAndroid, "apple": store.PlatformIOS, "ios": store.PlatformIOS, "web": store.PlatformWeb,
	}
}

// device takes the one device, which need not be registered.
func (p *messageInput) device(f *fields) {
	defer f.end("")
	kind, is := f.text("type")
	platform, ok := deviceTypes()[fold(kind)]
	if !ok {
		if is != wrong {
			f.fault("type", "invalid value: must be ANDROID, APPLE or WEB")
		}
		f.ignore("token", "tokenType")
		return
	}
	token := p.api.readToken(f, platform)
	p.token, p.m.Token = &token, &token.device
}

// recipients takes the contacts of a message to many.
func (p *messageInput) recipients() {
	name := p.called("contacts", "routeeContactIds")
	items, is := p.array(name, "strings", 1, store.MaxContacts)
	if is == absent || is == null {
		p.fault(name, "is needed: the contacts all of whose devices are notified")
	}
	seen := make(map[string]bool, len(items))
	for i := range items {
		at := name + "/" + strconv.Itoa(i)
		if items[i].kind != jsontext.KindString {
			p.element(at, "must be a string, not %s", items[i].what())
			continue
		}
		contact := items[i].text
		if err := store.CheckContact(contact); err != nil {
			p.element(at, "%s", err.Error())
		}
		if !seen[contact] {
			seen[contact] = true
			p.m.Contacts = append(p.m.Contacts, contact)
		}
	}
}

// callback takes where changes of the status go.
func (p *messageInput) callback() {
	const name = "callbackUrl"
	s, is := p.text(name)
	if is != given {
		return
	}
	p.m.CallbackURL = s
	if err := checkCallbackURL(s); err != nil {
		p.fault(name, "must be a valid URL: %s", err.Error())
		return
	}
	if u, err := url.Parse(s); err == nil {
		if err := p.api.checkURL(u); err != nil {
			p.fault(name, "must be a valid URL that pushes may go to; it is refused: %s", err.Error())
		}
	}
}

// schedule takes when the message is sent. A time that is over means at once, so that a repeat of the request stays the same.
func (p *messageInput) schedule() {
	t, is := p.moment("sendAt")
	if is != given {
		return
	}
	if ahead := p.c.settings.SendAhead; t.After(p.now.Add(ahead)) {
		p.fault("sendAt", "must be at most %g hours ahead", ahead.Hours())
	}
	if t.After(p.now) {
		p.m.SendAt = t
	}
}

// key takes what makes a repeat of the request harmless: the header, or the member for those who cannot set one. The digest is of the body
// in its canonical form (RFC 8785).
func (p *messageInput) key(body []byte) error {
	const name = "idempotencyKey"
	header, err := p.c.idempotencyKey()
	if err != nil {
		return err
	}
	s, is := p.text(name)
	if is == given {
		if s == "" || len(s) > store.MaxMessageKey || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
			p.fault(name, "must have 1 to %d printable ASCII characters", store.MaxMessageKey)
		}
		if header != "" && header != s {
			p.fault(name, "is another than the header %s; give one of the two", keyHeader)
		}
		header = s
	} else if len(header) > store.MaxMessageKey {
		p.fault(keyHeader, "must have at most %d characters here", store.MaxMessageKey)
	}
	if header == "" {
		return nil
	}
	canonical := jsontext.Value(slices.Clone(body))
	if err := canonical.Canonicalize(); err != nil { // it was read before, so it is JSON
		return newProblem(badRequest, "the body cannot be brought into its canonical form (RFC 8785)")
	}
	sum := sha256.Sum256(canonical)
	p.m.Key, p.m.Digest = header, [16]byte(sum[:])
	return nil
}

// foreignBlocks refuses what is for another platform than that of the one device.
func (p *messageInput) foreignBlocks() {
	if p.token == nil {
		return
	}
	for _, block := range [...]struct {
		platform store.Platform
		name     string
	}{{store.PlatformAndroid, "android"}, {store.PlatformIOS, "apn"}, {store.PlatformWeb, "web"}} {
		n := p.value(block.name)
		if n != nil && n.kind == jsontext.KindBeginObject && len(n.members) > 0 && block.platform != p.token.device.Platform {
			p.fault(block.name, "must be left out: the type of the deviceToken is another")
		}
	}
}

// judge holds the message against its implementation.
func (p *messageInput) judge() error {
	i, err := p.api.store.Implementation(p.c.r.Context(), p.m.AccountID, p.m.ImplementationID)
	if err != nil {
		return p.api.refusedMessage(err)
	}
	if p.token == nil {
		return nil
	}
	if i.Provider(p.token.device.Platform, p.token.device.Kind) == "" {
		return newProblem(notFound, "Credential with type: %s does not exist for given implementation; PATCH /implementations/{id} adds it", credentialType(i, p.token))
	}
	p.token.check(i)
	return p.faults.err()
}

// credentialType is the published name of what is missing.
func credentialType(i *store.Implementation, t *tokenInput) string {
	switch {
	case t.device.Kind == store.TokenWebPush:
		return "VAPID"
	case t.device.Platform == store.PlatformIOS && i.IOSProvider != store.ProviderFCM:
		return "APNS"
	}
	return "FCM"
}

// refusedMessage says why a message was not taken.
func (a *API) refusedMessage(err error) error {
	if m, ok := errors.AsType[*store.MessageError](err); ok {
		var fs faults
		fs.add(m.Field, "%s", m.Detail)
		if m.Missing {
			return fs.problem(notFound)
		}
		return fs.err()
	}
	if _, ok := errors.AsType[*queue.ConflictError](err); ok {
		var fs faults
		fs.add(keyHeader, "was used before for another message; use a new one, or repeat that request unchanged")
		return fs.problem(conflict)
	}
	if errors.Is(err, store.ErrNotFound) {
		return newProblem(notFound, "No implementation found: implementationId must be the id of one of this account; GET /implementations lists them")
	}
	if errors.Is(err, queue.ErrFull) {
		if why := a.queue.Healthy(); why != nil {
			return notDurable("messages", why)
		}
	}
	return err
}

type messageView struct {
	TrackingID     string              `json:"trackingId"`
	Implementation string              `json:"implementationId"`
	ContactID      string              `json:"routeeContactId,omitempty"`
	Contacts       int                 `json:"contacts,omitzero"`
	Expanded       *int                `json:"contactsLookedUp,omitempty"`
	CreatedAt      time.Time           `json:"createdAt"`
	SendAt         time.Time           `json:"sendAt,omitzero"`
	ExpiresAt      time.Time           `json:"expiresAt"`
	Status         store.MessageStatus `json:"status"`
	Reason         string              `json:"reason,omitempty"`
	StatusInfo     statusInfo          `json:"statusInfo"`
	Counts         messageCounts       `json:"counts"`
	Devices        []messageDevice     `json:"devices"`
	Next           string              `json:"next,omitempty"`
}

type statusInfo struct {
	Status store.MessageStatus `json:"status"`
	Date   time.Time           `json:"date"`
	Reason string              `json:"reason,omitempty"`
}

type messageCounts struct {
	Queued int `json:"queued"`
	Sent   int `json:"sent"`
	Failed int `json:"failed"`
}

type messageDevice struct {
	DeviceID         string              `json:"deviceId,omitempty"`
	Type             store.Platform      `json:"type"`
	ContactID        string              `json:"routeeContactId,omitempty"`
	Status           store.MessageStatus `json:"status"`
	Reason           string              `json:"reason,omitempty"`
	Error            string              `json:"error,omitempty"`
	Date             time.Time           `json:"date"`
	NextAttemptAt    time.Time           `json:"nextAttemptAt,omitzero"`
	ServiceMessageID string              `json:"serviceMessageId,omitempty"`
	// Statuses are the earlier ones.
	Statuses []statusInfo  `json:"statuses"`
	Attempts []attemptView `json:"attempts"`
}

func viewMessage(m *store.MessageView) messageView {
	v := messageView{
		TrackingID: m.TrackingID, Implementation: m.ImplementationID, ContactID: m.Contact,
		CreatedAt: m.CreatedAt.UTC(), SendAt: shown(m.SendAt), ExpiresAt: shown(m.ExpiresAt),
		Status: m.Status, Reason: m.Reason, StatusInfo: statusInfo{m.Status, shown(m.At), m.Reason},
		Counts: messageCounts{m.Queued, m.Sent, m.Failed}, Devices: make([]messageDevice, len(m.Devices)), Next: m.Next,
	}
	if m.Contact == "" && m.Contacts > 0 {
		v.Contacts, v.Expanded = m.Contacts, &m.Expanded
	}
	for i := range m.Devices {
		v.Devices[i] = viewMessageDevice(m, &m.Devices[i])
	}
	return v
}

func viewMessageDevice(m *store.MessageView, d *store.MessageDevice) messageDevice {
	v := messageDevice{
		Type: d.Platform, ContactID: d.Contact, Status: d.Status, Reason: d.Reason, Error: strings.ToValidUTF8(d.Error, "\uFFFD"),
		Date: shown(d.At), NextAttemptAt: shown(d.NextAt), ServiceMessageID: d.ProviderID,
		Statuses: []statusInfo{}, Attempts: make([]attemptView, len(d.Attempts)),
	}
	if d.ID != (store.DeviceID{}) {
		v.DeviceID = d.ID.String()
	}
	if d.Status != store.MessageQueued {
		v.Statuses = append(v.Statuses, statusInfo{Status: store.MessageQueued, Date: shown(m.CreatedAt)})
	}
	for i := range d.Attempts {
		x := &d.Attempts[i]
		v.Attempts[i] = attemptView{
			Number: x.Number, Time: x.At.UTC(), DurationMs: float64(x.Duration.Microseconds()) / 1000,
			Status: x.HTTPStatus, Outcome: x.Outcome, Error: strings.ToValidUTF8(x.Error, "\uFFFD"),
		}
	}
	return v
}

// maxTrackingID bounds what is taken for a tracking id at all.
const maxTrackingID = 128

// readMessage tells how a message stands.
func (a *API) readMessage(c *call) error {
	id := c.r.PathValue("message")
	if slices.Contains(store.Platforms(), store.Platform(id)) {
		return newProblem(methodNotAllowed, "%s is not possible here; devices are registered with POST", c.r.Method).with("Allow", "OPTIONS, POST")
	}
	var fs faults
	q := c.r.URL.Query()
	limit, after := limitOf(q, &fs, defaultLimit), q.Get("after")
	if len(after) > maxTrackingID {
		fs.add("after", "must be the next of the page before")
	}
	if err := fs.err(); err != nil {
		return err
	}
	gone := newProblem(notFound, "there is no message %s of this account, or it is not retained any more", show(id))
	if len(id) > maxTrackingID {
		return gone
	}
	m, err := a.notifier.Message(c.r.Context(), c.account.ID, id, after, limit)
	if errors.Is(err, store.ErrNotFound) {
		return gone
	}
	if err != nil {
		return a.refusedMessage(err)
	}
	if m.Next != "" {
		c.link(q, m.Next)
	}
	return c.answer(http.StatusOK, viewMessage(m))
}
