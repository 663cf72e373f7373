package daemon_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// What stands around: health, metrics, the guarded way out.

func TestContract_HealthAndReadiness(t *testing.T) {
	t.Parallel()
	h := start(t)
	for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ready"} {
		a := h.as("").do("GET", path, nil).is(200)
		if a.text("status") != want || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("GET %s answered %v %s", path, a.header, a.body)
		}
		h.as("").do("GET", path+"?probe=1", nil).is(200)
		if a := h.as("").do("HEAD", path, nil).is(200); len(a.body) != 0 {
			t.Errorf("HEAD %s answered with a body", path)
		}
		a = h.as("").do("POST", path, nil)
		a.problem(405)
		if got := a.header.Get("Allow"); !strings.Contains(got, "GET") {
			t.Errorf("POST %s: Allow is %q", path, got)
		}
	}
}

// sample returns the sum of the samples of a metric whose line has all the labels.
func sample(t *testing.T, text, metric string, labels ...string) float64 {
	t.Helper()
	var sum float64
	found := false
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if base, _, _ := strings.Cut(name, "{"); base != metric || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(name, l) }) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum, found = sum+v, true
	}
	if !found {
		t.Errorf("there is no metric %s %v", metric, labels)
	}
	return sum
}

func TestContract_Metrics(t *testing.T) {
	t.Parallel()
	h := start(t)
	good, bad := receive(t), receive(t)
	bad.status(500)
	a := h.subscribe(good.URL+"/path-of-a-url", nil)
	b := h.subscribe(bad.URL, fields{"delivery": patiently()})
	for i := range 3 {
		event := h.publish("task.create", "", fields{"n": i})
		h.delivery(event, a, "delivered")
		h.delivery(event, b, "retrying")
	}
	h.admin().do("POST", "/events", `{`).problem(400)
	answer := h.as("").do("GET", "/metrics", nil).is(200)
	if got := answer.header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain; version=0.0.4") {
		t.Errorf("the Content-Type is %q", got)
	}
	text := string(answer.body)
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "herald_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	if got := sample(t, text, "herald_build_info", `version="1.2.3-test"`); got != 1 {
		t.Errorf("herald_build_info is %v", got)
	}
	if got := sample(t, text, "herald_dispatch_attempts_total", `outcome="delivered"`); got != 3 {
		t.Errorf("%v attempts delivered, want 3", got)
	}
	if got := sample(t, text, "herald_dispatch_attempts_total", `outcome="retry"`); got != 3 {
		t.Errorf("%v attempts failed, want 3", got)
	}
	if got := sample(t, text, "herald_api_requests_total", `/events"`, `"POST"`, `"2xx"`); got != 3 {
		t.Errorf("%v requests published, want 3", got)
	}
	if got := sample(t, text, "herald_api_requests_total", `/events"`, `"POST"`, `"4xx"`); got != 1 {
		t.Errorf("%v requests were refused, want 1", got)
	}
	// The labels are closed sets: nothing of what users named, no ids, no addresses.
	for _, secret := range []string{a, b, "path-of-a-url", strings.TrimPrefix(good.URL, "http://"), "task.create", "evt_", "\"default\""} {
		if strings.Contains(text, secret) {
			t.Errorf("the metrics show %q", secret)
		}
	}
	for line := range strings.Lines(text) { // every metric says what it is
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ = strings.Cut(name, " ")
			if !strings.Contains(text, "# HELP "+name+" ") {
				t.Errorf("the metric %s has no help", name)
			}
		}
	}
}

func TestContract_ForbiddenCallbackAddresses(t *testing.T) {
	t.Parallel()
	h := start(t)
	id := h.subscribe("http://127.0.0.1:8421/", nil) // opened by the configuration
	for _, url := range []string{
		"http://10.0.0.1/", "https://192.168.1.1/hook", "http://172.16.5.4:8080/", "http://169.254.169.254/latest/meta-data/", "http://100.64.0.1/",
		"http://0.0.0.0/", "http://224.0.0.1/", "http://255.255.255.255/", "http://240.0.0.1/", "http://198.18.0.1/", "http://192.0.2.1/",
		"http://[::1]/", "http://[::]/", "http://[fe80::1]/", "http://[fc00::1]/", "http://[fd00:ec2::254]/", "http://[ff02::1]/",
		"http://[::ffff:10.0.0.1]/", "http://[64:ff9b::10.0.0.1]/", "http://[2002:0a00:0001::1]/",
	} {
		for method, path := range map[string]string{"POST": "/subscriptions", "PUT": "/subscriptions/" + id, "PATCH": "/subscriptions/" + id} {
			names(t, method+" of "+url, h.admin().do(method, path, fields{"dataCallbackURL": url}).problem(400), "dataCallbackURL", "egress.allow_networks")
		}
	}
	for _, port := range []int{25, 22, 6667, 465, 587, 110, 143, 53} { // ports of other protocols
		names(t, fmt.Sprint("port ", port), h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": fmt.Sprint("http://127.0.0.1:", port, "/")}).problem(400), "dataCallbackURL", "port")
	}
	if l := h.admin().do("GET", "/subscriptions", nil).is(200).list(); len(l) != 1 || l[0]["dataCallbackURL"] != "http://127.0.0.1:8421/" {
		t.Errorf("refused addresses were stored: %v", l)
	}
	// Spellings of one that is open are as open as it is, and public ones need nothing.
	for _, url := range []string{"http://[::ffff:127.0.0.1]:8421/", "https://198.51.101.7/", "https://example.com/hook", "http://[2606:4700::1]/"} {
		h.subscribe(url, fields{"events": []string{"no.such"}})
	}
}

// A name that resolves to a forbidden address fails the attempt, with the name of the setting. The test
// is not parallel, because it gives the process a resolver of its own.
func TestContract_ForbiddenAddressBehindAName(t *testing.T) {
	resolver := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = resolver })
	server := nameServer(t, map[string][4]byte{"inside.example.": {10, 1, 2, 3}, "open.example.": {127, 0, 0, 1}})
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", server)
	}}
	h := start(t)
	r := receive(t)
	_, port, _ := strings.Cut(strings.TrimPrefix(r.URL, "http://"), ":")
	for host, words := range map[string][]string{"inside.example": {"inside.example", "10.1.2.3", "egress.allow_networks"}, "nowhere.example": {"nowhere.example"}} {
		id := h.subscribe("http://"+host+":"+port+"/hook?key=hidden", fields{"delivery": patiently()})
		x := attempts(t, h.delivery(h.publish("task.create", "", fields{}), id, "retrying"))[0]
		text, _ := x["error"].(string)
		names(t, "the attempt at "+host, text, words...)
		if x["status"] != nil || x["outcome"] == "delivered" || strings.Contains(text, "hidden") {
			t.Errorf("the attempt at %s is %v", host, x)
		}
		h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
	}
	r.only()
	open := h.subscribe("http://open.example:"+port+"/hook", nil)
	event := h.publish("task.create", "", fields{})
	h.delivery(event, open, "delivered")
	r.only(event)
}

// nameServer answers queries for the addresses of a few names, and knows no others. It returns its address.
func nameServer(t *testing.T, hosts map[string][4]byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = conn.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			query := buf[:n]
			var name strings.Builder
			end := 12 // behind the header (RFC 1035, section 4.1)
			for end < n && query[end] != 0 {
				size := int(query[end])
				name.Write(query[end+1 : end+1+size])
				name.WriteByte('.')
				end += 1 + size
			}
			kind := query[end+2]
			end += 5
			addr, known := hosts[name.String()]
			reply := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, query[12:end]...)
			switch {
			case !known:
				reply[3] = 0x83 // no such name
			case kind == 1: // an IPv4 address
				reply[7] = 1
				reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4)
				reply = append(reply, addr[:]...)
			}
			_, _ = conn.WriteTo(reply, from)
		}
	}()
	return conn.LocalAddr().String()
}

func TestContract_HTTPSOnly(t *testing.T) {
	t.Parallel()
	h := startWith(t, t.TempDir(), []string{"HERALD_EGRESS_HTTPS_ONLY=true"})
	names(t, "http", h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": "http://example.com/"}).problem(400), "dataCallbackURL", "https")
	h.subscribe("https://example.com/", nil)
}

func TestContract_SubscriptionsPerAccountAreLimited(t *testing.T) {
	t.Parallel()
	h := start(t, "subscriptions: {max_per_account: 2}")
	first := h.subscribe("http://127.0.0.1:8421/", nil)
	h.subscribe("http://127.0.0.1:8421/", nil)
	names(t, "the third", h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": "http://127.0.0.1:8421/"}).problem(409), "2")
	h.account("other", "subscribe").do("POST", "/subscriptions", fields{"dataCallbackURL": "http://127.0.0.1:8421/"}).is(200)
	h.admin().do("DELETE", "/subscriptions/"+first, nil).is(204)
	h.subscribe("http://127.0.0.1:8421/", nil)
}
