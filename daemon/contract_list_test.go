package daemon_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// Lists: bare arrays, in pages by limit and after, with a Link to the next.

// next returns the path of the next page, or "".
func (a *answer) next() string {
	a.t.Helper()
	link := a.header.Get("Link")
	if link == "" {
		return ""
	}
	target, rel, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">; ")
	u, err := url.Parse(target)
	if !ok || err != nil || rel != `rel="next"` {
		a.t.Fatalf("%s: the Link is %q", a.request, link)
	}
	return u.RequestURI()
}

// pages reads a list page by page and returns the ids of each.
func (c *caller) pages(path, key string) [][]string {
	c.h.t.Helper()
	var out [][]string
	for path != "" {
		a := c.do("GET", path, nil).is(200)
		page := make([]string, 0)
		for _, m := range a.list() {
			page = append(page, fmt.Sprint(m[key]))
		}
		out = append(out, page)
		if path = a.next(); len(out) > 100 {
			c.h.t.Fatal("the pages do not end")
		}
	}
	return out
}

func sizes(pages [][]string) []int {
	out := make([]int, len(pages))
	for i, p := range pages {
		out[i] = len(p)
	}
	return out
}

func TestContract_CatalogueListsAreCompleteAndPaged(t *testing.T) {
	t.Parallel()
	h := start(t)
	const n = 25
	var subs, resources []string
	var bulk []any
	for i := range n {
		subs = append(subs, h.subscribe(fmt.Sprintf("http://127.0.0.1:8421/%d", i), nil))
		resources = append(resources, fmt.Sprintf("p%02d", i))
		bulk = append(bulk, fields{"type": "project", "id": resources[i], "name": "x"})
	}
	bulk = append(bulk, fields{"type": "task", "id": "t1", "name": "x"})
	h.admin().do("PUT", "/resources", bulk).is(200)
	for path, want := range map[string][]string{"/subscriptions": subs, "/resources?type=project": resources} {
		mark := map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")]
		all := h.admin().pages(path, "id")
		if len(all) != 1 || !slices.Equal(slices.Sorted(slices.Values(all[0])), slices.Sorted(slices.Values(want))) {
			t.Errorf("GET %s has %v, want %v", path, all, want)
		}
		for limit, size := range map[int][]int{10: {10, 10, 5}, 25: {25}, 24: {24, 1}, 1000: {25}} {
			paged := h.admin().pages(fmt.Sprint(path, mark, "limit=", limit), "id")
			if !slices.Equal(sizes(paged), size) || !slices.Equal(slices.Concat(paged...), all[0]) {
				t.Errorf("GET %s by %d has the pages %v, want %v of %v", path, limit, paged, size, all)
			}
		}
	}
	// A page stays right when its last element is deleted meanwhile.
	first := h.admin().do("GET", "/subscriptions?limit=10", nil).is(200)
	list := first.list()
	h.admin().do("DELETE", "/subscriptions/"+list[9]["id"].(string), nil).is(204)
	rest := h.admin().do("GET", strings.Replace(first.next(), "limit=10", "limit=1000", 1), nil).is(200).list()
	if len(rest) != n-10 {
		t.Errorf("after a deletion %d follow, want %d", len(rest), n-10)
	}
}

// More than one page of the store: the complete list is streamed, and still one array.
func TestContract_LongListsAreComplete(t *testing.T) {
	t.Parallel()
	h := start(t)
	const n = 1700
	var bulk []any
	for i := range n {
		bulk = append(bulk, fields{"type": "project", "id": fmt.Sprintf("p%04d", i), "name": strings.Repeat("n", 60)})
	}
	if got := h.admin().do("PUT", "/resources", bulk).is(200).object()["resources"]; got != float64(n) {
		t.Errorf("the bulk answered %v", got)
	}
	a := h.admin().do("GET", "/resources", nil).is(200)
	list := a.list()
	if len(list) != n || a.next() != "" {
		t.Fatalf("the list has %d, want %d", len(list), n)
	}
	for i, m := range list {
		if m["id"] != fmt.Sprintf("p%04d", i) {
			t.Fatalf("element %d is %v", i, m)
		}
	}
}

func TestContract_NewestFirst100AtATime(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, nil)
	other := h.subscribe(r.URL, fields{"events": []string{"task.update"}})
	var want []string
	for batch := range 5 {
		var list []any
		for i := range 50 {
			list = append(list, fields{"id": fmt.Sprintf("e%03d", batch*50+i), "type": "task.create", "data": fields{}})
			want = append(want, fmt.Sprintf("e%03d", batch*50+i))
		}
		h.admin().do("POST", "/events", list).is(202)
	}
	last := h.publish("task.update", "", fields{})
	h.delivery(last, other, "delivered")
	for _, e := range want {
		h.delivery(e, id, "delivered")
	}
	h.delivery(last, id, "delivered")
	want = append(want, last)
	slices.Reverse(want)
	for path, c := range map[string]struct {
		key   string
		pages []int
	}{
		"/events":                                  {"id", []int{100, 100, 51}},
		"/events?limit=250":                        {"id", []int{250, 1}},
		"/events?limit=1000":                       {"id", []int{251}},
		"/deliveries?subscription=" + id:           {"eventId", []int{100, 100, 51}},
		"/deliveries?limit=251&subscription=" + id: {"eventId", []int{251}},
		"/deliveries?limit=125&state=delivered&subscription=" + id: {"eventId", []int{125, 125, 1}},
	} {
		pages := h.admin().pages(path, c.key)
		if !slices.Equal(sizes(pages), c.pages) {
			t.Errorf("GET %s has pages of %v, want %v", path, sizes(pages), c.pages)
		}
		if got := slices.Concat(pages...); !slices.Equal(got, want) {
			t.Errorf("GET %s has %v, want %v", path, got, want)
		}
	}
	if all := slices.Concat(h.admin().pages("/deliveries", "id")...); len(all) != 252 {
		t.Errorf("GET /deliveries has %d, want 252", len(all))
	} else if slices.Sort(all); len(slices.Compact(all)) != 252 {
		t.Error("GET /deliveries repeats some")
	}
}

func TestContract_DeliveriesAreSelected(t *testing.T) {
	t.Parallel()
	h := start(t)
	good, bad := receive(t), receive(t)
	bad.status(http.StatusInternalServerError)
	a := h.subscribe(good.URL, nil)
	b := h.subscribe(bad.URL, fields{"delivery": patiently()})
	first := h.publish("task.create", "", fields{"n": 1})
	h.delivery(first, a, "delivered")
	h.delivery(first, b, "retrying")
	at := moment(t, h.admin().do("GET", "/events/"+first, nil).is(200).object()["acceptedAt"])
	h.eventually("the clock has gone on", func() bool { return time.Since(at) > 5*time.Millisecond })
	second := h.publish("task.create", "", fields{"n": 2})
	h.delivery(second, a, "delivered")
	h.delivery(second, b, "retrying")
	between := at.Add(2 * time.Millisecond).Format(time.RFC3339Nano)
	for query, want := range map[string]int{
		"": 4, "subscription=" + a: 2, "subscription=" + b: 2, "subscription=" + missing: 0,
		"state=delivered": 2, "state=retrying": 2, "state=dead": 0, "state=held": 0, "state=pending": 0, "state=discarded": 0, "state=delivering": 0,
		"event=" + first: 2, "event=none": 0, "event=" + first + "&state=retrying&subscription=" + b: 1,
		"since=" + between: 2, "since=" + between + "&state=delivered": 1, "since=2199-01-01T00:00:00Z": 0, "since=2000-01-01T00:00:00Z": 4,
	} {
		list := h.admin().do("GET", "/deliveries?"+query, nil).is(200).list()
		if len(list) != want {
			t.Errorf("GET /deliveries?%s has %v, want %d", query, list, want)
		}
	}
	one := h.admin().do("GET", "/deliveries?event="+first+"&subscription="+b, nil).is(200).list()[0]
	if m := members(one); !slices.Equal(m, []string{"acceptedAt", "attemptCount", "eventId", "eventType", "id", "nextAttemptAt", "state", "subscriptionId"}) {
		t.Errorf("a delivery in a list has the members %v", m)
	}
	if one["eventId"] != first || one["eventType"] != "task.create" || one["subscriptionId"] != b || one["attemptCount"] != float64(1) || !moment(t, one["acceptedAt"]).Equal(at) {
		t.Errorf("the delivery is %v", one)
	}
}

func TestContract_QueriesAreChecked(t *testing.T) {
	t.Parallel()
	h := start(t)
	for _, path := range []string{"/subscriptions", "/resources", "/events", "/deliveries", "/accounts", "/tokens"} {
		for _, limit := range []string{"0", "-1", "1001", "ten", "1.5", ""} {
			names(t, path+" with limit "+limit, h.admin().do("GET", path+"?limit="+limit, nil).problem(400), "limit")
		}
		names(t, path, h.admin().do("GET", path+"?surprise=1", nil).problem(400), "surprise", "limit")
		h.admin().do("GET", path+"?limit=1&limit=2", nil).problem(400)
		h.admin().do("GET", path+"?limit=%zz", nil).problem(400)
	}
	for query, word := range map[string]string{
		"subscription=none": "subscription", "state=lost": "state", "since=yesterday": "since", "since=2026-11-21": "since", "after=none": "after",
	} {
		names(t, query, h.admin().do("GET", "/deliveries?"+query, nil).problem(400), word)
	}
	names(t, "a strange state", h.admin().do("GET", "/deliveries?state=lost", nil).problem(400),
		"pending", "delivering", "delivered", "retrying", "dead", "held", "discarded")
	names(t, "after", h.admin().do("GET", "/events?after=none", nil).problem(400), "after")
	names(t, "after", h.admin().do("GET", "/subscriptions?after=none", nil).problem(400), "after")
}
