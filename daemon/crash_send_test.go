package daemon_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"herald/daemon/standin"
)

// TestCrashSending kills the daemon while it sends to devices. Every message that was acknowledged has to reach each of its
// devices, and its callback URL has to be told of each.
func TestCrashSending(t *testing.T) {
	t.Parallel()
	cycles := 8
	if testing.Short() {
		cycles = 3
	}
	c := newSendingCrash(t)
	for range cycles {
		c.cycle()
	}
	d := c.start()
	c.mended = time.Now()
	c.providers.fcm.Reset()
	c.call("PATCH", "/implementations/denied", fields{"android": nil})
	c.call("PATCH", "/implementations/denied", fields{"android": c.providers.firebase()})
	c.drained()
	for tracking, key := range c.accepted {
		var m struct {
			Status string
			Counts struct{ Queued, Sent, Failed int }
		}
		if err := json.Unmarshal(c.call("GET", "/messages/"+tracking, nil), &m); err != nil {
			t.Fatal(err)
		}
		if want := len(c.devices(key)); m.Status != "SENT" || m.Counts.Sent != want || m.Counts.Queued+m.Counts.Failed != 0 {
			t.Errorf("the message %s, to %d devices, is %+v", key, want, m)
		}
	}
	c.end(d)
	c.check()

	lost, sent := c.lost()
	if len(lost) > 0 {
		t.Fatalf("%d of %d acknowledged notifications were lost, such as %s", len(lost), c.notifications(), lost[0])
	}
	told := c.told()
	for tracking, key := range c.accepted {
		if n, want := len(told[tracking]), len(c.devices(key)); n != want {
			t.Errorf("of the message %s %d statuses were told, want %d", key, n, want)
		}
	}
	t.Logf("%d kills, %d messages acknowledged, %d notifications, %d sent, %d statuses", cycles, len(c.accepted), c.notifications(), sent, len(c.statuses.got()))
}

type sendingCrash struct {
	*crash
	providers *providers
	statuses  *receiver
	endpoint  string    // of the one browser
	mended    time.Time // when FCM began to take what it had denied

	mu       sync.Mutex
	accepted map[string]string // the key of a message by its tracking id
	n        int
}

func newSendingCrash(t *testing.T) *sendingCrash {
	t.Helper()
	c := &sendingCrash{
		crash: &crash{t: t, dir: t.TempDir(), address: freeAddress(t)}, providers: standIns(t, 3*time.Millisecond), statuses: receive(t), accepted: make(map[string]string),
	}
	c.config = configFile(t, c.dir, c.address, "log: {level: warn}", c.providers.settings)
	c.environ = c.providers.environ
	d := c.start()
	web := fields{"vapid": fields{"subject": "mailto:push@shop.example"}}
	var made struct {
		Web struct{ VAPID struct{ PublicKey string } }
	}
	text := c.call("POST", "/implementations", fields{"id": "shop", "name": "x", "android": c.providers.firebase(), "ios": c.providers.apple(), "web": web})
	if err := json.Unmarshal(text, &made); err != nil {
		t.Fatal(err)
	}
	c.call("POST", "/implementations", fields{"id": "denied", "name": "x", "android": c.providers.firebase()})
	register := func(platform, contact, token any) {
		c.call("POST", fmt.Sprint("/messages/", platform), fields{"implementationId": "shop", "contactId": contact, "token": token})
	}
	subscription, err := c.providers.web.Subscribe(point(t, made.Web.VAPID.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	c.endpoint = fmt.Sprint(at(t, subscription, "endpoint"))
	register("web", "ann", json.RawMessage(subscription))
	register("android", "ann", "ann-phone-1")
	register("android", "ann", "ann-phone-2")
	for i := range crashContacts {
		register("android", fmt.Sprint("contact-", i), fmt.Sprint("phone-", i))
	}
	c.providers.fcm.For("denied-phone", standin.FCMError("PERMISSION_DENIED"))
	d.signal(syscall.SIGKILL)
	d.exit()
	return c
}

// crashContacts is how many contacts a message to many reaches.
const crashContacts = 12

// call makes a request that must succeed.
func (c *sendingCrash) call(method, path string, body any) []byte {
	c.t.Helper()
	a := (&herald{t: c.t, URL: "http://" + c.address}).admin().do(method, path, body)
	if a.status/100 != 2 {
		c.t.Fatalf("%s answered %d: %s", a.request, a.status, a.body)
	}
	return a.body
}

// cycle starts the daemon, sends from several goroutines, and kills it.
func (c *sendingCrash) cycle() {
	c.t.Helper()
	d := c.start()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, kind := range []string{"ann", "ann", "many", "token", "denied"} {
		wg.Go(func() {
			for c.sendOne(kind) == nil {
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	time.Sleep(time.Duration(20+rand.IntN(200)) * time.Millisecond)
	d.signal(syscall.SIGKILL)
	d.exit()
	close(stop)
	wg.Wait()
	c.check()
}

// sendOne sends a message of that kind, until it is not taken. What it holds in its data is its key.
func (c *sendingCrash) sendOne(kind string) error {
	c.mu.Lock()
	c.n++
	key := fmt.Sprintf("%s %d", kind, c.n)
	c.mu.Unlock()
	path, body := "/messages", fields{
		"implementationId": "shop", "data": fields{"key": key}, "body": fields{"text": "x"}, "callbackUrl": c.statuses.URL, "idempotencyKey": key,
	}
	switch kind {
	case "ann":
		body["contactId"] = "ann"
	case "many":
		path = "/messages/multicast"
		contacts := []string{"nobody"}
		for i := range crashContacts {
			contacts = append(contacts, fmt.Sprint("contact-", i))
		}
		body["contacts"] = contacts
	case "token":
		body["deviceToken"] = fields{"type": "APPLE", "token": iphone(key)}
	case "denied":
		body["implementationId"], body["deviceToken"] = "denied", fields{"type": "ANDROID", "token": "denied-phone"}
	}
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	answer, err := c.post(c.address, path, string(text))
	if err != nil {
		return err // it was killed
	}
	var sent struct{ TrackingID string }
	if err := json.Unmarshal(answer, &sent); err != nil || sent.TrackingID == "" {
		return fmt.Errorf("answer %s: %w", answer, err)
	}
	c.mu.Lock()
	c.accepted[sent.TrackingID] = key
	c.mu.Unlock()
	return nil
}

// devices are those that the message of a key goes to.
func (c *sendingCrash) devices(key string) []string {
	switch kind, _, _ := strings.Cut(key, " "); kind {
	case "ann":
		return []string{"ann-phone-1", "ann-phone-2", c.endpoint}
	case "many":
		var all []string
		for i := range crashContacts {
			all = append(all, fmt.Sprint("phone-", i))
		}
		return all
	case "denied":
		return []string{"denied-phone"}
	}
	return []string{iphone(key)}
}

func (c *sendingCrash) notifications() int {
	n := 0
	for _, key := range c.accepted {
		n += len(c.devices(key))
	}
	return n
}

// lost returns the notifications that were acknowledged and have not arrived, and how many were sent in all.
func (c *sendingCrash) lost() (lost []string, sent int) {
	c.t.Helper()
	arrived := make(map[string]bool)
	for _, r := range c.providers.fcm.Requests() {
		if r.Device == "denied-phone" && r.At.Before(c.mended) {
			continue
		}
		arrived[fmt.Sprint(r.Device, " ", at(c.t, r.Body, "message", "data", "key"))] = true
	}
	for _, m := range c.providers.got(c.endpoint) {
		arrived[fmt.Sprint(c.endpoint, " ", at(c.t, m.Payload, "options", "data", "key"))] = true
	}
	for _, key := range c.accepted {
		for _, device := range c.devices(key) {
			if !arrived[device+" "+key] && c.providers.apns.Sent(device) == 0 {
				lost = append(lost, device+" "+key)
			}
		}
	}
	return lost, c.providers.fcm.Taken() + c.providers.apns.Stats().Sent + c.providers.web.Accepted()
}

// told are the devices for which the callback URL was told that each message was sent, by its tracking id.
func (c *sendingCrash) told() map[any]map[any]bool {
	c.t.Helper()
	all := make(map[any]map[any]bool)
	for _, p := range c.statuses.got() {
		data, _ := p.object(c.t)["data"].(map[string]any)
		of := data["trackingId"]
		if all[of] == nil {
			all[of] = make(map[any]bool)
		}
		if data["status"] == "SENT" {
			all[of][data["deviceId"]] = true
		}
	}
	return all
}
