package api

import (
	"bytes"
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"herald/store"
)

// The names of a contact's id. Both mean the same, and an answer has the one that was sent.
const (
	contactName  = "routeeContactId"
	contactAlias = "contactId"
)

// The beginnings of the details of a refused registration, as they are published.
const (
	noRouteeDetails = "Routee Details not Found"
	noDeviceConfig  = "Device Config not found"
	noContact       = "Error in getting routee Contact"
)

type deviceView struct {
	ID             string    `json:"id"`
	ContactID      string    `json:"routeeContactId"`
	Implementation string    `json:"implementationId"`
	Type           string    `json:"type"`
	TokenType      string    `json:"tokenType"`
	TokenHint      string    `json:"tokenHint"`
	Locale         string    `json:"locale,omitempty"`
	AppVersion     string    `json:"appVersion,omitempty"`
	RegisteredAt   time.Time `json:"registeredAt"`
	LastSeenAt     time.Time `json:"lastSeenAt"`
	RestUntil      time.Time `json:"restUntil,omitzero"`
}

func viewDevice(d *store.Device) deviceView {
	return deviceView{
		ID: d.ID.String(), ContactID: d.Contact, Implementation: d.ImplementationID,
		Type: string(d.Platform), TokenType: string(d.Kind), TokenHint: hint(d.Token), Locale: d.Locale, AppVersion: d.AppVersion,
		RegisteredAt: d.RegisteredAt.UTC(), LastSeenAt: d.LastSeenAt.UTC(), RestUntil: shown(d.RestUntil),
	}
}

// hint is the end of a token: enough to tell the devices of a contact apart, and not enough to reach one.
func hint(token string) string {
	const most = 6
	n := len(token) - min(most, len(token)/4)
	for n < len(token) && !utf8.RuneStart(token[n]) {
		n++
	}
	return token[n:]
}

// registerDevice stores a token for a contact. Its refusals are published texts.
func (a *API) registerDevice(c *call) error {
	p := store.Platform(c.r.PathValue("message"))
	if !slices.Contains(store.Platforms(), p) {
		return newProblem(notFound, "there is no device type %s; devices are registered with POST /messages/android, /messages/ios or /messages/web", show(string(p)))
	}
	if _, err := c.readBody(typeJSON); err != nil {
		return err
	}
	n, err := c.parse("token")
	if err != nil {
		return err
	}
	var fs faults
	f := object(n, "", &fs)
	d := store.Device{AccountID: c.account.ID, DeviceToken: store.DeviceToken{Platform: p}}
	contact := f.called(contactName, contactAlias)
	d.Contact = f.needed(contact, nil)
	if err := store.CheckContact(d.Contact); err != nil && len(fs.list) == 0 {
		fs.add(contact, "%s", err.Error())
	}
	published := "" // what the detail begins with
	if len(fs.list) > 0 {
		published = noContact
	}
	d.ImplementationID = f.needed("implementationId", checkNotBlank)
	token := a.readToken(f, p)
	replaces := readReplaced(f)
	d.Locale = f.checked("locale", checkLocale)
	d.AppVersion, _ = f.label("appVersion")
	f.end("")
	if len(fs.list) > 0 {
		return refusedRegistration(&fs, published, "")
	}
	i, err := a.store.Implementation(c.r.Context(), c.account.ID, d.ImplementationID)
	if errors.Is(err, store.ErrNotFound) {
		fs.add("implementationId", "must be the id of an implementation of this account; there is none of the id %s", show(d.ImplementationID))
		return refusedRegistration(&fs, noRouteeDetails, "GET /implementations lists those there are")
	}
	if err != nil {
		return err
	}
	if i.Provider(p, token.device.Kind) == "" {
		fs.add("implementationId", "must be one that has credentials for %s; %s has none", p, show(i.ID))
		return refusedRegistration(&fs, noDeviceConfig, "they are set with PATCH /implementations/{id}")
	}
	if token.check(i); len(fs.list) > 0 {
		return refusedRegistration(&fs, "", "")
	}
	d.DeviceToken = token.device
	if i.Provider(p, token.device.Kind) == store.ProviderAPNs {
		replaces = lowerHexadecimal(replaces)
	}
	_, err = a.store.PutDevice(c.r.Context(), d, replaces)
	if errors.Is(err, store.ErrNotFound) {
		fs.add("implementationId", "must be the id of an implementation of this account; %s was deleted", show(d.ImplementationID))
		return refusedRegistration(&fs, noRouteeDetails, "")
	}
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, map[string]string{contact: d.Contact})
}

// refusedRegistration is a refusal whose title is published, and the beginning of whose detail where there is one for it.
func refusedRegistration(fs *faults, published, advice string) *problem {
	p := fs.problem(notRegistered)
	if published != "" {
		p.detail = published + ": " + p.detail
	}
	if advice != "" {
		p.detail += "; " + advice
	}
	return p
}

// tokenInput is a token as it was read, before it is known how its implementation reaches the device.
type tokenInput struct {
	*fields
	device store.DeviceToken
}

// readToken takes the members token and tokenType. For the web the token may be a subscription of the Push API, as an object or its text.
func (a *API) readToken(f *fields, p store.Platform) tokenInput {
	in := tokenInput{f, store.DeviceToken{Platform: p, Kind: store.TokenPlain}}
	kinds, want := []jsontext.Kind{jsontext.KindString}, "a string"
	if p == store.PlatformWeb {
		kinds, want = append(kinds, jsontext.KindBeginObject), "a string, or a subscription of the Push API"
	}
	n, is := f.get("token", want, kinds...)
	kind, kindIs := f.choice("tokenType", string(store.TokenPlain), string(store.TokenFID))
	switch is {
	case wrong:
		return in
	case absent, null:
		f.fault("token", "must not be blank: it is needed, as the app was given it")
		return in
	case given:
	}
	in.device.Token = n.text
	if p == store.PlatformWeb && strings.HasPrefix(strings.TrimSpace(n.text), "{") {
		d, err := store.ParseWebSubscription([]byte(n.text))
		if err != nil {
			f.fault("token", "must be a subscription of the Push API, as the browser's PushSubscription.toJSON gives it: %s", err.Error())
			return in
		}
		if u, err := url.Parse(d.Token); err == nil {
			if err := a.checkURL(u); err != nil {
				f.fault("token", "must have an endpoint that pushes may go to; it is refused: %s", err.Error())
			}
		}
		if kindIs == given {
			f.fault("tokenType", "must be left out with a subscription of the Push API")
		}
		in.device = d
		return in
	}
	if kindIs == given {
		in.device.Kind = store.TokenKind(kind)
	}
	if err := store.CheckDeviceToken(n.text); err != nil {
		f.fault("token", "%s", err.Error())
	}
	return in
}

// readReplaced takes the token that this one succeeds. Of a subscription of the Push API that is its endpoint.
func readReplaced(f *fields) string {
	s, is := f.text("replaces")
	if is != given {
		return ""
	}
	if err := store.CheckDeviceToken(s); err != nil {
		f.fault("replaces", "%s", err.Error())
	}
	return s
}

// check judges the token by how the implementation reaches such a device.
func (t *tokenInput) check(i *store.Implementation) {
	if i.Provider(t.device.Platform, t.device.Kind) != store.ProviderAPNs {
		return
	}
	// Whether it is a token that APNs has given is for APNs to say: what the published examples register is none.
	t.device.Token = lowerHexadecimal(t.device.Token)
	if t.device.Kind == store.TokenFID {
		t.fault("tokenType", "must be token, or left out: the ios of the implementation goes through APNs, which knows no installation ids")
	}
}

// lowerHexadecimal is a device token of APNs, which may be written in two ways and is one all the same.
func lowerHexadecimal(token string) string {
	if strings.Trim(token, "0123456789abcdefABCDEF") == "" {
		return strings.ToLower(token)
	}
	return token
}

// has says whether a member is there, be it null.
func (f *fields) has(name string) bool {
	key := fold(name)
	return slices.ContainsFunc(f.node.members, func(m member) bool { return fold(m.name) == key })
}

// called returns which of two names for the same a member has.
func (f *fields) called(name, alias string) string {
	if !f.has(alias) {
		return name
	}
	if f.has(name) {
		f.fault(alias, "means the same as %s; give one of the two", name)
		f.take(alias)
		return name
	}
	return alias
}

// checked takes a string that may be left out; null is absent.
func (f *fields) checked(name string, check func(string) error) string {
	s, is := f.text(name)
	if is == given {
		if err := check(s); err != nil {
			f.fault(name, "%s", err.Error())
		}
	}
	return s
}

func checkNotBlank(s string) error {
	if strings.TrimSpace(s) == "" {
		return textError("must not be blank")
	}
	return nil
}

// maxLocale is longer than any language tag in use.
const maxLocale = 35

// checkLocale judges the form of a language tag (RFC 5646, section 2.1): letters, then more letters and digits, joined by hyphens.
func checkLocale(s string) error {
	ok := len(s) <= maxLocale
	for i, part := range strings.Split(s, "-") {
		allowed := "abcdefghijklmnopqrstuvwxyz"
		if i > 0 {
			allowed += "0123456789"
		}
		ok = ok && part != "" && len(part) <= 8 && strings.Trim(strings.ToLower(part), allowed) == "" && (i > 0 || len(part) > 1)
	}
	if !ok {
		return textError("must be a language tag such as nl or nl-BE")
	}
	return nil
}

// newest orders devices of all implementations by when they were registered, the newest first, which their ids tell: see store.DeviceID.
func newest(a, b store.DeviceID) int {
	return cmp.Or(bytes.Compare(b[4:], a[4:]), bytes.Compare(b[:4], a[:4]))
}

// listDevices lists the devices of a contact. The store has them in another order, so all are looked at, and no more kept than are shown.
func (a *API) listDevices(c *call) error {
	var fs faults
	q := c.r.URL.Query()
	limit := limitOf(q, &fs, defaultLimit)
	var after store.DeviceID
	if s := q.Get("after"); s != "" {
		var err error
		if after, err = store.ParseDeviceID(s); err != nil {
			fs.add("after", "is %s", err.Error())
		}
	}
	if err := fs.err(); err != nil {
		return err
	}
	contact, implementation := c.r.PathValue("contact"), q.Get("implementationId")
	return stream(c, q, limit, func(_ *store.Device, n int) ([]store.Device, error) {
		var kept []store.Device
		var last store.DeviceID
		for {
			page, err := a.store.Devices(c.r.Context(), c.account.ID, contact, implementation, last, storePage)
			if err != nil {
				return nil, err
			}
			for _, d := range page {
				last = d.ID
				if after == (store.DeviceID{}) || newest(after, d.ID) < 0 {
					kept = append(kept, d)
				}
			}
			slices.SortFunc(kept, func(a, b store.Device) int { return newest(a.ID, b.ID) })
			kept = kept[:min(n, len(kept))]
			if len(page) < storePage {
				return kept, nil
			}
		}
	}, func(d *store.Device) string { return d.ID.String() }, viewOf(viewDevice))
}

// deviceID reads the id of the path.
func (c *call) deviceID() (store.DeviceID, error) {
	id, err := store.ParseDeviceID(c.r.PathValue("device"))
	if err != nil {
		return id, errNoDevice()
	}
	return id, nil
}

func errNoDevice() *problem {
	return newProblem(notFound, "there is no such device of this account, or its token is gone; GET /contacts/{contact}/devices lists those of a contact")
}

func (a *API) readDevice(c *call) error {
	id, err := c.deviceID()
	if err != nil {
		return err
	}
	d, err := a.store.Device(c.r.Context(), c.account.ID, id)
	if errors.Is(err, store.ErrNotFound) {
		return errNoDevice()
	}
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, viewDevice(&d))
}

func (a *API) deleteDevice(c *call) error {
	id, err := c.deviceID()
	if err != nil {
		return err
	}
	err = a.store.DeleteDevice(c.r.Context(), c.account.ID, id, nil)
	if errors.Is(err, store.ErrNotFound) {
		return errNoDevice()
	}
	if err != nil {
		return err
	}
	return c.empty()
}

// deleteContact removes all devices of a contact, of which nothing else is known.
func (a *API) deleteContact(c *call) error {
	contact := c.r.PathValue("contact")
	n, err := a.store.DeleteContact(c.r.Context(), c.account.ID, contact)
	if err != nil {
		return err
	}
	if n == 0 {
		return newProblem(notFound, "the contact %s has no devices in this account", show(contact))
	}
	return c.empty()
}
