package api

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"herald/queue"
	"herald/store"
)

// maxImplementations bounds the implementations of an account, because each has lanes of its own.
const maxImplementations = 1000

// implementationView is an implementation as a read shows it: what was given, without the secrets, and how its platforms fare.
type implementationView struct {
	ID                  string         `json:"id"`
	Name                string         `json:"name"`
	Android             *androidView   `json:"android,omitempty"`
	IOS                 *iosView       `json:"ios,omitempty"`
	Web                 *webView       `json:"web,omitempty"`
	Status              []platformView `json:"status"`
	StatusSigningSecret string         `json:"statusSigningSecret,omitempty"`
	CreatedAt           time.Time      `json:"createdAt"`
	UpdatedAt           time.Time      `json:"updatedAt"`
}

type androidView struct {
	ServiceAccount *serviceAccountView `json:"serviceAccount"`
}

// serviceAccountView has the names of Google's file.
type serviceAccountView struct {
	ProjectID   string `json:"project_id"`
	ClientEmail string `json:"client_email"`
	KeyID       string `json:"private_key_id,omitempty"`
	TokenURI    string `json:"token_uri"`
}

type iosView struct {
	Provider       string              `json:"provider"`
	KeyID          string              `json:"keyId,omitempty"`
	TeamID         string              `json:"teamId,omitempty"`
	Certificate    *apnsCertificate    `json:"certificateInfo,omitempty"`
	Topic          string              `json:"topic,omitempty"`
	Environment    string              `json:"environment,omitempty"`
	ServiceAccount *serviceAccountView `json:"serviceAccount,omitempty"`
}

type apnsCertificate struct {
	Subject  string    `json:"subject"`
	NotAfter time.Time `json:"notAfter"`
}

type webView struct {
	VAPID          vapidView           `json:"vapid"`
	ServiceAccount *serviceAccountView `json:"serviceAccount,omitempty"`
}

type vapidView struct {
	PublicKey string `json:"publicKey"`
	Subject   string `json:"subject"`
}

// platformView is how notifications of a platform fare that go through one provider.
type platformView struct {
	Platform    string    `json:"platform"`
	Provider    string    `json:"provider"`
	State       string    `json:"state"`
	Reason      string    `json:"reason,omitempty"`
	Since       time.Time `json:"since,omitzero"`
	NextProbeAt time.Time `json:"nextProbeAt,omitzero"`
	// Waiting notifications were not tried yet, or are to be tried again.
	Waiting int64 `json:"waiting"`
}

// The states of a platform.
const (
	platformActive    = "active"
	platformSuspended = "suspended"
)

const (
	environmentProduction = "production"
	environmentSandbox    = "sandbox"
)

func viewServiceAccount(f *store.FCM) *serviceAccountView {
	if f == nil {
		return nil
	}
	return &serviceAccountView{f.ProjectID, f.ClientEmail, f.KeyID, f.TokenURI}
}

func (a *API) viewImplementation(ctx context.Context, i *store.Implementation) (implementationView, error) {
	v := implementationView{ID: i.ID, Name: i.Name, Status: []platformView{}, CreatedAt: i.CreatedAt.UTC(), UpdatedAt: i.UpdatedAt.UTC()}
	if i.Android != nil {
		v.Android = &androidView{viewServiceAccount(i.Android)}
	}
	switch i.IOSProvider {
	case store.ProviderFCM:
		v.IOS = &iosView{Provider: string(i.IOSProvider), ServiceAccount: viewServiceAccount(i.IOSFCM)}
	case store.ProviderAPNs:
		v.IOS = viewAPNs(i.APNs)
	case store.ProviderWebPush: // does not reach iOS devices
	}
	if i.Web {
		v.Web = &webView{ServiceAccount: viewServiceAccount(i.WebFCM)}
		if i.VAPID != nil {
			v.Web.VAPID = vapidView{i.VAPID.PublicText(), i.VAPID.Subject}
		}
	}
	for _, way := range [...]struct {
		platform store.Platform
		kind     store.TokenKind
	}{
		{store.PlatformAndroid, store.TokenPlain},
		{store.PlatformIOS, store.TokenPlain},
		{store.PlatformWeb, store.TokenWebPush},
		{store.PlatformWeb, store.TokenPlain},
	} {
		provider := i.Provider(way.platform, way.kind)
		if provider == "" {
			continue
		}
		p, err := a.viewPlatform(ctx, i.Lane(store.LaneOf(way.platform, provider)))
		if err != nil {
			return v, err
		}
		p.Platform, p.Provider = string(way.platform), string(provider)
		v.Status = append(v.Status, p)
	}
	return v, nil
}

func viewAPNs(c *store.APNs) *iosView {
	v := &iosView{Provider: string(store.ProviderAPNs), KeyID: c.KeyID, TeamID: c.TeamID, Topic: c.Topic, Environment: environmentProduction}
	if c.Sandbox {
		v.Environment = environmentSandbox
	}
	if b, _ := pem.Decode([]byte(c.Chain)); b != nil {
		if leaf, err := x509.ParseCertificate(b.Bytes); err == nil {
			v.Certificate = &apnsCertificate{leaf.Subject.String(), leaf.NotAfter.UTC()}
		}
	}
	return v
}

// viewPlatform looks at a lane. One that is not there, because the implementation is deleted at this moment, has nothing to tell.
func (a *API) viewPlatform(ctx context.Context, id store.SubscriptionID) (platformView, error) {
	v := platformView{State: platformActive}
	lane, err := a.store.Subscription(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return v, nil
	case err != nil:
		return v, err
	}
	if h := &lane.Health; h.Suspended != "" {
		v.State, v.Reason, v.Since, v.NextProbeAt = platformSuspended, h.Suspended, shown(h.OpenedAt), shown(h.ProbeAt)
	}
	stats := a.queue.LaneStats(queue.Lane(id))
	v.Waiting = stats.Pending + stats.Retrying
	return v, nil
}

func (a *API) listImplementations(c *call) error {
	var fs faults
	q := c.r.URL.Query()
	limit, after := limitOf(q, &fs, 0), q.Get("after")
	if after != "" && checkChosenID(after) != nil {
		fs.add("after", "must be the id of an implementation")
	}
	if err := fs.err(); err != nil {
		return err
	}
	return stream(c, q, limit, func(last **store.Implementation, n int) ([]*store.Implementation, error) {
		if last != nil {
			after = (*last).ID
		}
		return a.store.Implementations(c.r.Context(), c.account.ID, after, n)
	}, func(i **store.Implementation) string { return (*i).ID }, func(dst []byte, i **store.Implementation) ([]byte, error) {
		v, err := a.viewImplementation(c.r.Context(), *i)
		if err != nil {
			return dst, err
		}
		return viewOf(func(v *implementationView) implementationView { return *v })(dst, &v)
	})
}

// implementation finds the implementation of the path.
func (c *call) implementation() (*store.Implementation, error) {
	i, err := c.api.store.Implementation(c.r.Context(), c.account.ID, c.r.PathValue("implementation"))
	if errors.Is(err, store.ErrNotFound) {
		return nil, errNoImplementation()
	}
	return i, err
}

func errNoImplementation() *problem {
	return newProblem(notFound, "there is no such implementation of this account; GET /implementations lists those there are")
}

// answerImplementation shows an implementation, with the secret that was made for it, or "".
func (a *API) answerImplementation(c *call, i *store.Implementation, made string) error {
	v, err := a.viewImplementation(c.r.Context(), i)
	if err != nil {
		return err
	}
	v.StatusSigningSecret = made
	return c.answer(http.StatusOK, v)
}

func (a *API) readImplementation(c *call) error {
	i, err := c.implementation()
	if err != nil {
		return err
	}
	return a.answerImplementation(c, i, "")
}

// readImplementationInput reads the body, which must be an object.
func (c *call) readImplementationInput(types ...string) (*node, error) {
	if _, err := c.readBody(types...); err != nil {
		return nil, err
	}
	n, err := c.parse()
	if err == nil && n.kind != jsontext.KindBeginObject {
		err = newProblem(badRequest, "the body must be a JSON object, not %s", n.what())
	}
	return n, err
}

func (a *API) createImplementation(c *call) error {
	in, err := c.readImplementationInput(typeJSON)
	if err != nil {
		return err
	}
	now := a.moment()
	i := &store.Implementation{AccountID: c.account.ID, CreatedAt: now, UpdatedAt: now}
	made, err := a.applyImplementation(c, in, nil, i, a.decoder(c.r.Context()))
	if err != nil {
		return err
	}
	if i.ID == "" {
		if i.ID, err = store.NewImplementationID(); err != nil {
			return err
		}
	}
	i, err = a.store.CreateImplementation(c.r.Context(), i, maxImplementations)
	switch {
	case errors.Is(err, store.ErrExists):
		return newProblem(conflict, "there is an implementation of that id already; choose another, or change that one with PATCH")
	case errors.Is(err, store.ErrLimit):
		return newProblem(conflict, "the account has %d implementations, as many as it may have; delete one", maxImplementations)
	case errors.Is(err, store.ErrNotFound):
		return newProblem(notFound, "the account %s was deleted", c.account.ID)
	case err != nil:
		return err
	}
	c.Header().Set("Location", "/implementations/"+i.ID)
	return a.answerImplementation(c, i, made)
}

// patchImplementation is a merge patch (RFC 7396). There is no PUT: credentials are not shown, so nobody could send all of them back.
// What takes long is read before the store's step, and judged once more within it, on the implementation as it is then.
func (a *API) patchImplementation(c *call) error {
	before, err := c.implementation()
	if err != nil {
		return err
	}
	in, err := c.readImplementationInput(typeMergePatch, typeJSON)
	if err != nil {
		return err
	}
	if _, err := a.applyImplementation(c, in, before, before.Clone(), a.decoder(c.r.Context())); err != nil {
		return err
	}
	now, made := a.moment(), ""
	i, err := a.store.UpdateImplementation(c.r.Context(), c.account.ID, before.ID, func(i *store.Implementation) error {
		before = i.Clone()
		var err error
		made, err = a.applyImplementation(c, in, before, i, nil)
		i.UpdatedAt = now
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return errNoImplementation()
	}
	if err != nil {
		return err
	}
	a.credentialsChanged(c.r.Context(), before, i)
	return a.answerImplementation(c, i, made)
}

// credentialsChanged has lanes begin anew whose credentials are others than before, or were refused: what was wrong may have been put right
// at the provider's. It tells the daemon. The change is durable, so what
// fails here is no failure of the call: a lane that stays suspended is probed by itself, later.
func (a *API) credentialsChanged(ctx context.Context, before, i *store.Implementation) {
	ctx = context.WithoutCancel(ctx)
	var lanes []store.SubscriptionID
	for _, k := range store.LaneKinds() {
		id := i.Lane(k)
		lane, err := a.store.Subscription(ctx, id)
		suspended := err == nil && lane.Health.Suspended != ""
		if !suspended && reflect.DeepEqual(credentialsOf(before, k), credentialsOf(i, k)) {
			continue
		}
		_, err = a.store.UpdateSubscription(ctx, id, func(s *store.Subscription) error {
			s.Health, s.UpdatedAt = store.Health{}, i.UpdatedAt
			return nil
		})
		if err != nil && !errors.Is(err, store.ErrNotFound) { // deleted meanwhile
			a.logger.WarnContext(ctx, "a platform with new credentials waits for its next probe", "implementation", i.ID, "error", err)
		}
		lanes = append(lanes, id)
	}
	a.notifier.Changed(i.AccountID, i.ID, lanes)
	for _, id := range lanes {
		a.changed(id)
	}
}

// credentialsOf is what a lane of that kind sends with.
func credentialsOf(i *store.Implementation, k store.LaneKind) any {
	switch k {
	case store.LaneAndroid:
		return i.FCM(store.PlatformAndroid)
	case store.LaneIOS:
		return []any{i.IOSProvider, i.APNs, i.FCM(store.PlatformIOS)}
	case store.LaneWebPush:
		return i.VAPID
	case store.LaneWebFCM:
		return i.FCM(store.PlatformWeb)
	case store.LaneExpansion:
	}
	return nil
}

func (a *API) deleteImplementation(c *call) error {
	i, err := c.implementation()
	if err != nil {
		return err
	}
	lanes, err := a.store.DeleteImplementation(c.r.Context(), c.account.ID, i.ID)
	if errors.Is(err, store.ErrNotFound) {
		return errNoImplementation()
	}
	if err != nil {
		return err
	}
	a.notifier.Changed(c.account.ID, i.ID, lanes)
	a.dropLanes(c.r.Context(), lanes)
	return c.empty()
}

// implementationInput reads the members of an implementation over what they are now.
type implementationInput struct {
	*fields
	settings *Settings
	current  *store.Implementation // nil when creating
	next     *store.Implementation
	subject  string // of VAPID, where none is given
	// generated is the secret made because none was given.
	generated string
	// decode reads a PKCS #12 file; nil where the body has been read before.
	decode  func(text, password string) (*decoded, *problem)
	refusal *problem
	failure error
}

// applyImplementation reads the input over next and judges all of it. It returns the signing secret that was made, or "".
func (a *API) applyImplementation(c *call, in *node, current, next *store.Implementation, decode func(text, password string) (*decoded, *problem)) (string, error) {
	var fs faults
	p := &implementationInput{fields: object(in, "", &fs), settings: c.settings, current: current, next: next, subject: a.subject(), decode: decode}
	p.read()
	switch {
	case p.failure != nil:
		return "", p.failure
	case p.refusal != nil:
		return "", p.refusal
	}
	return p.generated, fs.err()
}

func (p *implementationInput) read() {
	if p.current == nil {
		p.next.ID = p.checked("id", checkChosenID)
	} else {
		p.same("id", p.current.ID, "an implementation keeps its id; POST /implementations makes another")
		p.ignore("status", "createdAt", "updatedAt")
	}
	if name, is := p.label("name"); is != absent {
		p.next.Name = name
	}
	p.android()
	p.ios()
	p.web()
	p.statusSecret()
	p.end("")
}

// platform takes the member of a platform; it is nil when there is nothing to read.
func (p *implementationInput) platform(name, want string) (f *fields, removed bool) {
	n, is := p.get(name, want, jsontext.KindBeginObject)
	if is != given {
		return nil, is == null
	}
	return object(n, "/"+name, p.faults), false
}

const serviceAccountWanted = `an object: the file of a service account, as Google gives it`

func (p *implementationInput) android() {
	f, removed := p.platform("android", `an object such as {"serviceAccount":{…}}, or null`)
	if removed {
		p.next.Android = nil
	}
	if f == nil {
		return
	}
	p.next.Android = p.serviceAccount(f, p.next.Android)
	if p.next.Android == nil {
		f.fault("serviceAccount", "is needed: "+serviceAccountWanted+"; \"android\": null takes the platform away")
	}
	f.end("")
}

// serviceAccount takes the key of a service account, over the one there is. Google's file has more members than are used, and may get
// others, so what is not known is let pass.
func (p *implementationInput) serviceAccount(outer *fields, before *store.FCM) *store.FCM {
	const name = "serviceAccount"
	n, is := outer.get(name, serviceAccountWanted, jsontext.KindBeginObject)
	switch is {
	case null:
		return nil
	case absent, wrong:
		return before
	case given:
	}
	f := object(n, outer.path+"/"+name, p.faults)
	next := store.FCM{TokenURI: store.DefaultTokenURI}
	if before != nil {
		next = *before
	}
	if kind, is := f.text("type"); is == given && kind != "service_account" {
		f.fault("type", "must be service_account; this is a file of another kind of credentials")
	}
	next.ProjectID = f.kept("project_id", next.ProjectID, checkProject)
	next.ClientEmail = f.kept("client_email", next.ClientEmail, checkEmail)
	if id, is := f.text("private_key_id"); is == given {
		next.KeyID = id
		if err := checkVisible(id); err != nil || len(id) > maxParamName {
			f.fault("private_key_id", "must have at most %d printable ASCII characters", maxParamName)
		}
	}
	if uri, is := f.text("token_uri"); is == given {
		next.TokenURI = uri
		if err := store.CheckTokenURI(uri, p.settings.FCMTokenOrigin); err != nil {
			f.fault("token_uri", "%s", err.Error())
		}
	}
	switch key, is := f.text("private_key"); {
	case is == given:
		der, err := store.ParseFCMKey(key)
		if err != nil {
			f.fault("private_key", "%s", err.Error())
		}
		next.PrivateKey = der
	case is == wrong:
	case before == nil, next.ClientEmail != before.ClientEmail:
		f.fault("private_key", "is needed: the RSA key of the service account in PEM")
	}
	return &next
}

// kept takes a string that is needed, unless it has a value already.
func (f *fields) kept(name, before string, check func(string) error) string {
	if before != "" && !f.has(name) {
		return before
	}
	return f.needed(name, check)
}

func checkProject(s string) error {
	if s == "" || len(s) > 100 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-.:") != "" {
		return textError("must be the id of a Google Cloud project, such as shop-4711")
	}
	return nil
}

func checkEmail(s string) error {
	if len(s) > 320 || !strings.Contains(s, "@") || checkVisible(s) != nil {
		return textError("must be the e-mail address of the service account")
	}
	return nil
}

func (p *implementationInput) ios() {
	f, removed := p.platform("ios", `an object such as {"key":"…","keyId":"…","teamId":"…","topic":"…"} or {"provider":"fcm"}, or null`)
	if removed {
		p.next.IOSProvider, p.next.APNs, p.next.IOSFCM = "", nil, nil
	}
	if f != nil {
		provider := p.next.IOSProvider
		if s, is := f.choice("provider", string(store.ProviderAPNs), string(store.ProviderFCM)); is == given {
			provider = store.Provider(s)
		} else if is == null || provider == "" {
			provider = store.ProviderAPNs
		}
		p.next.IOSProvider = provider
		if provider == store.ProviderFCM {
			p.next.APNs, p.next.IOSFCM = nil, p.serviceAccount(f, p.next.IOSFCM)
			f.end("with the provider fcm, ios has nothing but serviceAccount")
		} else {
			p.next.APNs, p.next.IOSFCM = p.apns(f, p.next.APNs), nil
			f.end("")
		}
	}
	if p.next.IOSProvider == store.ProviderFCM && p.next.FCM(store.PlatformIOS) == nil {
		p.element("ios/serviceAccount", "is needed: android has none that ios could share")
	}
}

// apns takes a key or a certificate, over what there is. Whichever of the two is given takes the place of the other.
func (p *implementationInput) apns(f *fields, before *store.APNs) *store.APNs {
	next := store.APNs{}
	if before != nil {
		next = *before
	}
	next.Topic = f.kept("topic", next.Topic, checkTopic)
	switch s, is := f.choice("environment", environmentProduction, environmentSandbox); is {
	case given:
		next.Sandbox = s == environmentSandbox
	case null:
		next.Sandbox = false
	case absent, wrong:
	}
	key, keyIs := f.text("key")
	certificate, certificateIs := f.text("certificate")
	password, passwordIs := f.text("password")
	f.ignore("certificateInfo")
	switch {
	case keyIs == given && certificateIs == given:
		f.fault("certificate", "excludes key; give one of the two")
	case keyIs == given:
		der, err := store.ParseAPNsKey(key)
		if err != nil {
			f.fault("key", "%s", err.Error())
		}
		next.Key, next.Chain, next.CertificateKey = der, "", nil
	case certificateIs == given:
		p.apnsCertificate(f, &next, certificate, password)
	case keyIs == wrong, certificateIs == wrong:
	case keyIs == null, certificateIs == null, next.Key == nil && next.Chain == "":
		f.fault("key", "is needed: the text of the .p8 file of Apple, or certificate: a .p12 file in base64")
	}
	if passwordIs == given && certificateIs != given {
		f.fault("password", "goes with certificate: the password of the one that is set is not needed any more")
	}
	// The ids belong to a key, and a new key has another.
	if next.Chain != "" || certificateIs == given {
		next.KeyID, next.TeamID = "", ""
		for _, name := range []string{"keyId", "teamId"} {
			if f.has(name) {
				f.fault(name, "goes with key; a certificate has none")
			}
		}
		f.ignore("keyId", "teamId")
		return &next
	}
	if keyIs == given && before != nil && !bytes.Equal(before.Key, next.Key) {
		next.KeyID = ""
	}
	next.KeyID = f.kept("keyId", next.KeyID, checkAppleID)
	next.TeamID = f.kept("teamId", next.TeamID, checkAppleID)
	return &next
}

func (p *implementationInput) apnsCertificate(f *fields, next *store.APNs, text, password string) {
	n := f.value("certificate")
	made, refusal := n.decodedOnce(p.decode, text, password)
	if made == nil {
		p.refusal = refusal
		return
	}
	if made.fault != "" {
		name := made.field
		if name != "password" {
			name = "certificate"
		}
		f.fault(name, "%s", made.fault)
		return
	}
	next.Key, next.Chain, next.CertificateKey = nil, made.certificate.Chain, made.certificate.Key
}

// value is the value of a member that is there and was taken.
func (f *fields) value(name string) *node {
	for i := range f.node.members {
		if fold(f.node.members[i].name) == fold(name) {
			return &f.node.members[i].value
		}
	}
	return nil
}

func checkTopic(s string) error {
	if s == "" || len(s) > maxParamName || checkVisible(s) != nil {
		return textError("must be the bundle id of the app, such as example.shop.app")
	}
	return nil
}

func checkAppleID(s string) error {
	if len(s) != 10 || strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" {
		return textError("must have 10 capital letters and digits, as Apple shows it")
	}
	return nil
}

func (p *implementationInput) web() {
	f, removed := p.platform("web", `an object, which may be empty, such as {"vapid":{…}}, or null`)
	if removed {
		p.next.Web, p.next.VAPID, p.next.WebFCM = false, nil, nil
	}
	if f == nil {
		return
	}
	p.next.Web = true
	p.next.WebFCM = p.serviceAccount(f, p.next.WebFCM)
	p.vapid(f)
	f.end("")
}

// vapid takes the key pair, or makes one. Subscriptions of browsers are bound to it, and die with it.
func (p *implementationInput) vapid(outer *fields) {
	n, is := outer.get("vapid", `an object such as {"subject":"mailto:push@shop.example"}`, jsontext.KindBeginObject)
	if is == null {
		outer.fault("vapid", "cannot be removed: browsers' subscriptions are bound to it; \"web\": null takes the platform away")
	}
	if is == null || is == wrong {
		return
	}
	if is == absent {
		n = &node{kind: jsontext.KindBeginObject}
	}
	f := object(n, outer.path+"/vapid", p.faults)
	defer f.end("")
	subject, private, public := p.subject, "", ""
	before := p.next.VAPID
	if before != nil {
		subject = before.Subject
	}
	if s, is := f.text("subject"); is == given {
		subject = s
	}
	private, privateIs := f.text("privateKey")
	public, publicIs := f.text("publicKey")
	replace, _ := f.boolean("replaceKey")
	if subject == "" {
		f.fault("subject", "is needed: mailto: and an address, or an https URL, under which push services reach you")
	} else if err := store.CheckVAPIDSubject(subject); err != nil {
		f.refuse(err, "subject")
	}
	next := before
	switch {
	case privateIs == given:
		v, err := store.ParseVAPID(private, public, vapidPlaceholder)
		if err != nil {
			f.refuse(err, "privateKey", "publicKey")
			return
		}
		next = v
	case privateIs == wrong, publicIs == wrong:
		return
	case before == nil || replace && publicIs != given:
		v, err := store.GenerateVAPID()
		if err != nil {
			p.failure = err
			return
		}
		next = v
	}
	switch {
	case privateIs != given && publicIs == given && (before == nil || public != before.PublicText()):
		f.fault("publicKey", "needs the privateKey it belongs to; without both, a pair is made")
		return
	case before != nil && !replace && !bytes.Equal(before.PrivateKey, next.PrivateKey):
		f.fault("privateKey", "would take the place of the one that browsers have subscribed with, all of which would have to subscribe again; "+
			"\"replaceKey\": true says that this is meant")
		return
	}
	v := *next
	v.Subject = subject
	p.next.VAPID = &v
}

// vapidPlaceholder is for reading a pair, whose subject is judged on its own.
const vapidPlaceholder = "mailto:push@example.com"

// refuse notes an error that begins with the name of the member it is about, which is one of those given.
func (f *fields) refuse(err error, names ...string) {
	text := err.Error()
	for _, name := range names {
		if rest, ok := strings.CutPrefix(text, name+" "); ok {
			f.fault(name, "%s", rest)
			return
		}
	}
	f.fault(names[0], "%s", text)
}

// statusSecret takes what status changes are signed with, or makes it: at the creation, and for null.
func (p *implementationInput) statusSecret() {
	const name = "statusSigningSecret"
	s, is := p.text(name)
	if is == null || is == absent && p.current == nil {
		var made store.SigningSecret
		made, p.generated = newSigningSecret(false)
		p.next.StatusSecret = made.Key
	}
	if is != given {
		return
	}
	secret, ok := parseSigningSecret(s)
	if !ok || secret.Ed25519 {
		p.fault(name, "must be whsec_ and 24 to 64 bytes in base64; leave it out to have one generated")
		return
	}
	p.next.StatusSecret = secret.Key
}

// allLanes are the lanes of an implementation.
func allLanes(i *store.Implementation) []store.SubscriptionID {
	var lanes []store.SubscriptionID
	for _, lane := range i.Lanes() {
		lanes = append(lanes, lane.ID)
	}
	return lanes
}
