package notification

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"herald/daemon/sender"
	"herald/queue"
	"herald/store"
)

// A dead token is removed, unless it was registered after it is said to have died, or is not the device's any more.
func TestDeadTokens(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		died := time.Now().Add(time.Minute)
		gone := func(since time.Time) func(attempt) sender.Result {
			return func(attempt) sender.Result {
				r := answered(queue.ClassGone, 410, sender.DeviceDead)
				r.DeadSince, r.Reason = since, sender.ReasonUnregistered
				return r
			}
		}
		old := h.register(t, "ann", store.PlatformIOS, "a1")
		time.Sleep(2 * time.Minute)
		young := h.register(t, "bob", store.PlatformIOS, "b1")
		h.fake.answerWith(gone(died))
		for contact, d := range map[string]store.Device{"ann": old, "bob": young} {
			h.want(t, h.send(t, to(contact)), store.MessageFailed, sender.ReasonUnregistered)
			if got, want := h.has(t, d.ID), contact == "bob"; got != want {
				t.Errorf("the device of %s is there: %v", contact, got)
			}
		}
		h.fake.answerWith(func(a attempt) sender.Result {
			// It gets another token while the attempt is under way.
			h.put(t, store.Device{Contact: "bob", DeviceToken: store.DeviceToken{Platform: store.PlatformIOS, Kind: store.TokenPlain, Token: "b2"}}, "b1")
			return gone(time.Time{})(a)
		})
		h.want(t, h.send(t, to("bob")), store.MessageFailed, sender.ReasonUnregistered)
		if !h.has(t, young.ID) {
			t.Error("the device with another token was removed")
		}
		for _, r := range []sender.Result{
			answered(queue.ClassRejected, 400, sender.DeviceUnknown), answered(queue.ClassRejected, 413, sender.DeviceUnknown),
		} {
			h.fake.answerWith(func(attempt) sender.Result { return r })
			h.want(t, h.send(t, to("bob")), store.MessageFailed, queue.ReasonRejected)
			if !h.has(t, young.ID) {
				t.Errorf("removed for %d", r.Status)
			}
		}
	})
}

// What is queued follows the device to its next token, and not to another contact.
func TestDevicesMove(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		h.fake.answerWith(func(attempt) sender.Result {
			r := answered(queue.ClassRetry, 500, sender.DeviceUnknown)
			r.Innocent = true
			return r
		})
		h.register(t, "ann", store.PlatformAndroid, "first")
		h.register(t, "bob", store.PlatformAndroid, "shared")
		gone := h.register(t, "eve", store.PlatformAndroid, "gone")
		ann, bob, eve := h.send(t, to("ann")), h.send(t, to("bob")), h.send(t, to("eve"))
		h.put(t, store.Device{Contact: "ann", DeviceToken: store.DeviceToken{Platform: store.PlatformAndroid, Kind: store.TokenFID, Token: "second"}}, "first")
		h.register(t, "carl", store.PlatformAndroid, "shared")
		if err := h.store.DeleteDevice(t.Context(), store.DefaultAccount, gone.ID, nil); err != nil {
			t.Fatal(err)
		}
		before := len(h.fake.attempts())
		h.fake.answerWith(nil)
		time.Sleep(time.Minute)
		h.want(t, ann, store.MessageSent, "")
		h.want(t, bob, store.MessageFailed, sender.ReasonNoDevice)
		h.want(t, eve, store.MessageFailed, sender.ReasonNoDevice)
		if got := h.fake.attempts()[before:]; len(got) != 1 || got[0].token != "second" {
			t.Errorf("attempts %+v", got)
		}
	})
}

// A device that its provider wants to be left alone is, for all messages and after a restart; others go on.
func TestThrottledDevice(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		h.register(t, "ann", store.PlatformAndroid, "busy")
		h.register(t, "bob", store.PlatformAndroid, "idle")
		h.fake.answerWith(func(a attempt) sender.Result {
			if a.token != "busy" {
				return taken(a)
			}
			r := answered(queue.ClassRetry, 429, sender.DeviceThrottled)
			r.Innocent, r.Wait = true, 5*time.Minute
			return r
		})
		start := time.Now()
		first := h.send(t, to("ann"))
		h.restart(t)
		h.fake.answerWith(nil)
		second := h.send(t, to("ann"))
		h.want(t, h.send(t, to("bob")), store.MessageSent, "")
		time.Sleep(time.Until(start.Add(5*time.Minute)) - settling - time.Millisecond)
		settle()
		for _, id := range []string{first, second} {
			h.want(t, id, store.MessageQueued, "")
		}
		if got := h.fake.tokens(); !slices.Equal(got, []string{"busy", "idle"}) {
			t.Errorf("sent to %v", got)
		}
		time.Sleep(time.Minute)
		for _, id := range []string{first, second} {
			h.want(t, id, store.MessageSent, "")
		}
		for _, a := range h.fake.attempts()[2:] {
			if rested := a.at.Sub(start); rested < 5*time.Minute || rested > 5*time.Minute+time.Second {
				t.Errorf("tried again after %s", rested)
			}
		}
	})
}

// A token of the other APNs environment is found to be one, once; a proven one is not tried there.
func TestOtherEnvironment(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		sandbox := map[string]bool{"5a": true}
		h.fake.answerWith(func(a attempt) sender.Result {
			if a.token == "ee" || a.other != sandbox[a.token] {
				r := answered(queue.ClassGone, 400, sender.DeviceElsewhere)
				r.Reason = sender.ReasonUnregistered
				return r
			}
			return taken(a)
		})
		h.register(t, "developer", store.PlatformIOS, "5a")
		user := h.register(t, "user", store.PlatformIOS, "aa")
		dead := h.register(t, "dead", store.PlatformIOS, "ee")
		for range 2 {
			h.want(t, h.send(t, to("developer")), store.MessageSent, "")
			h.want(t, h.send(t, to("user")), store.MessageSent, "")
			time.Sleep(time.Second) // for it to be written down that they were reached
		}
		h.want(t, h.send(t, to("dead")), store.MessageFailed, sender.ReasonUnregistered)
		if h.has(t, dead.ID) {
			t.Error("a token of neither environment was kept")
		}
		want := []string{"5a", "5a", "5a", "aa", "aa", "ee", "ee"} // the developer's once in vain
		if got := h.fake.tokens(); !slices.Equal(got, want) {
			t.Errorf("sent to %v, want %v", got, want)
		}
		sandbox["aa"] = true
		h.want(t, h.send(t, to("user")), store.MessageFailed, sender.ReasonUnregistered)
		if h.has(t, user.ID) || len(h.fake.attempts()) != len(want)+1 {
			t.Error("a proven token was tried in the other environment, or kept")
		}
	})
}

// Ten devices in a row that belong to other credentials show that it is these that are wrong.
func TestForeignDevices(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		var devices []store.Device
		for i := range 15 {
			devices = append(devices, h.register(t, fmt.Sprint("c", i), store.PlatformAndroid, fmt.Sprint("token", i)))
		}
		h.fake.answerWith(func(attempt) sender.Result {
			r := answered(queue.ClassRejected, 403, sender.DeviceForeign)
			r.Reason = sender.ReasonUnregistered
			return r
		})
		for i := range 9 {
			h.want(t, h.send(t, to(fmt.Sprint("c", i))), store.MessageFailed, sender.ReasonUnregistered)
			if h.has(t, devices[i].ID) {
				t.Errorf("device %d is still there", i)
			}
		}
		waiting := h.send(t, to("c9"))
		h.want(t, waiting, store.MessageQueued, "")
		if !h.has(t, devices[9].ID) {
			t.Error("the tenth was removed")
		}
		time.Sleep(time.Second) // for it to be written down
		impl, err := h.store.Implementation(t.Context(), store.DefaultAccount, "shop")
		if err != nil {
			t.Fatal(err)
		}
		lane, err := h.store.Subscription(t.Context(), impl.Lane(store.LaneAndroid))
		if err != nil || !strings.Contains(lane.Health.Suspended, "belong to other credentials") {
			t.Errorf("the lane is %+v, %v", lane.Health, err)
		}
	})
}

// Credentials that are refused hold everything, over a restart, until others are set or they are taken again.
func TestSuspendedPlatform(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		h.register(t, "ann", store.PlatformIOS, "a1b2")
		h.register(t, "ann", store.PlatformAndroid, "phone")
		h.fake.answerWith(func(a attempt) sender.Result {
			if a.provider == store.ProviderAPNs && a.credentials == "KEY1" {
				return answered(queue.ClassMisconfigured, 403, sender.DeviceUnknown)
			}
			return taken(a)
		})
		var ids []string
		for range 20 {
			ids = append(ids, h.send(t, func(m *store.Message) { m.Contact, m.TTL = "ann", 10*time.Hour }))
		}
		time.Sleep(3 * time.Hour)
		h.restart(t)
		time.Sleep(time.Hour)
		settle()
		probes := 0
		for _, a := range h.fake.attempts() {
			if a.provider == store.ProviderAPNs {
				probes++
			}
		}
		if probes != 17 { // the first, and one each 15 minutes for 4 hours
			t.Errorf("%d attempts with credentials that are refused", probes)
		}
		for _, id := range ids {
			if v := h.want(t, id, store.MessageQueued, ""); v.Sent != 1 || v.Queued != 1 {
				t.Fatalf("view %+v", v)
			}
		}
		impl, err := h.store.UpdateImplementation(t.Context(), store.DefaultAccount, "shop", func(i *store.Implementation) error {
			i.APNs = &store.APNs{KeyID: "KEY2", Topic: "app"}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		lane := impl.Lane(store.LaneIOS)
		if _, err = h.store.UpdateSubscription(t.Context(), lane, func(s *store.Subscription) error { s.Health = store.Health{}; return nil }); err != nil {
			t.Fatal(err)
		}
		h.n.Changed(store.DefaultAccount, "shop", []store.SubscriptionID{lane})
		h.d.Changed(queue.Lane(lane))
		settle()
		for _, id := range ids {
			h.want(t, id, store.MessageSent, "")
		}
		if !slices.Contains(h.fake.forgot, lane.String()) {
			t.Errorf("the senders forgot %v", h.fake.forgot)
		}
	})
}

// A platform without credentials, which it had when the message was accepted, waits for new ones.
func TestCredentialsTakenAway(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		h.register(t, "ann", store.PlatformIOS, "a1b2")
		set := func(provider store.Provider) {
			if _, err := h.store.UpdateImplementation(t.Context(), store.DefaultAccount, "shop", func(i *store.Implementation) error {
				i.IOSProvider = provider
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		set("")
		id := h.send(t, func(m *store.Message) { m.Contact, m.TTL = "ann", 10*time.Hour })
		h.want(t, id, store.MessageQueued, "")
		set(store.ProviderAPNs)
		time.Sleep(16 * time.Minute)
		h.want(t, id, store.MessageSent, "")
	})
}

// Each change of status goes to the callback URL, signed with its lane, and once however often the daemon stops.
func TestStatusCallbacks(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		h.register(t, "ann", store.PlatformAndroid, "good")
		h.register(t, "ann", store.PlatformAndroid, "bad")
		h.fake.answerWith(func(a attempt) sender.Result {
			if a.token == "bad" {
				r := answered(queue.ClassGone, 404, sender.DeviceDead)
				r.Reason = sender.ReasonUnregistered
				return r
			}
			return taken(a)
		})
		const url = "https://shop.example.com/status?key=secret"
		h.fake.receiveWith(func(push) queue.Outcome { return queue.Outcome{Class: queue.ClassRetry, Status: 500} })
		id := h.send(t, func(m *store.Message) { m.Contact, m.CallbackURL = "ann", url })
		h.restart(t)
		h.fake.receiveWith(nil)
		time.Sleep(time.Minute)
		settle()
		got := map[string]int{}
		for _, p := range h.fake.pushed() {
			if p.url != url || !strings.Contains(p.data, `"trackingId":"`+id+`"`) || !strings.Contains(p.data, `"routeeContactId":"ann"`) {
				t.Errorf("pushed %+v", p)
			}
			for _, part := range []string{`"status":"SENT"`, `"status":"FAILED"`} {
				if strings.Contains(p.data, part) {
					got[part+p.id]++
				}
			}
			if strings.Contains(p.data, `"SENT"`) != strings.Contains(p.data, `"serviceMessageId":"provider-good"`) ||
				strings.Contains(p.data, `"FAILED"`) != strings.Contains(p.data, `"reason":"unregistered"`) {
				t.Errorf("pushed %s", p.data)
			}
		}
		if len(got) != 2 {
			t.Errorf("pushed %v", got)
		}
		for i := range store.MaxStatusOrigins - 1 {
			h.register(t, "ann", store.PlatformAndroid, "good")
			h.send(t, func(m *store.Message) {
				m.Contact, m.CallbackURL = "ann", fmt.Sprintf("https://host%d.example.com/x", i)
			})
		}
		if _, err := h.n.Accept(t.Context(), hello(func(m *store.Message) { m.Contact, m.CallbackURL = "ann", "https://onemore.example.com/" })); !isMessageError(err, "callbackUrl", false) {
			t.Errorf("one host too many: %v", err)
		}
	})
}

// An event becomes a message to a contact that its data names, once.
func TestEventsToDevices(t *testing.T) {
	t.Parallel()
	inHouse(t, func(t *testing.T, h *house) {
		h.register(t, "ann", store.PlatformAndroid, "phone")
		id, err := store.NewSubscriptionID()
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now().UTC()
		err = h.store.CreateSubscription(t.Context(), &store.Subscription{
			ID: id, AccountID: store.DefaultAccount, State: store.StateActive, CreatedAt: now, UpdatedAt: now, StateSince: now, NumberOfRecords: 1,
			Events: []string{"order.*"},
			Notification: &store.Template{
				ImplementationID: "shop", Contact: "{{customer.id}}",
				Notification: store.Notification{Title: map[string]string{"en": "Order {{number}}"}, Text: map[string]string{"en": "It is {{state}}"}, TTL: time.Hour},
			},
		}, 0)
		if err != nil {
			t.Fatal(err)
		}
		publish := func(data string) queue.DeliveryID {
			t.Helper()
			ids, _ := h.store.Select(store.DefaultAccount, "order.shipped", "", []byte(data), nil)
			if len(ids) != 1 {
				t.Fatalf("selected %v", ids)
			}
			r, err := h.queue.Accept(t.Context(), []queue.Submission{{
				Event: queue.Event{AccountID: store.DefaultAccount, Type: "order.shipped", Time: time.Now(), Data: []byte(data)}, Lanes: []queue.Lane{queue.Lane(ids[0])},
			}})
			if err != nil {
				t.Fatal(err)
			}
			settle()
			e, err := h.queue.Event(t.Context(), store.DefaultAccount, r[0].ID)
			if err != nil {
				t.Fatal(err)
			}
			return queue.DeliveryID{Seq: e.Seq, Lane: queue.Lane(id)}
		}
		for _, tt := range []struct {
			data  string
			state queue.State
		}{
			{`{"number":5,"state":"on its way","customer":{"id":"ann"}}`, queue.StateDelivered},
			{`{"number":6,"state":"on its way","customer":{"id":"nobody"}}`, queue.StateDead},
			{`{"number":7}`, queue.StateDead},
		} {
			d, attempts, err := h.queue.Delivery(t.Context(), store.DefaultAccount, publish(tt.data))
			if err != nil || d.State != tt.state || len(attempts) != 1 {
				t.Fatalf("%s: %+v, %v", tt.data, d, err)
			}
			if tt.state == queue.StateDead && attempts[0].Error == "" || tt.state == queue.StateDelivered && !strings.Contains(string(attempts[0].Response), `"trackingId":"msg_`) {
				t.Errorf("%s: %+v", tt.data, attempts[0])
			}
		}
		got := h.fake.attempts()
		if len(got) != 1 || !strings.Contains(got[0].payload, "Order 5") || !strings.Contains(got[0].payload, "It is on its way") {
			t.Errorf("sent %+v", got)
		}
	})
}
