package daemon_test

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The rows of the validation handshake: D7 D11-D13 D19-D25 D32.

// asked is a validation record as its receiver gets it.
type asked struct {
	push
	confirmationURL string
	signature       string
}

// records waits for n validation records and returns all there are.
func (r *receiver) records(n int) []asked {
	r.t.Helper()
	var list []asked
	for _, p := range r.wait(n) {
		m := p.object(r.t)
		a := asked{push: p}
		a.confirmationURL, _ = m["confirmationURL"].(string)
		a.signature, _ = m["signature"].(string)
		if a.confirmationURL == "" || a.signature == "" || !slices.Equal(members(m), []string{"confirmationURL", "signature"}) {
			r.t.Fatalf("the validation record is %s", p.body)
		}
		list = append(list, a)
	}
	return list
}

// anyone calls without a token.
func (h *herald) anyone() *caller { return h.as("") }

// path is the confirmation URL below the daemon's own.
func (a asked) path(h *herald) string {
	h.t.Helper()
	path, ok := strings.CutPrefix(a.confirmationURL, h.URL)
	if !ok {
		h.t.Fatalf("the confirmation URL %s does not begin with %s", a.confirmationURL, h.URL)
	}
	return path
}

// confirm confirms as a receiver does.
func (a asked) confirm(h *herald) *answer {
	h.t.Helper()
	return h.anyone().do("POST", a.path(h), fields{"signature": a.signature})
}

// state is the state of a subscription.
func (h *herald) state(id string) string {
	h.t.Helper()
	s, _ := h.read(id)["state"].(string)
	return s
}

// progress is how the validation of a subscription stands; nil for none.
func (h *herald) progress(id string) map[string]any {
	h.t.Helper()
	v, _ := h.admin().do("GET", "/subscriptions/"+id+"/status", nil).is(200).object()["validation"].(map[string]any)
	return v
}

func TestContract_D7_ConfirmationMakesActive(t *testing.T) {
	t.Parallel()
	h := start(t)
	data, ask := receive(t), receive(t)
	a := h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": data.URL + "/in", "validationCallbackURL": ask.URL + "/check"}).is(200)
	id := a.text("id")
	if a.text("state") != "pending" {
		t.Fatalf("a new subscription is %s", a.body)
	}
	x := ask.records(1)[0]
	if x.url != "/check" || x.method != "POST" {
		t.Errorf("the record came as %s %s", x.method, x.url)
	}
	h.publish("task.create", "", fields{"n": 1})
	h.sentinel()
	before := moment(t, h.read(id)["stateSince"])
	x.confirm(h).is(204)
	s := h.read(id)
	if s["state"] != "active" || moment(t, s["stateSince"]).Before(before) {
		t.Errorf("after the confirmation: %v", s)
	}
	// What was published while it was pending is not for it.
	after := h.publish("task.create", "", fields{"n": 2})
	data.wait(1)
	h.sentinel()
	data.only(after)
	if n := len(ask.got()); n != 1 {
		t.Errorf("the validation URL got %d requests", n)
	}
	if h.progress(id) != nil {
		t.Errorf("a confirmed subscription has the validation %v", h.progress(id))
	}
}

func TestContract_D11_ValidationURLIsOneOfItsOwn(t *testing.T) {
	t.Parallel()
	h := start(t, "delivery: {jitter: 0}")
	data, ask := receive(t), receive(t)
	id := h.subscribe(data.URL, fields{"validationCallbackURL": ask.URL + "/v?x=1"})
	if got := h.read(id)["validationCallbackURL"]; got != ask.URL+"/v?x=1" {
		t.Errorf("a read shows %v", got)
	}
	ask.records(1)
	h.sentinel()
	if n := len(data.got()); n != 0 {
		t.Errorf("the data URL got %d requests", n)
	}
	// The same rules as for the other, also those of the way out.
	for text, words := range map[string][]string{
		"ftp://127.0.0.1/":             {"http"},
		"/relative":                    {"absolute"},
		"http://u:p@127.0.0.1/":        {"user"},
		"http://127.0.0.1/#f":          {"fragment"},
		"http://127.0.0.1:99999/":      {"port"},
		"http://10.1.2.3/":             {"10.1.2.3", "egress"},
		"http://127.0.0.1:25/":         {"port|25"},
		"http://127.0.0.1/ a":          {"spaces"},
		"":                             {"absolute"},
		strings.Repeat("http://", 400): {"2048"},
	} {
		for method, path := range map[string]string{"POST": "/subscriptions", "PUT": "/subscriptions/" + id, "PATCH": "/subscriptions/" + id} {
			d := h.admin().do(method, path, fields{"dataCallbackURL": data.URL, "validationCallbackURL": text}).problem(400)
			names(t, method+" "+text, d, append(words, "validationCallbackURL")...)
		}
	}
	names(t, "a number", h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": data.URL, "validationCallbackURL": 7}).problem(400), "validationCallbackURL", "string")
	if h.state(id) != "pending" {
		t.Error("refused changes changed the state")
	}
}

// The older way: the one URL is used for validation and data.
func TestContract_D12_RequiredFallsBackToTheDataURL(t *testing.T) {
	t.Parallel()
	h := start(t, "subscriptions: {validation: required}")
	r := receive(t)
	a := h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL}).is(200)
	if a.text("state") != "pending" || a.object()["validationCallbackURL"] != nil {
		t.Fatalf("a new subscription is %s", a.body)
	}
	r.records(1)[0].confirm(h).is(204)
	event := h.publish("task.create", "", fields{})
	if list := r.wait(2); list[1].id() != event {
		t.Errorf("after the confirmation came %s", list[1].body)
	}
	// Another host needs another validation here too, and a path does not.
	id := a.text("id")
	if s := h.admin().do("PATCH", "/subscriptions/"+id, fields{"dataCallbackURL": r.URL + "/path"}).is(200); s.text("state") != "active" {
		t.Errorf("after a change of the path: %s", s.body)
	}
	if s := h.admin().do("PATCH", "/subscriptions/"+id, fields{"dataCallbackURL": receive(t).URL}).is(200); s.text("state") != "pending" {
		t.Errorf("after a change of the host: %s", s.body)
	}
}

// What was active when the operator began to require validation stays so, and what waits need not when the requirement ends.
func TestContract_D12_RequirementComesAndGoes(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, nil)
	h = h.restart("subscriptions: {validation: required}")
	h.admin().do("PATCH", "/subscriptions/"+id, fields{"events": []string{"task.*"}}).is(200)
	h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)
	if s := h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200); s.text("state") != "active" {
		t.Errorf("after pause and enable: %s", s.body)
	}
	waiting := h.subscribe(r.URL, fields{"events": []string{"no.such"}})
	h.admin().do("POST", "/subscriptions/"+waiting+"/enable", nil).problem(409)
	h = h.restart()
	if s := h.state(waiting); s != "pending" {
		t.Errorf("it became %s by itself", s)
	}
	if s := h.admin().do("POST", "/subscriptions/"+waiting+"/enable", nil).is(200); s.text("state") != "active" {
		t.Errorf("enabled: %s", s.body)
	}
	if h.progress(waiting) != nil {
		t.Error("it is still asked for a confirmation")
	}
}

func TestContract_D13_BothURLsMayBeTheSame(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL+"/both", fields{"validationCallbackURL": r.URL + "/both"})
	x := r.records(1)[0]
	if x.url != "/both" || h.state(id) != "pending" {
		t.Errorf("the record went to %s, the state is %s", x.url, h.state(id))
	}
	x.confirm(h).is(204)
	event := h.publish("task.create", "", fields{})
	if list := r.wait(2); list[1].id() != event || list[1].url != "/both" {
		t.Errorf("the push is %+v", list[1])
	}
}

// The record is signed and authenticated like any push, whatever pushes look like, and sent until it is taken.
func TestContract_D19_RecordIsSentUntilTaken(t *testing.T) {
	t.Parallel()
	h := start(t, "delivery: {jitter: 0}")
	r := receive(t)
	r.respond(func(n int, _ push, w http.ResponseWriter) {
		if n == 1 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	id := h.subscribe("http://127.0.0.1:8421/", fields{
		"validationCallbackURL": r.URL + "/unlisted", "signingSecret": aSecret, "numberOfRecords": 50, "maxWaitSeconds": 30,
		"authentication": fields{"type": "header", "name": "X-Api-Key", "value": "open-sesame"},
	})
	r.records(1)
	h.eventually("the failure is noted", func() bool { return h.progress(id)["attempts"] == float64(1) })
	v := h.progress(id)
	names(t, "the error", fmt.Sprint(v["lastError"]), "500")
	next, expires := moment(t, v["nextAttemptAt"]), moment(t, v["expiresAt"])
	if d := time.Until(next); d > 5*time.Second || d < 0 {
		t.Errorf("the next attempt is in %v", d)
	}
	if d := time.Until(expires); d > 24*time.Hour || d < 24*time.Hour-patience {
		t.Errorf("the record expires in %v", d)
	}
	list := r.records(2)
	if string(list[0].body) != string(list[1].body) || list[0].id() != list[1].id() {
		t.Errorf("the attempts differ: %s and %s", list[0].body, list[1].body)
	}
	for i, x := range list {
		if !x.verifies(t, aSecret) || x.verifies(t, anotherSecret) {
			t.Errorf("attempt %d is not signed", i+1)
		}
		for name, want := range map[string]string{
			"X-Api-Key": "open-sesame", "User-Agent": "Herald/1.2.3-test", "Content-Type": "application/json",
			"Herald-Attempt": fmt.Sprint(i + 1), "Herald-Subscription": id,
		} {
			if got := x.header.Get(name); got != want {
				t.Errorf("attempt %d has %s %q, want %q", i+1, name, got, want)
			}
		}
	}
	h.eventually("the success is noted", func() bool { return h.progress(id)["attempts"] == float64(2) })
	v = h.progress(id)
	if v["nextAttemptAt"] != nil || v["lastError"] != nil || h.state(id) != "pending" {
		t.Errorf("after it was taken: %v", v)
	}
}

// The record comes in the format of the subscription.
func TestContract_D19_RecordInXML(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe("http://127.0.0.1:8421/", fields{
		"validationCallbackURL": r.URL, "exportFormat": "application/xml", "numberOfRecords": 10, "signingSecret": aSecret,
	})
	p := r.wait(1)[0]
	if got := p.header.Get("Content-Type"); !strings.HasPrefix(got, "application/xml") || !p.verifies(t, aSecret) {
		t.Errorf("the record is %q, signed: %v", got, p.verifies(t, aSecret))
	}
	var record struct {
		ConfirmationURL string `xml:"confirmationURL"`
		Signature       string `xml:"signature"`
		Members         []struct {
			XMLName xml.Name
		} `xml:",any"`
	}
	if err := xml.Unmarshal(p.body, &record); err != nil || len(record.Members) != 0 || record.Signature == "" ||
		record.ConfirmationURL != h.URL+"/subscriptions/"+id+"/confirmation" {
		t.Fatalf("the record is %s: %v", p.body, err)
	}
	resp, err := http.PostForm(record.ConfirmationURL, url.Values{"signature": {record.Signature}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 204 || h.state(id) != "active" {
		t.Errorf("the confirmation is answered with %d, the state is %s", resp.StatusCode, h.state(id))
	}
}

// A receiver that hangs is given its time and tried again, and holds up neither pushes nor other receivers.
func TestContract_D19_HangingReceiverHurtsNobody(t *testing.T) {
	t.Parallel()
	h := start(t, "delivery: {timeout: 1s, workers: 2, jitter: 0}")
	stuck, well := receive(t), receive(t)
	g := stuck.hold(http.StatusOK)
	healthy := h.subscribe(well.URL, nil)
	var hanging string
	for i := range 40 {
		hanging = h.subscribe("http://127.0.0.1:8421/", fields{"validationCallbackURL": fmt.Sprint(stuck.URL, "/", i)})
	}
	g.taken(t, 4)
	event := h.publish("task.create", "", fields{})
	h.delivery(event, healthy, "delivered")
	ask := receive(t)
	quick := h.subscribe("http://127.0.0.1:8421/", fields{"validationCallbackURL": ask.URL})
	ask.records(1)[0].confirm(h).is(204)
	if h.state(quick) != "active" || h.state(hanging) != "pending" {
		t.Error("the states are wrong")
	}
	g.open()
	stuck.status(http.StatusOK)
	h.eventually("the last of the hanging ones is asked", func() bool {
		return slices.ContainsFunc(stuck.got(), func(p push) bool { return p.url == "/39" })
	})
}

func TestContract_D19_SurvivesARestart(t *testing.T) {
	t.Parallel()
	h := start(t, "delivery: {jitter: 0}")
	r := receive(t)
	r.status(http.StatusServiceUnavailable)
	id := h.subscribe("http://127.0.0.1:8421/", fields{"validationCallbackURL": r.URL})
	taken := receive(t)
	other := h.subscribe("http://127.0.0.1:8421/", fields{"validationCallbackURL": taken.URL})
	first := r.records(1)[0]
	signature := taken.records(1)[0].signature
	h.eventually("the attempts are noted", func() bool {
		return h.progress(id)["attempts"] == float64(1) && h.progress(other)["attempts"] == float64(1)
	})
	before := h.progress(id)
	h = h.restart("delivery: {jitter: 0}")
	if after := h.progress(id); after["expiresAt"] != before["expiresAt"] || h.state(id) != "pending" {
		t.Errorf("before the restart %v, after it %v", before, after)
	}
	r.status(http.StatusOK)
	second := r.records(2)[1]
	if second.signature != first.signature || second.id() != first.id() || second.header.Get("Herald-Attempt") != "2" {
		t.Errorf("after the restart came %s with %v", second.body, second.header)
	}
	second.confirm(h).is(204)
	// One that was taken before the restart is not sent again, and its signature holds.
	h.anyone().do("POST", "/subscriptions/"+other+"/confirmation?signature="+url.QueryEscape(signature), nil).is(204)
	if h.state(id) != "active" || h.state(other) != "active" || len(taken.got()) != 1 {
		t.Errorf("states %s %s, %d records", h.state(id), h.state(other), len(taken.got()))
	}
}

// The confirmation may come before the answer to the record, from within the receiver's handler.
func TestContract_D19_ConfirmedBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	statuses := make(chan int, 1)
	r.respond(func(_ int, p push, w http.ResponseWriter) {
		m := p.object(t)
		resp, err := http.Post(m["confirmationURL"].(string), "application/json", strings.NewReader(string(p.body)))
		if err != nil {
			statuses <- 0
			return
		}
		resp.Body.Close()
		statuses <- resp.StatusCode
		w.WriteHeader(http.StatusInternalServerError) // and it fails all the same
	})
	id := h.subscribe("http://127.0.0.1:8421/", fields{"validationCallbackURL": r.URL, "events": []string{"no.such"}})
	if s := <-statuses; s != 204 { // the record was sent back whole
		t.Fatalf("the confirmation was answered with %d", s)
	}
	if h.state(id) != "active" || h.progress(id) != nil {
		t.Errorf("it is %s with %v", h.state(id), h.progress(id))
	}
}

// The URL is the one the receiver can reach: public_url when it is set.
func TestContract_D20_ConfirmationURL(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{"": "", "public_url: https://push.example.com/base": "https://push.example.com/base"} {
		h := start(t, setting)
		if want == "" {
			want = h.URL
		}
		r := receive(t)
		id := h.subscribe("http://127.0.0.1:8421/", fields{"validationCallbackURL": r.URL})
		if got := r.records(1)[0].confirmationURL; got != want+"/subscriptions/"+id+"/confirmation" {
			t.Errorf("the confirmation URL is %s", got)
		}
	}
}

// records holds the members to the two; the id is in the URL.
func TestContract_D21_NoIDBesideTheURL(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe("http://127.0.0.1:8421/", fields{"validationCallbackURL": r.URL, "payload": "envelope"})
	x := r.records(1)[0]
	if strings.Count(string(x.body), id) != 1 || !strings.Contains(x.confirmationURL, id) {
		t.Errorf("the record is %s", x.body)
	}
}

func TestContract_D22_SignatureIsPlainText(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	h.subscribe("http://127.0.0.1:8421/", fields{"validationCallbackURL": r.URL})
	if sig := r.records(1)[0].signature; !regexp.MustCompile(`^[0-9]+\.[A-Za-z0-9_-]{43}$`).MatchString(sig) {
		t.Errorf("the signature is %q", sig)
	}
}

// D23 and D25: the signature is a form field, a JSON member, or a query parameter.
func TestContract_D23_WaysToConfirm(t *testing.T) {
	t.Parallel()
	h := start(t)
	const form, multi = "application/x-www-form-urlencoded", "multipart/form-data; boundary=XX"
	part := func(name, value string) string {
		return "--XX\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + value + "\r\n"
	}
	for what, call := range map[string]func(x asked) *answer{
		"JSON":       func(x asked) *answer { return h.anyone().do("POST", x.path(h), fields{"signature": x.signature}) },
		"other case": func(x asked) *answer { return h.anyone().do("POST", x.path(h), fields{"Signature": x.signature}) },
		"the record": func(x asked) *answer { return h.anyone().do("POST", x.path(h), x.body) },
		"form": func(x asked) *answer {
			return h.anyone().with("Content-Type", form).do("POST", x.path(h), url.Values{"signature": {x.signature}}.Encode())
		},
		"multipart": func(x asked) *answer {
			return h.anyone().with("Content-Type", multi).do("POST", x.path(h), part("signature", x.signature)+"--XX--\r\n")
		},
		"query": func(x asked) *answer {
			return h.anyone().do("POST", x.path(h)+"?signature="+url.QueryEscape(x.signature), nil)
		},
		"query and empty form": func(x asked) *answer {
			return h.anyone().with("Content-Type", form).do("POST", x.path(h)+"?signature="+x.signature, "")
		},
		"both": func(x asked) *answer {
			return h.anyone().do("POST", x.path(h)+"?signature="+x.signature, fields{"signature": x.signature})
		},
		"with some token": func(x asked) *answer {
			return h.as("whatever").do("POST", x.path(h), fields{"signature": x.signature})
		},
		"over the socket": func(x asked) *answer { return h.overSocket().do("POST", x.path(h), fields{"signature": x.signature}) },
	} {
		r := receive(t)
		id := h.subscribe("http://127.0.0.1:8421/", fields{"validationCallbackURL": r.URL, "events": []string{"no.such"}})
		x := r.records(1)[0]
		if a := call(x); a.status != 204 || len(a.body) != 0 || h.state(id) != "active" {
			t.Errorf("%s: %d %s, and it is %s", what, a.status, a.body, h.state(id))
		}
	}
}

func TestContract_D24_OnlyPOSTConfirms(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe("http://127.0.0.1:8421/", fields{"validationCallbackURL": r.URL})
	x := r.records(1)[0]
	for _, method := range []string{"GET", "PUT", "PATCH", "DELETE"} {
		for _, c := range []*caller{h.anyone(), h.admin()} {
			a := c.do(method, x.path(h)+"?signature="+x.signature, nil)
			names(t, method, a.problem(405), "POST")
			if got := a.header.Get("Allow"); got != "OPTIONS, POST" {
				t.Errorf("%s is answered with Allow %q", method, got)
			}
		}
	}
	h.anyone().do("HEAD", x.path(h)+"?signature="+x.signature, nil).is(405)
	if h.state(id) != "pending" {
		t.Error("it was confirmed")
	}
}

func TestContract_D25_SignatureIsNeededAndRight(t *testing.T) {
	t.Parallel()
	h := start(t)
	r, ask := receive(t), receive(t)
	id := h.subscribe(r.URL, fields{"validationCallbackURL": ask.URL})
	x := ask.records(1)[0]
	elsewhere := receive(t)
	h.subscribe(r.URL, fields{"validationCallbackURL": elsewhere.URL})
	foreign := elsewhere.records(1)[0].signature
	path := x.path(h)

	for what, body := range map[string]any{
		"nothing": nil, "an empty body": "", "an empty object": fields{}, "null": fields{"signature": nil}, "an empty text": fields{"signature": ""},
		"a number": fields{"signature": 1}, "an unknown member": fields{"signature": x.signature, "sign": 1}, "no object": `["` + x.signature + `"]`,
		"twice": `{"signature":"` + x.signature + `","signature":"` + x.signature + `"}`, "no JSON": "signature=" + x.signature,
	} {
		names(t, what, h.anyone().do("POST", path, body).problem(400), "signature|JSON|object")
	}
	for what, c := range map[string][2]string{
		"an empty form":    {"application/x-www-form-urlencoded", "other="},
		"a form with more": {"application/x-www-form-urlencoded", "signature=" + x.signature + "&other=1"},
		"a double form":    {"application/x-www-form-urlencoded", "signature=" + x.signature + "&signature=" + x.signature},
		"a broken form":    {"application/x-www-form-urlencoded", "signature=%zz"},
		"a broken part":    {"multipart/form-data; boundary=XX", "--XX\r\nsignature=" + x.signature},
		"no boundary":      {"multipart/form-data", "signature=" + x.signature},
	} {
		h.anyone().with("Content-Type", c[0]).do("POST", path, c[1]).problem(400)
		if h.state(id) != "pending" {
			t.Fatalf("%s confirmed it", what)
		}
	}
	h.anyone().with("Content-Type", "text/plain").do("POST", path, x.signature).problem(415)
	h.anyone().do("POST", path+"?sign="+x.signature, nil).problem(400)
	names(t, "two signatures", h.anyone().do("POST", path+"?signature="+foreign, fields{"signature": x.signature}).problem(400), "once")
	h.anyone().do("POST", path, fields{"signature": strings.Repeat("x", 20<<10)}).problem(413)

	at, mac, _ := strings.Cut(x.signature, ".")
	for _, wrong := range []string{
		"x", ".", foreign, at + ".", "." + mac, mac, at + "0." + mac, "0" + x.signature, x.signature + "x", x.signature[:len(x.signature)-1],
		at + "." + strings.ToLower(mac), x.signature + "\n", " " + x.signature, "9999999999999." + mac,
	} {
		names(t, wrong, h.anyone().do("POST", path, fields{"signature": wrong}).problem(403), "signature")
	}
	// The right one for another subscription, and for one that has never been validated.
	h.anyone().do("POST", "/subscriptions/"+h.subscribe(r.URL, fields{"events": []string{"no.such"}})+"/confirmation", fields{"signature": x.signature}).problem(403)
	if h.state(id) != "pending" {
		t.Error("a wrong signature confirmed it")
	}
	h.publish("task.create", "", fields{})
	h.sentinel()
	if n := len(r.got()); n != 0 {
		t.Errorf("%d pushes went out", n)
	}
	x.confirm(h).is(204)
}

// A signature is for the URLs it was made with.
func TestContract_D25_SignatureIsForTheURL(t *testing.T) {
	t.Parallel()
	h := start(t)
	a, b, ask := receive(t), receive(t), receive(t)
	id := h.subscribe(a.URL, fields{"validationCallbackURL": ask.URL, "events": []string{"no.such"}})
	first := ask.records(1)[0]
	for i, change := range []fields{
		{"dataCallbackURL": b.URL}, {"dataCallbackURL": b.URL + "/path"}, {"validationCallbackURL": ask.URL + "/path"},
	} {
		s := h.admin().do("PATCH", "/subscriptions/"+id, change).is(200)
		if s.text("state") != "pending" {
			t.Fatalf("after %v: %s", change, s.body)
		}
		next := ask.records(i + 2)[i+1] // a new record goes out by itself
		first.confirm(h).problem(403)
		if next.signature == first.signature {
			t.Error("the signature is the same for another URL")
		}
		first = next
	}
	first.confirm(h).is(204)
	if h.state(id) != "active" {
		t.Error("it was not confirmed")
	}
}

func TestContract_D32_ConfirmationIsIdempotent(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe("http://127.0.0.1:8421/", fields{"validationCallbackURL": r.URL, "events": []string{"no.such"}})
	x := r.records(1)[0]
	var wg sync.WaitGroup
	answers := make([]int, 8)
	for i := range answers {
		wg.Go(func() {
			resp, err := http.PostForm(x.confirmationURL, url.Values{"signature": {x.signature}})
			if err == nil {
				answers[i] = resp.StatusCode
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	for _, s := range answers {
		if s != 204 {
			t.Errorf("confirmations at once are answered with %v", answers)
			break
		}
	}
	since := h.read(id)["stateSince"]
	if a := x.confirm(h).is(204); len(a.body) != 0 {
		t.Errorf("204 with the body %s", a.body)
	}
	if s := h.read(id); s["state"] != "active" || s["stateSince"] != since {
		t.Errorf("after another confirmation: %v", s)
	}
	// It does not start what was stopped.
	h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)
	x.confirm(h).is(204)
	if s := h.state(id); s != "paused" {
		t.Errorf("a confirmation made it %s", s)
	}
	h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
	x.confirm(h).problem(404)
	h.anyone().do("POST", "/subscriptions/"+missing+"/confirmation", fields{"signature": x.signature}).problem(404)
	h.anyone().do("POST", "/subscriptions/none/confirmation", fields{"signature": x.signature}).problem(404)
}

// POST /subscriptions/{id}/validation sends a new record, whatever the state.
func TestContract_ValidationIsRequestedAgain(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	r.status(http.StatusGone) // wants no more of it, and is asked no more
	id := h.subscribe("http://127.0.0.1:8421/", fields{"validationCallbackURL": r.URL, "events": []string{"no.such"}})
	first := r.records(1)[0]
	h.eventually("it is given up", func() bool {
		v := h.progress(id)
		return v["attempts"] == float64(1) && v["nextAttemptAt"] == nil && v["lastError"] != nil
	})
	r.status(http.StatusOK)
	a := h.admin().do("POST", "/subscriptions/"+id+"/validation", nil).is(202)
	if v := a.object(); v["attempts"] != float64(0) || !moment(t, v["expiresAt"]).After(time.Now().Add(23*time.Hour)) || v["lastError"] != nil {
		t.Errorf("answered %s", a.body)
	}
	second := r.records(2)[1]
	if second.signature == first.signature || second.id() == first.id() {
		t.Error("the new record is the old one")
	}
	first.confirm(h).is(204) // which was valid for a day
	if h.state(id) != "active" {
		t.Error("it was not confirmed")
	}
	// Of an active one: it stays active, before and after.
	h.admin().do("POST", "/subscriptions/"+id+"/validation", nil).is(202)
	third := r.records(3)[2]
	if h.state(id) != "active" || h.progress(id) == nil {
		t.Errorf("it is %s with %v", h.state(id), h.progress(id))
	}
	third.confirm(h).is(204)
	if h.state(id) != "active" || h.progress(id) != nil {
		t.Errorf("it is %s with %v", h.state(id), h.progress(id))
	}
	h.admin().do("POST", "/subscriptions/"+missing+"/validation", nil).problem(404)
	h.admin().do("POST", "/subscriptions/"+id+"/validation", fields{"x": 1}).problem(400)
	h.account("other", "subscribe").do("POST", "/subscriptions/"+id+"/validation", nil).problem(404)
}

func TestContract_PendingCannotBePausedOrEnabled(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe("http://127.0.0.1:8421/", fields{"validationCallbackURL": r.URL})
	for _, act := range []string{"pause", "enable"} {
		names(t, act, h.admin().do("POST", "/subscriptions/"+id+"/"+act, nil).problem(409), "confirmation")
	}
}

// A changed host needs a new validation; what was queued waits for it, and a host that was confirmed does not need it twice.
func TestContract_ChangedHostIsValidatedAgain(t *testing.T) {
	t.Parallel()
	h := start(t)
	one, two, ask := receive(t), receive(t), receive(t)
	one.status(http.StatusInternalServerError)
	id := h.subscribe(one.URL+"/a", fields{"validationCallbackURL": ask.URL, "delivery": patiently()})
	ask.records(1)[0].confirm(h).is(204)
	queued := h.publish("task.create", "", fields{})
	h.delivery(queued, id, "retrying")

	patch := func(change fields, want string) {
		t.Helper()
		if s := h.admin().do("PATCH", "/subscriptions/"+id, change).is(200); s.text("state") != want {
			t.Fatalf("after %v: %s", change, s.body)
		}
	}
	patch(fields{"dataCallbackURL": one.URL + "/b?c=d", "validationCallbackURL": ask.URL + "/path", "numberOfRecords": 1}, "active")
	if n := len(ask.got()); n != 1 {
		t.Errorf("%d records for a change of paths", n)
	}
	patch(fields{"dataCallbackURL": two.URL}, "pending")
	second := ask.records(2)[1]
	if d := h.delivery(queued, id, "held"); d["id"] == nil {
		t.Error("what was queued is not held")
	}
	h.admin().do("POST", "/subscriptions/"+id+"/retry", nil).is(202)
	h.sentinel()
	if n := len(two.got()); n != 0 {
		t.Fatalf("%d pushes went to a host that has not been validated", n)
	}
	// Back to where it was: nobody has to be asked.
	patch(fields{"dataCallbackURL": one.URL}, "active")
	second.confirm(h).problem(403)
	patch(fields{"dataCallbackURL": two.URL}, "pending")
	ask.records(3)[2].confirm(h).is(204)
	two.wait(1)
	two.only(queued)
	// Another host to ask at is another receiver too; so is PUT.
	other := receive(t)
	patch(fields{"validationCallbackURL": other.URL}, "pending")
	other.records(1)[0].confirm(h).is(204)
	if s := h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": one.URL, "validationCallbackURL": other.URL}).is(200); s.text("state") != "pending" {
		t.Errorf("after PUT: %s", s.body)
	}
	// And without a URL to ask at there is nothing to wait for.
	if s := h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": one.URL}).is(200); s.text("state") != "active" || s.object()["validationCallbackURL"] != nil {
		t.Errorf("after PUT without the URL: %s", s.body)
	}
	if h.progress(id) != nil {
		t.Errorf("it is still asked: %v", h.progress(id))
	}
}

// Who adds a validation URL asks for the handshake. Whoever wants no gap has the host confirmed before.
func TestContract_AddedValidationURL(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, fields{"events": []string{"no.such"}})
	if s := h.admin().do("PATCH", "/subscriptions/"+id, fields{"validationCallbackURL": r.URL + "/v"}).is(200); s.text("state") != "pending" {
		t.Errorf("after the URL was added: %s", s.body)
	}
	r.records(1)[0].confirm(h).is(204)

	id = h.subscribe(r.URL, fields{"events": []string{"no.such"}})
	h.admin().do("POST", "/subscriptions/"+id+"/validation", nil).is(202)
	r.records(2)[1].confirm(h).is(204)
	if s := h.admin().do("PATCH", "/subscriptions/"+id, fields{"validationCallbackURL": r.URL + "/v"}).is(200); s.text("state") != "active" {
		t.Errorf("after the host had confirmed: %s", s.body)
	}
}

// A paused subscription stays paused when its host changes; enabling it waits for the confirmation.
func TestContract_ChangedHostOfAPausedOne(t *testing.T) {
	t.Parallel()
	h := start(t)
	one, two, ask := receive(t), receive(t), receive(t)
	id := h.subscribe(one.URL, fields{"validationCallbackURL": ask.URL})
	ask.records(1)[0].confirm(h).is(204)
	h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200)
	event := h.publish("task.create", "", fields{})
	if s := h.admin().do("PATCH", "/subscriptions/"+id, fields{"dataCallbackURL": two.URL}).is(200); s.text("state") != "paused" {
		t.Errorf("after a change of the host: %s", s.body)
	}
	x := ask.records(2)[1]
	if s := h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200); s.text("state") != "pending" {
		t.Errorf("enabled before the confirmation: %s", s.body)
	}
	h.sentinel()
	if n := len(two.got()); n != 0 {
		t.Fatalf("%d pushes before the confirmation", n)
	}
	x.confirm(h).is(204)
	two.wait(1)
	two.only(event)
}

// A read can be sent back, and the URL is encrypted like the other; nothing of the handshake's secret is shown.
func TestContract_ValidationInReads(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe("http://127.0.0.1:8421/", fields{"validationCallbackURL": r.URL + "/unlisted"})
	r.records(1)
	s := h.read(id)
	if a := h.admin().do("PUT", "/subscriptions/"+id, s).is(200); a.text("state") != "pending" || a.text("validationCallbackURL") != r.URL+"/unlisted" {
		t.Errorf("sent back: %s", a.body)
	}
	h.sentinel()
	if n := len(r.got()); n != 1 {
		t.Errorf("%d records after a change that changed nothing", n)
	}
	r.records(1)[0].confirm(h).is(204)
	if a := h.admin().do("PUT", "/subscriptions/"+id, h.read(id)).is(200); a.text("state") != "active" {
		t.Errorf("sent back when it was confirmed: %s", a.body)
	}
	elsewhere := h.read(id)
	elsewhere["dataCallbackURL"] = "http://127.0.0.1:8422/"
	delete(elsewhere, "state")
	if a := h.admin().do("PUT", "/subscriptions/"+id, elsewhere).is(200); a.text("state") != "pending" {
		t.Errorf("with another host: %s", a.body)
	}
	if a := h.admin().do("PATCH", "/subscriptions/"+id, fields{"dataCallbackURL": "http://127.0.0.1:8421/"}).is(200); a.text("state") != "active" {
		t.Errorf("back at the confirmed host: %s", a.body)
	}
	for _, path := range []string{"/subscriptions/" + id, "/subscriptions/" + id + "/status", "/subscriptions"} {
		if text := string(h.admin().do("GET", path, nil).is(200).body); strings.Contains(strings.ToLower(text), "confirmed") || strings.Contains(text, r.records(1)[0].signature) {
			t.Errorf("%s shows %s", path, text)
		}
	}
}

// The metrics of the handshake count.
func TestContract_ValidationMetrics(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	h.subscribe("http://127.0.0.1:8421/", fields{"validationCallbackURL": r.URL})
	r.records(1)
	h.eventually("the attempt is counted", func() bool {
		return strings.Contains(string(h.anyone().do("GET", "/metrics", nil).is(200).body), `herald_handshake_attempts_total{outcome="delivered"} 1`)
	})
}
