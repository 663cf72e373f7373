package api

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"

	"herald/store"
)

// maxText bounds a text of a notification, in bytes. What fits into a payload is less, and is judged when it is made.
const maxText = store.MaxPayload

// notificationInput reads what is to be shown, or handed to the app, on devices.
type notificationInput struct {
	*fields
	// template: texts may hold {{path}}.
	template bool
	n        store.Notification
}

// readNotification takes the members of a notification.
func readNotification(f *fields, template bool) store.Notification {
	p := &notificationInput{fields: f, template: template}
	p.body()
	p.n.ImageURL = p.secureURL(f, "imageUrl")
	p.data()
	p.android()
	p.apn()
	p.web()
	p.actions()
	if v, is := p.integer("badge", 0, 1_000_000); is == given {
		p.n.Badge = &v
	}
	p.n.Sound = p.word(f, "sound", 100)
	p.n.TTL = store.MaxTTL
	if ttl := readTTL(f); ttl != nil {
		p.n.TTL = *ttl
	}
	p.n.CollapseKey = p.word(f, "collapseKey", store.MaxCollapseKey)
	p.silence()
	return p.n
}

// silence settles whether anything is shown, and how urgent it is: what nobody sees need not wake the device.
func (p *notificationInput) silence() {
	shows := len(p.n.Title) > 0 || len(p.n.Text) > 0 || p.n.Android.LocalizedTitle != "" || p.n.Android.LocalizedText != "" ||
		p.n.APNs.LocalizedTitle != "" || p.n.APNs.LocalizedText != ""
	silent, is := p.boolean("silent")
	switch {
	case is == wrong:
	case silent && shows:
		p.fault("silent", "shows nothing, so there must be no title and no text with it")
	case !silent && !shows && (is == given || len(p.n.Data) == 0) && !p.has("data"):
		p.fault("body", "needs a title or a text; what shows nothing is \"silent\": true, or has data")
	case !silent && !shows && is == given:
		p.fault("silent", "must be left out, or true, where there is neither title nor text")
	}
	p.n.Silent = silent || !shows
	p.n.High = !p.n.Silent
	if s, is := p.choice("priority", "high", "normal"); is == given {
		p.n.High = s == "high"
	}
}

func (p *notificationInput) body() {
	n, is := p.get("body", `an object such as {"title":{"en":"Hello"},"text":{"en":"…"}}`, jsontext.KindBeginObject)
	if is != given {
		return
	}
	f := object(n, p.path+"/body", p.faults)
	p.n.Title, p.n.Text = p.languages(f, "title"), p.languages(f, "text")
	// One text for all languages goes with each of the other's.
	p.n.Title, p.n.Text = spread(p.n.Title, p.n.Text), spread(p.n.Text, p.n.Title)
	switch s, is := f.text("forceLocale"); is {
	case null:
		f.fault("forceLocale", "must be a language tag, or left out")
	case given:
		p.n.ForceLocale = strings.ToLower(s)
		if err := checkLocale(s); err != nil {
			f.fault("forceLocale", "%s", err.Error())
			break
		}
		for _, of := range [...]struct {
			name  string
			texts map[string]string
		}{{"title", p.n.Title}, {"text", p.n.Text}} {
			if _, ok := of.texts[p.n.ForceLocale]; len(of.texts) > 0 && !ok {
				f.fault("forceLocale", "must be one of the languages of %s", of.name)
			}
		}
	case absent, wrong:
	}
	f.end("")
}

// anyLanguage is the tag of a text that is the same in all languages.
const anyLanguage = ""

func spread(texts, others map[string]string) map[string]string {
	same, ok := texts[anyLanguage]
	if !ok || len(others) == 0 {
		return texts
	}
	if _, both := others[anyLanguage]; both {
		return texts
	}
	all := make(map[string]string, len(others))
	for tag := range others {
		all[tag] = same
	}
	return all
}

// maxLanguages bounds the languages of a text.
const maxLanguages = 200

// languages takes a text by language, or one text for all.
func (p *notificationInput) languages(f *fields, name string) map[string]string {
	n, is := f.get(name, `an object of texts by language such as {"en":"Hello","nl":"Hallo"}, or a string`, jsontext.KindBeginObject, jsontext.KindString)
	if is != given {
		return nil
	}
	if n.kind == jsontext.KindString {
		p.shownText(f, name, n.text)
		return map[string]string{anyLanguage: n.text}
	}
	texts := make(map[string]string, len(n.members))
	inner := object(n, f.path+"/"+name, p.faults)
	for i := range n.members {
		m := &n.members[i]
		tag := strings.ToLower(m.name)
		switch {
		case i == maxLanguages:
			inner.fault("", "must have at most %d languages", maxLanguages)
			return texts
		case m.taken: // there twice
		case checkLocale(tag) != nil:
			inner.fault(m.name, "must be under a language tag such as nl or nl-BE")
		case m.value.kind != jsontext.KindString:
			inner.fault(m.name, "must be a string, not %s", m.value.what())
		default:
			p.shownText(inner, m.name, m.value.text)
			texts[tag] = m.value.text
		}
	}
	if len(n.members) == 0 {
		inner.fault("", "must have a text in at least one language; leave it out otherwise")
	}
	return texts
}

// shownText judges a text that people read.
func (p *notificationInput) shownText(f *fields, name, s string) {
	switch {
	case strings.TrimSpace(s) == "":
		f.fault(name, "must not be blank")
	case len(s) > maxText:
		f.fault(name, "must have at most %d bytes", maxText)
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' }):
		f.fault(name, "must not hold control characters other than line ends and tabs")
	default:
		p.places(f, name, s)
	}
}

// places judges the {{path}} of a text of a template.
func (p *notificationInput) places(f *fields, name, s string) {
	if !p.template {
		return
	}
	if err := store.CheckTemplateText(s); err != nil {
		f.fault(name, "%s", err.Error())
	}
}

// data takes the pairs for the app. Unlike the names of members, their keys differ by upper and lower case.
func (p *notificationInput) data() {
	n, is := p.get("data", `an object of strings such as {"orderId":"4711"}`, jsontext.KindBeginObject)
	if is != given {
		return
	}
	f := &fields{faults: p.faults, path: p.path + "/data", node: n}
	if len(n.members) == 0 {
		f.fault("", "invalid value: must have at least one pair; leave it out otherwise")
		return
	}
	p.n.Data = make(map[string]string, len(n.members))
	for i := range n.members {
		m := &n.members[i]
		lower := strings.ToLower(m.name)
		switch {
		case strings.TrimSpace(m.name) == "" || strings.ContainsFunc(m.name, unicode.IsControl):
			f.fault(m.name, "must have a key that is not blank and holds no control characters")
		case lower == "from", lower == "message_type", strings.HasPrefix(lower, "google"), strings.HasPrefix(lower, "gcm"):
			f.fault(m.name, "must have another key: from, message_type, and what begins with google or gcm are FCM's own")
		case m.value.kind != jsontext.KindString:
			f.fault(m.name, "must be a string, not %s", m.value.what())
		case strings.TrimSpace(m.value.text) == "":
			f.fault(m.name, "must not be blank")
		default:
			p.places(f, m.name, m.value.text)
			p.n.Data[m.name] = m.value.text
		}
	}
}

// block takes the options of one platform.
func (p *notificationInput) block(name string) *fields {
	n, is := p.get(name, "an object", jsontext.KindBeginObject)
	if is != given {
		return nil
	}
	return object(n, p.path+"/"+name, p.faults)
}

func (p *notificationInput) android() {
	f := p.block("android")
	if f == nil {
		return
	}
	o := &p.n.Android
	o.ClickAction, o.Icon = p.word(f, "clickAction", maxLabel), p.word(f, "icon", maxLabel)
	o.Color = f.checked("color", checkColor)
	o.ChannelID, o.Tag = p.word(f, "channelId", maxLabel), p.word(f, "tag", maxLabel)
	o.LocalizedTitle, o.LocalizedTitleArgs = p.localized(f, "localizedTitle")
	o.LocalizedText, o.LocalizedTextArgs = p.localized(f, "localizedText")
	o.TTL = readTTL(f)
	f.end("")
}

func (p *notificationInput) apn() {
	f := p.block("apn")
	if f == nil {
		return
	}
	o := &p.n.APNs
	o.LocalizedTitle, o.LocalizedTitleArgs = p.localized(f, "localizedTitle")
	o.LocalizedText, o.LocalizedTextArgs = p.localized(f, "localizedText")
	o.Subtitle, o.Category = p.word(f, "subtitle", maxText), p.word(f, "category", maxLabel)
	o.ThreadID, o.TargetContent = p.word(f, "threadId", maxLabel), p.word(f, "targetContentId", maxLabel)
	o.InterruptionLevel, _ = f.choice("interruptionLevel", "passive", "active", "time-sensitive", "critical")
	o.MutableContent, _ = f.boolean("mutableContent")
	o.Critical, _ = f.boolean("critical")
	o.Volume = 1
	switch v, is := f.number("volume", 0, 1); {
	case is == given && !o.Critical:
		f.fault("volume", "goes with \"critical\": true")
	case is == given:
		o.Volume = v
	}
	if !o.Critical {
		o.Volume = 0
	}
	if v, is := f.number("relevanceScore", 0, 1); is == given {
		o.RelevanceScore = &v
	}
	o.TTL = readTTL(f)
	f.end("")
}

func (p *notificationInput) web() {
	f := p.block("web")
	if f == nil {
		return
	}
	o := &p.n.Web
	o.IconURL, o.TargetURL, o.BadgeURL = p.secureURL(f, "iconUrl"), p.secureURL(f, "targetUrl"), p.secureURL(f, "badgeUrl")
	o.Tag = p.word(f, "tag", maxLabel)
	o.RequireInteraction, _ = f.boolean("requireInteraction")
	o.Renotify, _ = f.boolean("renotify")
	if o.Renotify && o.Tag == "" {
		f.fault("renotify", "needs a tag: it has a notification of the same tag shown anew")
	}
	o.TTL = readTTL(f)
	f.end("")
}

func (p *notificationInput) actions() {
	items, is := p.array("actions", `{"id","title"}`, 1, store.MaxActions)
	if is != given {
		return
	}
	seen := make(map[string]bool)
	for i := range items {
		f := object(&items[i], p.path+"/actions/"+strconv.Itoa(i), p.faults)
		a := store.Action{ID: f.needed("id", checkWord), Title: f.needed("title", checkWord), IconURL: p.secureURL(f, "iconUrl")}
		if seen[a.ID] && a.ID != "" {
			f.fault("id", "is there twice: %s", show(a.ID))
		}
		seen[a.ID] = true
		f.end("")
		p.n.Actions = append(p.n.Actions, a)
	}
}

// localized takes the key of a text of the app, and the arguments for it.
func (p *notificationInput) localized(f *fields, name string) (key string, args []string) {
	key = p.word(f, name, maxLabel)
	items, is := f.array(name+"Args", "strings", 1, 20)
	if is != given {
		return key, nil
	}
	if key == "" {
		f.fault(name+"Args", "goes with %s", name)
	}
	for i := range items {
		if items[i].kind != jsontext.KindString {
			f.element(name+"Args/"+strconv.Itoa(i), "must be a string, not %s", items[i].what())
			continue
		}
		args = append(args, items[i].text)
	}
	return key, args
}

// word takes a text of one line that may be left out.
func (p *notificationInput) word(f *fields, name string, most int) string {
	return f.checked(name, func(s string) error {
		if len(s) > most {
			return textError("must have at most " + strconv.Itoa(most) + " bytes")
		}
		return checkWord(s)
	})
}

func checkWord(s string) error {
	if err := checkNotBlank(s); err != nil {
		return err
	}
	if len(s) > maxText || strings.ContainsFunc(s, unicode.IsControl) {
		return textError("must be one line of text without control characters")
	}
	return nil
}

func checkColor(s string) error {
	if len(s) != 7 || s[0] != '#' || strings.Trim(s[1:], "0123456789abcdefABCDEF") != "" {
		return textError("must be a color of the form #rrggbb")
	}
	return nil
}

// secureURL takes a URL that devices load, which all of them do over TLS alone.
func (p *notificationInput) secureURL(f *fields, name string) string {
	return f.checked(name, func(s string) error {
		if !strings.HasPrefix(s, "https://") {
			return textError("must be a valid URL that begins with https://")
		}
		return checkDeviceURL(s)
	})
}

// checkDeviceURL judges a URL that a device opens, not Herald.
func checkDeviceURL(s string) error {
	rest, _, _ := strings.Cut(s, "#") // there it may have a fragment
	return checkCallbackURL(rest)
}

// readTTL takes how long a notification is kept, in seconds; nil when it is left out.
func readTTL(f *fields) *time.Duration {
	const name = "ttl"
	most := int64(store.MaxTTL / time.Second)
	n, is := f.get(name, "a number of seconds: invalid value", jsontext.KindNumber)
	if is != given {
		return nil
	}
	v, err := strconv.ParseInt(n.text, 10, 64)
	switch {
	case err != nil && strings.ContainsAny(n.text, ".eE"):
		f.fault(name, "invalid value: must be a whole number of seconds from 0 to %d", most)
		return nil
	case strings.HasPrefix(n.text, "-"):
		f.fault(name, "must be greater than or equal to 0")
		return nil
	case err != nil, v > most:
		f.fault(name, "must be less than or equal to %d", most)
		return nil
	}
	ttl := time.Duration(v) * time.Second
	return &ttl
}

// notificationView is a notification as the template of a subscription shows it.
type notificationView struct {
	Body        *bodyView         `json:"body,omitempty"`
	ImageURL    string            `json:"imageUrl,omitempty"`
	Data        map[string]string `json:"data,omitempty"`
	Android     *androidOptions   `json:"android,omitempty"`
	APN         *apnOptions       `json:"apn,omitempty"`
	Web         *webOptions       `json:"web,omitempty"`
	Actions     []actionView      `json:"actions,omitempty"`
	Badge       *int              `json:"badge,omitempty"`
	Sound       string            `json:"sound,omitempty"`
	Silent      bool              `json:"silent,omitzero"`
	TTL         int               `json:"ttl"`
	Priority    string            `json:"priority"`
	CollapseKey string            `json:"collapseKey,omitempty"`
}

type bodyView struct {
	Title       any    `json:"title,omitempty"`
	Text        any    `json:"text,omitempty"`
	ForceLocale string `json:"forceLocale,omitempty"`
}

type androidOptions struct {
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

type apnOptions struct {
	LocalizedTitle     string   `json:"localizedTitle,omitempty"`
	LocalizedTitleArgs []string `json:"localizedTitleArgs,omitempty"`
	LocalizedText      string   `json:"localizedText,omitempty"`
	LocalizedTextArgs  []string `json:"localizedTextArgs,omitempty"`
	Subtitle           string   `json:"subtitle,omitempty"`
	Category           string   `json:"category,omitempty"`
	ThreadID           string   `json:"threadId,omitempty"`
	TargetContentID    string   `json:"targetContentId,omitempty"`
	InterruptionLevel  string   `json:"interruptionLevel,omitempty"`
	MutableContent     bool     `json:"mutableContent,omitzero"`
	Critical           bool     `json:"critical,omitzero"`
	Volume             *float64 `json:"volume,omitempty"`
	RelevanceScore     *float64 `json:"relevanceScore,omitempty"`
	TTL                *int     `json:"ttl,omitempty"`
}

type webOptions struct {
	IconURL            string `json:"iconUrl,omitempty"`
	TargetURL          string `json:"targetUrl,omitempty"`
	BadgeURL           string `json:"badgeUrl,omitempty"`
	Tag                string `json:"tag,omitempty"`
	RequireInteraction bool   `json:"requireInteraction,omitzero"`
	Renotify           bool   `json:"renotify,omitzero"`
	TTL                *int   `json:"ttl,omitempty"`
}

type actionView struct {
	ID      string `json:"id"`
	Title   string `json:"title"`
	IconURL string `json:"iconUrl,omitempty"`
}

func viewNotification(n *store.Notification) notificationView {
	v := notificationView{
		ImageURL: n.ImageURL, Data: n.Data, Badge: n.Badge, Sound: n.Sound, Silent: n.Silent,
		TTL: int(n.TTL / time.Second), Priority: "normal", CollapseKey: n.CollapseKey,
	}
	if n.High {
		v.Priority = "high"
	}
	if len(n.Title) > 0 || len(n.Text) > 0 {
		v.Body = &bodyView{viewTexts(n.Title), viewTexts(n.Text), n.ForceLocale}
	}
	for _, a := range n.Actions {
		v.Actions = append(v.Actions, actionView(a))
	}
	a := androidOptions{
		n.Android.ClickAction, n.Android.Icon, n.Android.Color, n.Android.ChannelID, n.Android.Tag,
		n.Android.LocalizedTitle, n.Android.LocalizedTitleArgs, n.Android.LocalizedText, n.Android.LocalizedTextArgs, viewTTL(n.Android.TTL),
	}
	v.Android = unlessEmpty(&a, a.ClickAction+a.Icon+a.Color+a.ChannelID+a.Tag+a.LocalizedTitle+a.LocalizedText != "" || a.TTL != nil)
	i := apnOptions{
		n.APNs.LocalizedTitle, n.APNs.LocalizedTitleArgs, n.APNs.LocalizedText, n.APNs.LocalizedTextArgs,
		n.APNs.Subtitle, n.APNs.Category, n.APNs.ThreadID, n.APNs.TargetContent, n.APNs.InterruptionLevel,
		n.APNs.MutableContent, n.APNs.Critical, nil, n.APNs.RelevanceScore, viewTTL(n.APNs.TTL),
	}
	if n.APNs.Critical {
		i.Volume = &n.APNs.Volume
	}
	v.APN = unlessEmpty(&i, i.LocalizedTitle+i.LocalizedText+i.Subtitle+i.Category+i.ThreadID+i.TargetContentID+i.InterruptionLevel != "" ||
		i.MutableContent || i.Critical || i.RelevanceScore != nil || i.TTL != nil)
	w := webOptions{
		n.Web.IconURL, n.Web.TargetURL, n.Web.BadgeURL, n.Web.Tag, n.Web.RequireInteraction, n.Web.Renotify, viewTTL(n.Web.TTL),
	}
	v.Web = unlessEmpty(&w, w != webOptions{})
	return v
}

func unlessEmpty[T any](v *T, is bool) *T {
	if !is {
		return nil
	}
	return v
}

func viewTTL(d *time.Duration) *int {
	if d == nil {
		return nil
	}
	s := int(*d / time.Second)
	return &s
}

// viewTexts is a text as it was given: one for all languages, or by language.
func viewTexts(texts map[string]string) any {
	if len(texts) == 0 {
		return nil
	}
	if tags := slices.Collect(maps.Keys(texts)); len(tags) == 1 && tags[0] == anyLanguage {
		return texts[anyLanguage]
	}
	return texts
}
