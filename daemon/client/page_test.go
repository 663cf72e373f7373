package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// collect reads a list to its end or its first error; one that does not end is an error too.
func collect[T any](list iter.Seq2[T, error]) ([]T, error) {
	var all []T
	for v, err := range list {
		if err != nil {
			return all, err
		}
		if all = append(all, v); len(all) > 1000 {
			return all[:0], errors.New("the list does not end")
		}
	}
	return all, nil
}

// pages serves events 0 to 9, three on a page, with the link as format says.
func pages(t *testing.T, format string) (*Client, *atomic.Int32) {
	t.Helper()
	var calls atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if r.URL.Path != "/events" || r.Header.Get("Authorization") != "Bearer t0" {
			t.Errorf("asked for %s", r.URL)
		}
		from := 0
		if after := r.URL.Query().Get("after"); after != "" {
			n, err := strconv.Atoi(after)
			if err != nil {
				t.Error(err)
			}
			from = n + 1
		}
		to := min(from+3, 10)
		if to < 10 {
			w.Header().Set("Link", fmt.Sprintf(format, to-1))
		}
		var out []Event
		for i := from; i < to; i++ {
			out = append(out, Event{ID: strconv.Itoa(i), Data: []byte("{}")})
		}
		if err := json.NewEncoder(w).Encode(out); err != nil {
			t.Error(err)
		}
	})
	return c, &calls
}

func TestListFollowsPages(t *testing.T) {
	t.Parallel()
	for _, format := range []string{
		`</events?limit=3&after=%d>; rel="next"`,
		`</events?after=%d>;rel=next`,
		`<https://elsewhere.example/other?after=%d>; rel="next"`,
		`</first>; rel="first", </events?after=%d>; title="x"; rel="next"`,
		`<?after=%d> ; REL = "Next"`,
	} {
		c, calls := pages(t, format)
		events, err := collect(c.Events(t.Context(), EventFilter{}))
		if err != nil || len(events) != 10 || calls.Load() != 4 {
			t.Errorf("%s: %d events in %d calls, %v", format, len(events), calls.Load(), err)
			continue
		}
		for i, e := range events {
			if e.ID != strconv.Itoa(i) {
				t.Errorf("%s: event %d is %s", format, i, e.ID)
			}
		}
	}
}

func TestListStopsWhenTheCallerDoes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		take  int
		calls int32
	}{{1, 1}, {3, 1}, {4, 2}} {
		api, calls := pages(t, `</events?after=%d>; rel="next"`)
		n := 0
		for _, err := range api.Events(t.Context(), EventFilter{}) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n == c.take {
				break
			}
		}
		if got := calls.Load(); got != c.calls {
			t.Errorf("%d events took %d calls, want %d", c.take, got, c.calls)
		}
	}
}

func TestListCanBeReadAgain(t *testing.T) {
	t.Parallel()
	c, _ := pages(t, `</events?after=%d>; rel="next"`)
	list := c.Events(t.Context(), EventFilter{})
	for range 2 {
		if events, err := collect(list); len(events) != 10 || err != nil {
			t.Errorf("%d events, %v", len(events), err)
		}
	}
}

func TestListFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, body, link string
		status, want     int
	}{
		{name: "object", body: `{"items":[]}`},
		{name: "null", body: `null`},
		{name: "empty", body: ``},
		{name: "cut off", body: `[{"id":"1"},{"id":"2"}`, want: 2},
		{name: "cut off in an element", body: `[{"id":"1"},{"id":`, want: 1},
		{name: "wrong element", body: `[{"id":"1"},5]`, want: 1},
		{name: "refused", body: `{"title":"T","statusCode":403,"detail":"d","instance":"/tokens"}`, status: 403},
		{name: "circle", body: `[{"id":"1"}]`, link: `</tokens?after=1>; rel="next"`, want: 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			api := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/problem+json")
				if c.link != "" {
					w.Header().Set("Link", c.link)
				}
				if c.status != 0 {
					w.WriteHeader(c.status)
				}
				_, _ = io.WriteString(w, c.body)
			})
			got, err := collect(api.Tokens(t.Context()))
			if err == nil || len(got) != c.want {
				t.Errorf("%d tokens, error %v, want %d and an error", len(got), err, c.want)
			}
			if p, ok := errors.AsType[*Problem](err); ok != (c.status != 0) {
				t.Errorf("problem %v", p)
			}
		})
	}
}

func TestScheduleForms(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Schedule{
		`"day"`:       {Name: "day"},
		`["5s","5m"]`: {Waits: []string{"5s", "5m"}},
	} {
		var s Schedule
		if err := json.Unmarshal([]byte(text), &s); err != nil || !reflect.DeepEqual(s, want) {
			t.Errorf("%s: %+v, %v", text, s, err)
		}
		if b, err := json.Marshal(s); err != nil || string(b) != text {
			t.Errorf("%+v: %s, %v", s, b, err)
		}
	}
	for _, text := range []string{`5`, `{}`, `[5]`, `true`} {
		var s Schedule
		if err := json.Unmarshal([]byte(text), &s); err == nil {
			t.Errorf("%s: %+v, want an error", text, s)
		}
	}
}

func FuzzNextQuery(f *testing.F) {
	f.Add(`</events?after=1>; rel="next"`)
	f.Add(`<a>;rel=prev,<?x=y>;rel="next"`)
	f.Add(`<<>>;,;=<`)
	f.Fuzz(func(t *testing.T, header string) {
		q := nextQuery([]string{header})
		if q == nil {
			return
		}
		again, err := url.ParseQuery(q.Encode())
		if err != nil || len(again) == 0 || !strings.Contains(strings.ToLower(header), "next") {
			t.Errorf("%q gave %v, %v", header, q, err)
		}
	})
}

func FuzzSchedule(f *testing.F) {
	f.Add(`"day"`)
	f.Add(`["5s"]`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, text string) {
		var s Schedule
		if json.Unmarshal([]byte(text), &s) != nil || s.IsZero() {
			return
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var again Schedule
		if err := json.Unmarshal(b, &again); err != nil || !reflect.DeepEqual(s, again) {
			t.Errorf("%s became %s: %v", text, b, err)
		}
	})
}
