package notification

import (
	"time"

	"herald/daemon/sender/apns"
	"herald/daemon/sender/fcm"
	"herald/daemon/sender/webpush"
	"herald/queue"
	"herald/store"
)

// renderer makes the payloads of one notification, each once.
type renderer struct {
	impl *store.Implementation
	note *store.Notification
	made map[rendering]*payload
}

// rendering is what payloads differ by. Devices whose language is the same have the same.
type rendering struct {
	platform store.Platform
	provider store.Provider
	language string
}

type payload struct {
	body []byte
	apns *apns.Headers
	web  *webpush.Headers
}

func newRenderer(impl *store.Implementation, note *store.Notification) *renderer {
	return &renderer{impl: impl, note: note, made: make(map[rendering]*payload, 1)}
}

// payload returns what a device of that platform gets, or a *store.MessageError.
func (r *renderer) payload(p store.Platform, by store.Provider, locale string) (*payload, error) {
	key := rendering{p, by, r.note.Language(locale)}
	if made := r.made[key]; made != nil {
		return made, nil
	}
	made := &payload{}
	var err error
	switch by {
	case store.ProviderFCM:
		made.body, err = fcm.Render(r.note, p, locale)
	case store.ProviderAPNs:
		made.apns = new(apns.Headers)
		made.body, *made.apns, err = apns.Render(r.note, locale)
	case store.ProviderWebPush:
		made.web = new(webpush.Headers)
		made.body, *made.web, err = webpush.Render(r.note, locale)
	}
	if err != nil {
		return nil, err // a *store.MessageError is the API's to tell as it is
	}
	r.made[key] = made
	return made, nil
}

// providerOf is how the device is reached, or would be with credentials: without them its lane holds what it gets until
// there are some.
func (r *renderer) providerOf(d *store.Device) store.Provider {
	if by := r.impl.Provider(d.Platform, d.Kind); by != "" {
		return by
	}
	switch {
	case d.Kind == store.TokenWebPush:
		return store.ProviderWebPush
	case d.Platform == store.PlatformIOS && r.impl.IOSProvider != store.ProviderFCM && d.Kind == store.TokenPlain:
		return store.ProviderAPNs
	}
	return store.ProviderFCM
}

// measure renders for each of the devices and returns the largest payload of each platform.
func (r *renderer) measure(devices []store.Device) (map[store.Platform]int, error) {
	sizes := make(map[store.Platform]int)
	for i := range devices {
		d := &devices[i]
		p, err := r.payload(d.Platform, r.providerOf(d), d.Locale)
		if err != nil {
			return nil, err
		}
		sizes[d.Platform] = max(sizes[d.Platform], len(p.body))
	}
	return sizes, nil
}

// measureAll renders for every device the implementation may have.
func (r *renderer) measureAll() (map[store.Platform]int, error) {
	var devices []store.Device
	locales := map[string]bool{"": true}
	for _, texts := range []map[string]string{r.note.Title, r.note.Text} {
		for language := range texts {
			locales[language] = true
		}
	}
	for _, p := range store.Platforms() {
		for _, k := range []store.TokenKind{store.TokenPlain, store.TokenWebPush} {
			if k == store.TokenWebPush && p != store.PlatformWeb || r.impl.Provider(p, k) == "" {
				continue
			}
			for locale := range locales {
				devices = append(devices, store.Device{DeviceToken: store.DeviceToken{Platform: p, Kind: k}, Locale: locale})
			}
		}
	}
	return r.measure(devices)
}

// order is one device's part of a message on its way into the queue.
type order struct {
	rec deviceRecord
	sub queue.Submission
}

func (o *order) submit() (queue.Submission, error) {
	data, err := encode(&o.rec)
	o.sub.Data = data
	return o.sub, err
}

// submission makes the part of one device.
func (r *renderer) submission(d *store.Device, m *store.Message, now, due time.Time) (order, error) {
	by := r.providerOf(d)
	p, err := r.payload(d.Platform, by, d.Locale)
	if err != nil {
		return order{}, err
	}
	ttl := ttlOf(&m.Notification, d.Platform)
	start := now
	if due.After(now) {
		start = due
	}
	o := order{
		rec: deviceRecord{
			Version: recordVersion, Implementation: r.impl.ID, Contact: d.Contact, Platform: d.Platform, Provider: by,
			Expires: start.Add(ttl).UnixMilli(), TTL: int64(ttl / time.Second), Callback: m.CallbackURL,
			APNs: p.apns, Web: p.web, Payload: p.body,
		},
		sub: queue.Submission{
			Event: queue.Event{AccountID: m.AccountID, Type: typeDevice, Time: now, Trace: traceOf(m)},
			Lanes: []queue.Lane{queue.Lane(r.impl.Lane(store.LaneOf(d.Platform, by)))}, Due: due,
		},
	}
	if d.ID != (store.DeviceID{}) {
		o.rec.Device = d.ID.String()
	} else {
		o.rec.Token = &tokenRecord{Kind: d.Kind, Token: d.Token, P256DH: d.P256DH, Auth: d.Auth}
	}
	return o, nil
}

// ttlOf is the time to live on a platform.
func ttlOf(n *store.Notification, p store.Platform) time.Duration {
	own := n.Android.TTL
	switch p {
	case store.PlatformIOS:
		own = n.APNs.TTL
	case store.PlatformWeb:
		own = n.Web.TTL
	case store.PlatformAndroid:
	}
	if own != nil {
		return *own
	}
	return n.TTL
}
