package api

import (
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"herald/store"
)

// mode is which call reads the input.
type mode uint8

const (
	creating  mode = iota // POST: read-only members are refused
	replacing             // PUT
	patching              // PATCH
)

// readSubscriptionInput reads the body, which must be an object.
func (c *call) readSubscriptionInput(types ...string) (*node, error) {
	if _, err := c.readBody(types...); err != nil {
		return nil, err
	}
	n, err := c.parse("filter")
	if err != nil {
		return nil, err
	}
	if n.kind != jsontext.KindBeginObject {
		return nil, newProblem(badRequest, "the body must be a JSON object, not %s", n.what())
	}
	return n, nil
}

// defaultSubscription has the values of absent members.
func defaultSubscription() *store.Subscription {
	return &store.Subscription{
		ExportFormat: typeJSON, NumberOfRecords: 1, MaxWait: time.Second,
		Payload: store.PayloadEnvelope, Method: http.MethodPost,
	}
}

// subscriptionInput reads the members of a subscription over one that has the values of what is absent.
type subscriptionInput struct {
	*fields
	faults  *faults
	how     mode
	current *store.Subscription // nil when creating
	next    *store.Subscription
	// generated is the signing secret made because none was given.
	generated string
	// decode reads a PKCS #12 file; nil where the body has been read before.
	decode func(text, password string) (*decoded, *problem)
	// refusal is why the body cannot be judged now.
	refusal *problem
}

func (p *subscriptionInput) urlChanged() bool {
	return p.next.DataCallbackURL != "" && (p.current == nil || p.current.DataCallbackURL != p.next.DataCallbackURL)
}

func (p *subscriptionInput) validationURLChanged() bool {
	return p.next.ValidationCallbackURL != "" && (p.current == nil || p.current.ValidationCallbackURL != p.next.ValidationCallbackURL)
}

func (p *subscriptionInput) resourceChanged() bool {
	return p.next.Resource != "" && (p.current == nil || p.current.Resource != p.next.Resource)
}

// read reads every member and notes every fault. A member with a fault leaves its default.
func (p *subscriptionInput) read() {
	p.template()
	p.callback()
	if p.next.Notification != nil {
		p.noPush()
	} else {
		p.push()
	}
	p.selection()
	p.filter()
	p.delivery()
	p.readOnly()
	p.renamed()
	p.end("")
}

// push reads what a push is like, to the dataCallbackURL.
func (p *subscriptionInput) push() {
	d := defaultSubscription()
	p.validationCallback()
	p.format(d)
	if v, is := p.seconds("maxWaitSeconds", 0, time.Hour); is == given {
		p.next.MaxWait = v
	} else if is == null {
		p.next.MaxWait = d.MaxWait
	}
	p.shape(d)
	p.authentication()
	p.signing()
	if a := p.next.Authentication; a.Type == store.AuthQuery && p.next.Method == http.MethodGet &&
		slices.Contains([]string{"id", "type", "resource"}, a.Name) {
		p.element("authentication/name", "must not be %s, which a GET push carries itself", a.Name)
	}
	p.batch()
	p.cloud()
	p.validation()
	p.clientCertificate()
	if v, is := p.boolean("messageSignature"); is == given || is == null {
		p.next.MessageSignature = v
	}
}

// noPush refuses what a push is like, because there is a notification in its place.
func (p *subscriptionInput) noPush() {
	for _, name := range []string{
		"validationCallbackURL", "validation", "exportFormat", "numberOfRecords", "maxWaitSeconds", "payload", "method", "authentication",
		"signingSecret", "signatureScheme", "clientCertificate", "messageSignature",
	} {
		if n := p.take(name); n != nil && n.kind != jsontext.KindNull {
			p.fault(name, "must be left out with a notification: it is for pushes to a dataCallbackURL")
		}
	}
	d, n := defaultSubscription(), p.next
	n.ValidationCallbackURL, n.ValidationKind, n.ExportFormat, n.NumberOfRecords, n.MaxWait = "", d.ValidationKind, d.ExportFormat, d.NumberOfRecords, d.MaxWait
	n.Payload, n.Method, n.Authentication, n.SigningSecrets = d.Payload, d.Method, store.Authentication{}, nil
	n.ClientCertificate, n.MessageSignature = store.ClientCertificate{}, false
}

// template reads what notification an event becomes, which takes the place of a push. It is given whole, also with PATCH.
func (p *subscriptionInput) template() {
	n, is := p.get("notification", `an object such as {"implementationId":"…","routeeContactId":"{{customer.id}}","body":{…}}, or null`, jsontext.KindBeginObject)
	if is == null {
		p.next.Notification = nil
	}
	if is != given {
		return
	}
	f := object(n, "/notification", p.faults)
	t := &store.Template{ImplementationID: f.needed("implementationId", checkNotBlank)}
	contact := f.called(contactName, contactAlias)
	t.Contact = f.needed(contact, func(s string) error {
		if err := store.CheckContact(s); err != nil {
			return err
		}
		return store.CheckTemplateText(s)
	})
	t.Notification = readNotification(f, true)
	f.end("")
	p.next.Notification = t
}

// implementationChanged says whether the notifications go through another implementation than before.
func (p *subscriptionInput) implementationChanged() bool {
	t := p.next.Notification
	return t != nil && t.ImplementationID != "" &&
		(p.current == nil || p.current.Notification == nil || p.current.Notification.ImplementationID != t.ImplementationID)
}

func (p *subscriptionInput) callback() {
	s, is := p.text("dataCallbackURL")
	switch {
	case is == null, is == wrong:
		p.next.DataCallbackURL = ""
	case is == given && p.next.Notification != nil:
		p.fault("dataCallbackURL", "excludes notification; give one of the two, and null for the other")
		return
	case p.next.Notification != nil && p.next.DataCallbackURL != "":
		p.fault("notification", "takes the place of the dataCallbackURL that is set; send \"dataCallbackURL\": null along")
		return
	}
	switch is {
	case absent:
		if p.next.DataCallbackURL == "" && p.next.Notification == nil {
			p.fault("dataCallbackURL", "is needed: the URL that pushes go to; or notification, to notify devices")
		}
	case null:
		if p.next.Notification == nil {
			p.fault("dataCallbackURL", "is needed and cannot be removed, unless a notification takes its place")
		}
	case given:
		if err := checkCallbackURL(s); err != nil {
			p.fault("dataCallbackURL", "%s", err.Error())
			return
		}
		p.next.DataCallbackURL = s
	case wrong:
	}
}

// validationCallback reads where the validation record goes. Without one the subscription names none.
func (p *subscriptionInput) validationCallback() {
	switch s, is := p.text("validationCallbackURL"); is {
	case null:
		p.next.ValidationCallbackURL = ""
	case given:
		if err := checkCallbackURL(s); err != nil {
			p.fault("validationCallbackURL", "%s", err.Error())
			return
		}
		p.next.ValidationCallbackURL = s
	case absent, wrong:
	}
}

// confirmation is the name of store.ValidationConfirmation, which is what a subscription has that names no kind.
const confirmation = "confirmation"

// validation reads how the receiver is asked, and refuses what does not go with CloudEvents: another URL to ask at, because permission
// is for the one that is pushed to ("HTTP 1.1 Web Hooks for Event Delivery", section 4.1), and another method than POST (section 2.1).
func (p *subscriptionInput) validation() {
	switch s, is := p.choice("validation", confirmation, string(store.ValidationCloudEvents)); {
	case is == null, is == given && s == confirmation:
		p.next.ValidationKind = store.ValidationConfirmation
	case is == given:
		p.next.ValidationKind = store.ValidationKind(s)
	}
	if p.next.ValidationKind != store.ValidationCloudEvents {
		return
	}
	if p.next.ValidationCallbackURL != "" {
		p.fault("validationCallbackURL", "must not be there with the validation cloudevents, which asks at the dataCallbackURL; leave one of the two out")
	}
	if p.next.Method != http.MethodPost {
		p.fault("method", "must be POST with the validation cloudevents, which is for pushes by POST; it is %s", p.next.Method)
	}
}

const maxURL = 2048

// checkCallbackURL says what is wrong with the form of a callback's URL; the policy for outgoing calls
// is another matter.
func checkCallbackURL(s string) error {
	if len(s) > maxURL {
		return textError("must have at most " + strconv.Itoa(maxURL) + " bytes")
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return textError("must not hold spaces or control characters; write them as %20 and the like")
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Opaque != "" || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return textError("must be an absolute URL that begins with https:// or http:// and a host")
	case u.User != nil:
		return textError("must not hold a user or password before the host; use authentication")
	case strings.Contains(s, "#"):
		return textError("must not have a fragment (#), which is never sent")
	case strings.ContainsFunc(u.RawQuery, func(r rune) bool { return r >= 0x7f || strings.ContainsRune("\"<>\\^`{|}", r) }):
		// The query is sent as it is given, so what is none (RFC 3986, section 3.4) must not be in it.
		return textError("must have nothing in its query (after '?') but what a URL allows; write other characters as %20 and the like")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return textError("must have a port between 1 and 65535")
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return textError("must have a port after the ':', or no ':'")
	}
	return nil
}

func (p *subscriptionInput) format(d *store.Subscription) {
	switch s, is := p.text("exportFormat"); {
	case is == null:
		p.next.ExportFormat = d.ExportFormat
	case is != given:
	case s == typeJSON, s == typeXML:
		p.next.ExportFormat = s
	case strings.EqualFold(s, "json"), strings.EqualFold(s, "xml"):
		p.fault("exportFormat", "must be application/%s, not %s", fold(s), show(s))
	default:
		p.fault("exportFormat", "must be %s or %s", typeJSON, typeXML)
	}
	if n, is := p.integer("numberOfRecords", 1, maxRecords); is == given {
		p.next.NumberOfRecords = n
	} else if is == null {
		p.next.NumberOfRecords = d.NumberOfRecords
	}
}

// maxRecords bounds the records of a push.
const maxRecords = 1000

// maxPatterns bounds the event patterns of a subscription.
const maxPatterns = 100

func (p *subscriptionInput) selection() {
	switch s, is := p.text("resource"); is {
	case null:
		p.next.Resource = ""
	case given:
		if err := checkSelectorForm(s); err != nil {
			p.fault("resource", "%s", err.Error())
			return
		}
		p.next.Resource = s
	case absent, wrong:
	}
	switch list, is := p.texts("events", 1, maxPatterns, store.CheckEventPattern); is {
	case null:
		p.next.Events = nil
	case given:
		p.next.Events = list
	case absent, wrong:
	}
}

func checkSelectorForm(s string) error {
	if kind, ok := strings.CutSuffix(s, "/*"); ok {
		return store.CheckResourceType(kind)
	}
	_, err := store.ParseResource(s)
	return err
}

func (p *subscriptionInput) shape(d *store.Subscription) {
	switch s, is := p.text("payload"); {
	case is == null:
		p.next.Payload = d.Payload
	case is != given:
	case s == string(store.PayloadEnvelope), s == string(store.PayloadData), s == string(store.PayloadCloudEvents):
		p.next.Payload = store.PayloadForm(s)
	default:
		p.fault("payload", "must be envelope, data or cloudevents")
	}
	switch s, is := p.text("method"); {
	case is == null:
		p.next.Method = d.Method
	case is != given:
	case s == http.MethodPost, s == http.MethodPut, s == http.MethodGet:
		p.next.Method = s
	default:
		p.fault("method", "must be POST, PUT or GET")
	}
}

const (
	maxSecretText = 4096
	maxParamName  = 128
)

// authentication reads what a push proves itself with. The parts belong to a type: with another type
// they go, and the secret of the new type has to come along.
func (p *subscriptionInput) authentication() {
	n, is := p.get("authentication", `an object such as {"type":"bearer","token":"…"}`, jsontext.KindBeginObject)
	if is == null {
		p.next.Authentication = store.Authentication{}
	}
	if is != given {
		return
	}
	f := object(n, "/authentication", p.faults)
	before := p.next.Authentication
	kind, is := f.text("type")
	switch {
	case is == absent && p.how == patching && before.Type != store.AuthNone:
		kind = string(before.Type)
	case is == absent, is == null:
		f.fault("type", "is needed: bearer, basic, header, query or oauth2")
		return
	case is == wrong:
		return
	}
	auth := store.Authentication{Type: store.AuthType(kind)}
	if before.Type != auth.Type {
		before = store.Authentication{} // nothing is kept of another type
	}
	switch auth.Type {
	case store.AuthBearer:
		auth.Token = secretPart(f, "token", before.Token, checkVisible)
		setPart(f, "tokenSet", auth.Token != "")
	case store.AuthBasic:
		auth.Username = p.plainPart(f, "username", before.Username, checkUsername)
		auth.Password = passwordPart(f, before.Type == store.AuthBasic, before.Password)
		setPart(f, "passwordSet", auth.Password != "")
	case store.AuthHeader:
		auth.Name = p.plainPart(f, "name", before.Name, checkHeaderName)
		auth.Value = secretPart(f, "value", before.Value, checkHeaderValue)
		setPart(f, "valueSet", auth.Value != "")
	case store.AuthQuery:
		auth.Name = p.plainPart(f, "name", before.Name, checkParamName)
		auth.Value = secretPart(f, "value", before.Value, checkParamValue)
		setPart(f, "valueSet", auth.Value != "")
	case store.AuthOAuth2:
		p.oauth2(f, &auth, &before)
	default:
		f.fault("type", "must be bearer, basic, header, query or oauth2")
		return
	}
	f.end("it is not a part of authentication by " + kind)
	p.next.Authentication = auth
}

// plainPart reads a part that is no secret: needed, but a patch may leave it as it is.
func (p *subscriptionInput) plainPart(f *fields, name, before string, check func(string) error) string {
	s, is := f.text(name)
	switch {
	case is == absent && p.how == patching && before != "":
		return before
	case is == absent, is == null:
		f.fault(name, "is needed")
		return ""
	case is == wrong:
		return ""
	}
	if err := check(s); err != nil {
		f.fault(name, "%s", err.Error())
	}
	return s
}

// secretPart reads a secret: an absent one is kept, if there is one of this type.
func secretPart(f *fields, name, before string, check func(string) error) string {
	s, is := f.text(name)
	switch {
	case is == absent && before != "":
		return before
	case is == absent:
		f.fault(name, "is needed, because none is set for this type of authentication")
		return ""
	case is == null:
		f.fault(name, "is needed; to remove the authentication send \"authentication\": null")
		return ""
	case is == wrong:
		return before
	}
	if s == "" || len(s) > maxSecretText {
		f.fault(name, "must have 1 to %d bytes", maxSecretText)
	} else if err := check(s); err != nil {
		f.fault(name, "%s", err.Error())
	}
	return s
}

// passwordPart reads the password, which may be empty: a key as user name often goes without one.
func passwordPart(f *fields, keep bool, before string) string {
	s, is := f.text("password")
	switch {
	case is == absent && keep:
		return before
	case is == absent:
		f.fault("password", "is needed, because none is set for this type of authentication; it may be empty")
		return ""
	case is == null || is == wrong:
		return ""
	}
	if len(s) > maxSecretText {
		f.fault("password", "must have at most %d bytes", maxSecretText)
	} else if err := checkParamValue(s); err != nil {
		f.fault("password", "%s", err.Error())
	}
	return s
}

// setPart takes the sign of a read that a secret is set, which must tell the truth.
func setPart(f *fields, name string, set bool) {
	if v, is := f.boolean(name); is == given && v != set {
		f.fault(name, "is only shown and cannot be changed; send the secret itself")
	}
}

// readOnly takes what a read shows, so that a read may be sent back; POST has nothing to send back.
func (p *subscriptionInput) readOnly() {
	if p.how == creating {
		for _, name := range []string{"id", "state", "stateReason", "stateSince", "createdAt", "updatedAt", "signingSecretSet", "signingPublicKeys", "allowedRatePerMinute"} {
			if p.take(name) != nil {
				p.fault(name, "is set by the daemon; leave it out")
			}
			p.asked = p.asked[:len(p.asked)-1] // not to be recommended
		}
		return
	}
	p.same("id", p.current.ID.String(), "a subscription keeps its id; POST /subscriptions makes another")
	p.same("state", string(p.current.State), "use POST /subscriptions/{id}/enable or /pause")
	if v, is := p.boolean("signingSecretSet"); is == given && v != (len(p.current.SigningSecrets) > 0) {
		p.fault("signingSecretSet", "is only shown and cannot be changed; send signingSecret, or null to remove it")
	}
	p.ignore("signingPublicKeys", "allowedRatePerMinute", "stateReason", "stateSince", "createdAt", "updatedAt")
}

// checkVisible is for what stands in a header without quoting: printable ASCII without space.
func checkVisible(s string) error {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return textError("must consist of printable ASCII characters without spaces")
		}
	}
	return nil
}

func checkUsername(s string) error {
	if s == "" || len(s) > maxParamName || strings.Contains(s, ":") || checkParamValue(s) != nil {
		return textError("must have 1 to " + strconv.Itoa(maxParamName) + " bytes without ':' and control characters")
	}
	return nil
}

func checkParamName(s string) error {
	if s == "" || len(s) > maxParamName {
		return textError("must have 1 to " + strconv.Itoa(maxParamName) + " characters")
	}
	return checkVisible(s)
}

func checkParamValue(s string) error {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f && r <= 0x9f }) {
		return textError("must not hold control characters such as line ends")
	}
	return nil
}

func checkHeaderValue(s string) error {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return textError("must consist of printable ASCII characters")
		}
	}
	if s[0] == ' ' || s[len(s)-1] == ' ' {
		return textError("must not begin or end with a space, which is lost on the way")
	}
	return nil
}

// checkHeaderName lets through the names of headers (RFC 9110, section 5.1) that neither HTTP nor
// Herald sets itself.
func checkHeaderName(s string) error {
	if s == "" || len(s) > maxParamName {
		return textError("must have 1 to " + strconv.Itoa(maxParamName) + " characters")
	}
	for _, r := range s {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alnum && !strings.ContainsRune("!#$%&'*+-.^_`|~", r) {
			return textError("must be the name of a header, such as X-Api-Key")
		}
	}
	switch name := textproto.CanonicalMIMEHeaderKey(s); name {
	case "Host", "Content-Length", "Content-Type", "Content-Encoding", "Content-Digest", "Transfer-Encoding", "Te", "Trailer",
		"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate", "Upgrade",
		"Http2-Settings", "Expect", "User-Agent", "Accept-Encoding", "Signature", "Signature-Input", "Traceparent", "Tracestate",
		"Idempotency-Key", "X-Idempotency-Key": // these two would have net/http send a push again by itself
		return textError("must not be " + name + ", which every push sets or HTTP itself needs")
	default:
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "webhook-") || strings.HasPrefix(lower, "herald-") {
			return textError("must not begin with Webhook- or Herald-, which every push sets")
		}
	}
	return nil
}
