package notification

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"herald/daemon/sender"
	"herald/queue"
	"herald/store"
)

// A message to one device is rendered in its language, handed to its provider with the credentials of the implementation, and sent.
func TestMessageToADevice(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		d := h.put(t, store.Device{Contact: "ann", Locale: "nl-BE", DeviceToken: store.DeviceToken{Platform: store.PlatformAndroid, Kind: store.TokenPlain, Token: "phone"}}, "")
		start := time.Now()
		id := h.send(t, to("ann"))
		v := h.want(t, id, store.MessageSent, "")
		if v.Contact != "ann" || v.ImplementationID != "shop" || len(v.Devices) != 1 || v.Sent != 1 || v.Next != "" || !v.ExpiresAt.Equal(start.Add(time.Hour).Truncate(time.Millisecond)) {
			t.Fatalf("view %+v", v)
		}
		x := v.Devices[0]
		if x.ID != d.ID || x.Platform != store.PlatformAndroid || x.ProviderID != "provider-phone" || len(x.Attempts) != 1 || x.Attempts[0].HTTPStatus != 200 {
			t.Errorf("device %+v", x)
		}
		got := h.fake.attempts()
		if len(got) != 1 || got[0].provider != store.ProviderFCM || got[0].credentials != "project" || !strings.Contains(got[0].payload, "Uw bestelling is onderweg") {
			t.Errorf("attempts %+v", got)
		}
		if _, err := h.n.Message(t.Context(), "another", id, "", 10); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("another account: %v", err)
		}
		for _, unknown := range []string{"msg_", "msg_00000000000000000000000000", "evt" + id[3:], "x"} {
			if _, err := h.n.Message(t.Context(), store.DefaultAccount, unknown, "", 10); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("message %q: %v", unknown, err)
			}
		}
	})
}

// The line of each attempt says which message it was for and by whom the device is reached, and no token, text or path of a callback.
func TestLog(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		phone := h.register(t, "ann", store.PlatformAndroid, "token-of-the-phone")
		h.register(t, "ann", store.PlatformIOS, "a1b2c3")
		h.fake.answerWith(func(a attempt) sender.Result {
			if a.provider == store.ProviderAPNs {
				r := answered(queue.ClassRejected, 400, sender.DeviceUnknown)
				r.Error = "APNs answered 400 BadTopic"
				return r
			}
			return taken(a)
		})
		traced := func(m *store.Message) {
			m.CallbackURL = "https://hooks.example/secret/path?key=4711"
			m.TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		}
		one := h.send(t, func(m *store.Message) { to("ann")(m); traced(m) })
		settle()
		many := h.send(t, func(m *store.Message) { m.Contacts = []string{"ann"}; traced(m) })
		settle()
		log := h.log.String()
		lines := strings.Split(strings.TrimSpace(log), "\n")
		common := " account=default implementation=shop lane="
		for _, id := range []string{one, many} {
			end := " trace_id=0af7651916cd43dd8448eb211c80319c"
			for _, want := range [][]string{
				{common + "android platform=android provider=fcm device=" + phone.ID.String() + " tracking_id=" + id, "type=herald.message.device", "outcome=delivered status=200", end},
				{common + "ios platform=ios provider=apns device=", " tracking_id=" + id, "outcome=rejected status=400", `error="APNs answered 400 BadTopic" reason=rejected next=dead`, end},
				{common + "status tracking_id=" + id + " host=hooks.example ", "type=herald.message.status", "outcome=delivered", end},
			} {
				if !slices.ContainsFunc(lines, func(line string) bool {
					return !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(line, w) })
				}) {
					t.Errorf("no line has %q in\n%s", want, log)
				}
			}
		}
		if want := common + "expansion tracking_id=" + many; !strings.Contains(log, want) {
			t.Errorf("no line has %q in\n%s", want, log)
		}
		for _, secret := range []string{"token-of-the-phone", "a1b2c3", "secret/path", "4711", "bestelling"} {
			if strings.Contains(log, secret) {
				t.Errorf("the log has %q:\n%s", secret, log)
			}
		}
	})
}

// Every device of a contact gets it, each through its own provider, and what becomes of one says nothing of the others.
func TestMessageToAContact(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		for i, token := range numbered("android", 12) {
			h.register(t, "ann", store.PlatformAndroid, token)
			h.register(t, "bob", store.PlatformAndroid, fmt.Sprint("bob", i))
		}
		h.register(t, "ann", store.PlatformIOS, "a1b2")
		h.put(t, store.Device{Contact: "ann", DeviceToken: store.DeviceToken{Platform: store.PlatformWeb, Kind: store.TokenWebPush, Token: "https://push.example.com/1", P256DH: make([]byte, 65), Auth: make([]byte, 16)}}, "")
		h.fake.answerWith(func(a attempt) sender.Result {
			if a.token == "android0003" {
				return answered(queue.ClassRejected, 400, sender.DeviceUnknown)
			}
			return taken(a)
		})
		id := h.send(t, to("ann"))
		v := h.want(t, id, store.MessageSent, "")
		if v.Sent != 13 || v.Failed != 1 || len(v.Devices) != 14 {
			t.Fatalf("view %+v", v)
		}
		want := append(numbered("android", 12), "a1b2", "https://push.example.com/1")
		slices.Sort(want)
		if got := h.fake.tokens(); !slices.Equal(got, want) {
			t.Errorf("sent to %v", got)
		}
		var seen []store.DeviceID
		after := ""
		for range 20 {
			v, err := h.n.Message(t.Context(), store.DefaultAccount, id, after, 4)
			if err != nil || v.Sent != 13 || v.Failed != 1 {
				t.Fatalf("page %q: %+v, %v", after, v, err)
			}
			for _, d := range v.Devices {
				seen = append(seen, d.ID)
			}
			if after = v.Next; after == "" {
				break
			}
		}
		if len(seen) != 14 || len(slices.Compact(seen)) != 14 {
			t.Errorf("pages show %d devices", len(seen))
		}
		if _, err := h.n.Accept(t.Context(), hello(to("nobody"))); !isMessageError(err, "routeeContactId", true) {
			t.Errorf("a contact without devices: %v", err)
		}
	})
}

func isMessageError(err error, field string, missing bool) bool {
	wrong := (*store.MessageError)(nil)
	return errors.As(err, &wrong) && wrong.Field == field && wrong.Missing == missing && wrong.Detail != ""
}

// A message to a token goes there, registered or not.
func TestMessageToAToken(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		d := h.register(t, "ann", store.PlatformIOS, "a1b2")
		at := func(token string) func(m *store.Message) {
			return func(m *store.Message) {
				m.Token = &store.DeviceToken{Platform: store.PlatformIOS, Kind: store.TokenPlain, Token: token}
			}
		}
		v := h.want(t, h.send(t, at("a1b2")), store.MessageSent, "")
		if v.Devices[0].ID != d.ID || v.Devices[0].Contact != "ann" {
			t.Errorf("registered: %+v", v.Devices[0])
		}
		v = h.want(t, h.send(t, at("c3d4")), store.MessageSent, "")
		if v.Devices[0].ID != (store.DeviceID{}) || v.Devices[0].Platform != store.PlatformIOS {
			t.Errorf("not registered: %+v", v.Devices[0])
		}
		h.fake.answerWith(func(attempt) sender.Result {
			return answered(queue.ClassGone, 410, sender.DeviceDead)
		})
		h.want(t, h.send(t, at("e5f6")), store.MessageFailed, queue.ReasonRejected)
		ids := map[string]bool{}
		for _, a := range h.fake.attempts() {
			ids[a.id] = true
			if a.expires.IsZero() {
				t.Errorf("no expiration: %+v", a)
			}
		}
		if len(ids) != 3 {
			t.Errorf("the provider was given the ids %v", ids)
		}
	})
}

// What is tried again keeps its id, and stops when its time to live has ended.
func TestExpiry(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		h.register(t, "ann", store.PlatformIOS, "a1b2")
		h.fake.answerWith(func(attempt) sender.Result {
			r := answered(queue.ClassRetry, 429, sender.DeviceUnknown)
			r.Innocent = true
			return r
		})
		id := h.send(t, func(m *store.Message) { m.Contact, m.TTL = "ann", time.Minute })
		h.want(t, id, store.MessageQueued, "")
		time.Sleep(61 * time.Second)
		h.want(t, id, store.MessageFailed, queue.ReasonExpired) // also before anybody has looked at it
		time.Sleep(time.Hour)
		v := h.want(t, id, store.MessageFailed, queue.ReasonExpired)
		got := h.fake.attempts()
		if len(got) != 3 || got[2].at.Sub(got[0].at) != 30*time.Second { // at 0, 10 and 30 seconds; the next would be at 70
			t.Errorf("attempts %+v", got)
		}
		if got[0].id != got[2].id || !got[0].expires.Equal(got[0].at.Add(time.Minute).Truncate(time.Millisecond)) {
			t.Errorf("ids %s and %s, expires %s", got[0].id, got[2].id, got[0].expires)
		}
		if d := v.Devices[0]; !strings.Contains(d.Error, "time to live of 60 s") || len(d.Attempts) != 4 {
			t.Errorf("device %+v", d)
		}
		// Without a time to live it is tried once.
		id = h.send(t, func(m *store.Message) { m.Contact, m.TTL = "ann", 0 })
		time.Sleep(time.Hour)
		h.want(t, id, store.MessageFailed, queue.ReasonExpired)
		if got := h.fake.attempts(); len(got) != 4 || !got[3].expires.IsZero() {
			t.Errorf("attempts %+v", got[3:])
		}
		h.fake.answerWith(taken)
		h.want(t, h.send(t, func(m *store.Message) { m.Contact, m.TTL = "ann", 0 }), store.MessageSent, "")
	})
}

// A message with a key is one, however often and from however many it comes; with other content it is refused.
func TestKey(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		h.register(t, "ann", store.PlatformAndroid, "phone")
		h.register(t, "ann", store.PlatformAndroid, "tablet")
		keyed := func(m *store.Message) { m.Contact, m.Key, m.Digest = "ann", "order 5", [16]byte{1} }
		var wg sync.WaitGroup
		var mu sync.Mutex
		ids := map[string]int{}
		fresh := 0
		for range 32 {
			wg.Go(func() {
				sent, err := h.n.Accept(t.Context(), hello(keyed))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				ids[sent.TrackingID]++
				if !sent.Duplicate {
					fresh++
				}
			})
		}
		wg.Wait()
		settle()
		if len(ids) != 1 || fresh != 1 || len(h.fake.attempts()) != 2 {
			t.Errorf("ids %v, %d of them fresh, %d attempts", ids, fresh, len(h.fake.attempts()))
		}
		h.restart(t)
		h.register(t, "ann", store.PlatformAndroid, "watch")
		id := h.send(t, keyed)
		if ids[id] == 0 || len(h.fake.attempts()) != 2 {
			t.Errorf("after a restart it is %s, %d attempts", id, len(h.fake.attempts()))
		}
		if v := h.want(t, id, store.MessageSent, ""); v.Sent != 2 {
			t.Errorf("view %+v", v)
		}
		conflict := (*queue.ConflictError)(nil)
		if _, err := h.n.Accept(t.Context(), hello(func(m *store.Message) { keyed(m); m.Digest = [16]byte{2} })); !errors.As(err, &conflict) {
			t.Errorf("other content: %v", err)
		}
	})
}

// A message for later goes out at its moment, to the devices there are then.
func TestSendAt(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		h.register(t, "ann", store.PlatformAndroid, "old")
		at := time.Now().Add(50 * time.Hour).UTC().Truncate(time.Millisecond)
		later := func(m *store.Message) { m.Contact, m.SendAt, m.TTL = "ann", at, time.Minute }
		contact := h.send(t, later)
		token := h.send(t, func(m *store.Message) {
			later(m)
			m.Contact, m.Token = "", &store.DeviceToken{Platform: store.PlatformIOS, Kind: store.TokenPlain, Token: "a1b2"}
		})
		h.restart(t)
		h.register(t, "ann", store.PlatformAndroid, "new")
		time.Sleep(time.Until(at) - settling - time.Millisecond)
		settle()
		for _, id := range []string{contact, token} {
			if v := h.want(t, id, store.MessageQueued, ""); !v.SendAt.Equal(at) || !v.ExpiresAt.Equal(at.Add(time.Minute)) {
				t.Errorf("view %+v", v)
			}
		}
		if n := len(h.fake.attempts()); n != 0 {
			t.Fatalf("%d attempts before the moment", n)
		}
		settle()
		if got := h.fake.tokens(); !slices.Equal(got, []string{"a1b2", "new", "old"}) {
			t.Errorf("sent to %v", got)
		}
		for _, a := range h.fake.attempts() {
			if a.provider == store.ProviderAPNs && !a.expires.Equal(at.Add(time.Minute)) {
				t.Errorf("expires at %s", a.expires)
			}
		}
		h.want(t, contact, store.MessageSent, "")
		h.want(t, token, store.MessageSent, "")
	})
}

// A message to many contacts reaches each of their devices once, however often the daemon stops on the way, and its view says whom it did
// not find.
func TestMulticast(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		const contacts = 1000
		var list []string
		for i, c := range numbered("contact", contacts) {
			list = append(list, c)
			if i%10 == 9 {
				continue // without a device
			}
			h.register(t, c, store.PlatformAndroid, "phone-"+c)
			if i%10 == 0 {
				h.register(t, c, store.PlatformIOS, fmt.Sprintf("%08x", i))
			}
		}
		h.fake.answerWith(func(a attempt) sender.Result { time.Sleep(10 * time.Millisecond); return taken(a) })
		sent, err := h.n.Accept(t.Context(), hello(func(m *store.Message) { m.Contacts = list }))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			time.Sleep(5 * time.Millisecond)
			h.restart(t)
		}
		time.Sleep(time.Hour / 2)
		settle()
		v := h.want(t, sent.TrackingID, store.MessageSent, "")
		if v.Contacts != contacts || v.Expanded != contacts || v.Sent != 1000 || v.Failed != 0 || v.Queued != 0 || len(v.Devices) != 100 || v.Next != "100" {
			t.Errorf("view: %d of %d contacts, %d sent, %d failed, %d queued, %d devices, next %q", v.Expanded, v.Contacts, v.Sent, v.Failed, v.Queued, len(v.Devices), v.Next)
		}
		got := h.fake.tokens()
		if different := slices.Compact(slices.Clone(got)); len(different) != 1000 {
			t.Errorf("%d devices were reached", len(different))
		}
		none := h.send(t, func(m *store.Message) { m.Contacts = []string{"contact0009", "contact0019"} })
		h.want(t, none, store.MessageFailed, sender.ReasonNoDevice)
	})
}

// Nothing is accepted that a provider would find too large, and a dry run measures and sends nothing.
func TestSizesAndDryRun(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		h.register(t, "ann", store.PlatformAndroid, "phone")
		h.register(t, "ann", store.PlatformIOS, "a1b2")
		large := func(m *store.Message) { m.Text = map[string]string{"en": strings.Repeat("x", 5000)} }
		for _, target := range []func(m *store.Message){
			to("ann"), func(m *store.Message) { m.Contacts = []string{"ann", "bob"} },
			func(m *store.Message) { m.Contact, m.SendAt = "ann", time.Now().Add(time.Hour) },
		} {
			if _, err := h.n.Accept(t.Context(), hello(func(m *store.Message) { target(m); large(m) })); !isMessageError(err, "body", false) {
				t.Errorf("too large: %v", err)
			}
			sent, err := h.n.Accept(t.Context(), hello(func(m *store.Message) { target(m); m.DryRun = true }))
			if err != nil || sent.TrackingID != "" || sent.Payloads[store.PlatformAndroid] == 0 || sent.Payloads[store.PlatformIOS] == 0 {
				t.Errorf("dry run: %+v, %v", sent, err)
			}
		}
		settle()
		if n := len(h.fake.attempts()); n != 0 {
			t.Errorf("%d attempts", n)
		}
		if _, err := h.n.Accept(t.Context(), hello(func(m *store.Message) { m.Contact, m.ImplementationID = "ann", "none" })); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("another implementation: %v", err)
		}
	})
}
