package api

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"herald/queue"
	"herald/store"
)

func TestAccounts(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for body, field := range map[string]string{
		`{}`: "id", `{"id":null}`: "id", `{"id":""}`: "id", `{"id":1}`: "id", `{"id":".x"}`: "id", `{"id":"a/b"}`: "id", `{"id":"` + strings.Repeat("a", 65) + `"}`: "id",
		`{"id":"a","name":1}`: "name", `{"id":"a","name":"` + strings.Repeat("é", 201) + `"}`: "name", `{"id":"a","name":"a\nb"}`: "name",
		`{"id":"a","suspended":"yes"}`: "suspended", `{"id":"a","createdAt":"2026-01-01T00:00:00Z"}`: "createdAt", `{"id":"a","ID":"b"}`: "ID",
	} {
		if p := wantProblem(t, b.request(http.MethodPost, "/accounts", "adm", body), 400); firstField(p) != field {
			t.Errorf("%s: %+v", body, p)
		}
	}
	want := jsonObject{"id": "shop-1", "name": "é" + strings.Repeat("é", 199), "suspended": false, "createdAt": "2026-11-21T08:30:00Z"}
	w := b.request(http.MethodPost, "/accounts", "adm", `{"id":"shop-1","name":"`+strings.Repeat("é", 200)+`"}`)
	if got := wantJSON[jsonObject](t, w, 200); !maps.Equal(got, want) {
		t.Errorf("created %v", got)
	}
	if loc := w.Header().Get("Location"); loc != "/accounts/shop-1" {
		t.Errorf("Location %q", loc)
	}
	wantProblem(t, b.request(http.MethodPost, "/accounts", "adm", `{"id":"shop-1"}`), 409, "shop-1")
	read := b.request(http.MethodGet, "/accounts/shop-1", "adm", "").Body.String()
	if w := b.request(http.MethodPut, "/accounts/shop-1", "adm", read); w.Code != 200 || w.Body.String() != read {
		t.Errorf("round trip: %d %s", w.Code, w.Body)
	}
	patched := wantJSON[jsonObject](t, b.request(http.MethodPatch, "/accounts/shop-1", "adm", `{"suspended":true}`, "Content-Type", "application/merge-patch+json"), 200)
	if patched["suspended"] != true || patched["name"] != want["name"] {
		t.Errorf("patched %v", patched)
	}
	if got := wantJSON[jsonObject](t, b.request(http.MethodPut, "/accounts/shop-1", "adm", `{"name":"x"}`), 200); got["suspended"] != false || got["name"] != "x" {
		t.Errorf("replaced %v", got)
	}
	if got := wantJSON[jsonObject](t, b.request(http.MethodPatch, "/accounts/shop-1", "adm", `{"name":null}`), 200); got["name"] != "" {
		t.Errorf("patched %v", got)
	}
	wantProblem(t, b.request(http.MethodPut, "/accounts/shop-1", "adm", `{"id":"shop-2"}`), 400, "keeps its id")
	wantProblem(t, b.request(http.MethodPut, "/accounts/nope", "adm", `{}`), 404)
	wantProblem(t, b.request(http.MethodGet, "/accounts/nope", "adm", ""), 404)
	wantProblem(t, b.request(http.MethodDelete, "/accounts/nope", "adm", ""), 404)
	wantProblem(t, b.request(http.MethodDelete, "/accounts/default", "adm", ""), 409)

	var ids []string
	for next := "/accounts?limit=2"; next != ""; {
		w := b.request(http.MethodGet, next, "adm", "")
		for _, a := range wantJSON[[]jsonObject](t, w, 200) {
			ids = append(ids, a["id"].(string))
		}
		next = nextOf(w.Header())
	}
	if got := strings.Join(ids, " "); got != "acme default frozen other shop-1" {
		t.Errorf("listed %s", got)
	}
	wantProblem(t, b.request(http.MethodGet, "/accounts?after=a/b", "adm", ""), 400, "after")

	// With an account go the deliveries of its subscriptions.
	for range 40 {
		b.subscribe(minimal)
	}
	if w := b.request(http.MethodDelete, "/accounts/acme", "adm", ""); w.Code != 204 || len(b.queue.dropped) != 40 || len(b.changed) != 80 {
		t.Errorf("deleted: %d, %d lanes dropped, %d changes", w.Code, len(b.queue.dropped), len(b.changed))
	}
	wantProblem(t, b.request(http.MethodGet, "/subscriptions", "sub", ""), 401)
}

func TestTokens(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for body, field := range map[string]string{
		`{}`: "scopes", `{"scopes":null}`: "scopes", `{"scopes":[]}`: "scopes", `{"scopes":"admin"}`: "scopes", `{"scopes":["root"]}`: "/scopes/0",
		`{"scopes":["send","send"]}`: "/scopes/1", `{"scopes":[1]}`: "/scopes/0", `{"scopes":["send"],"expiresAt":"tomorrow"}`: "expiresAt",
		`{"scopes":["send"],"expiresAt":"2026-11-21T08:30:00Z"}`: "expiresAt", `{"scopes":["send"],"expiresAt":"2200-11-21T08:30:00Z"}`: "expiresAt",
		`{"scopes":["send"],"accountId":"a b"}`: "accountId", `{"scopes":["send"],"accountId":"nobody"}`: "accountId", `{"scopes":["send"],"accountId":5}`: "accountId",
		`{"scopes":["send"],"token":"mine"}`: "token", `{"scopes":["send"],"name":[]}`: "name",
	} {
		if p := wantProblem(t, b.request(http.MethodPost, "/tokens", "adm", body), 400); firstField(p) != field {
			t.Errorf("%s: %+v", body, p)
		}
	}
	w := b.request(http.MethodPost, "/tokens", "adm", `{"name":"ci","scopes":["publish","subscribe"],"expiresAt":"2026-12-01T00:00:00+01:00"}`, "Herald-Account", "acme")
	got := wantJSON[jsonObject](t, w, 200)
	secret, _ := got["token"].(string)
	id, _ := got["id"].(string)
	if !regexp.MustCompile(`^hrld_[A-Za-z0-9_-]{43}$`).MatchString(secret) || !regexp.MustCompile(`^tok_[0-9a-v]{26}$`).MatchString(id) ||
		got["accountId"] != "acme" || got["expiresAt"] != "2026-11-30T23:00:00Z" || got["name"] != "ci" {
		t.Errorf("minted %v", got)
	}
	if w.Header().Get("Cache-Control") != "no-store" {
		t.Error("the answer with a token may be stored")
	}
	if kept := b.store.tokens[sha256.Sum256([]byte(secret))]; kept.ID != id {
		t.Errorf("kept %+v", kept)
	}
	if w := b.request(http.MethodGet, "/subscriptions", secret, ""); w.Code != 200 {
		t.Errorf("the token: %d %s", w.Code, w.Body)
	}
	all := b.request(http.MethodGet, "/tokens", "adm", "")
	if n := len(wantJSON[[]jsonObject](t, all, 200)); n != 10 || strings.Contains(all.Body.String(), "hrld_") || strings.Contains(all.Body.String(), "token\"") {
		t.Errorf("%d listed: %s", n, all.Body)
	}
	if n := len(wantJSON[[]jsonObject](t, b.request(http.MethodGet, "/tokens", "adm", "", "Herald-Account", "acme"), 200)); n != 7 {
		t.Errorf("%d listed of acme", n)
	}
	wantProblem(t, b.request(http.MethodDelete, "/tokens/"+id, "adm", "", "Herald-Account", "other"), 404)
	if w := b.request(http.MethodDelete, "/tokens/"+id, "adm", ""); w.Code != 204 || w.Body.Len() > 0 {
		t.Errorf("revoked: %d", w.Code)
	}
	wantProblem(t, b.request(http.MethodGet, "/subscriptions", secret, ""), 401)
	wantProblem(t, b.request(http.MethodDelete, "/tokens/"+id, "adm", ""), 404)
	if got := wantJSON[jsonObject](t, b.request(http.MethodPost, "/tokens", "adm", `{"scopes":["admin"]}`), 200); got["accountId"] != "default" || got["expiresAt"] != nil {
		t.Errorf("minted %v", got)
	}
}

func TestResources(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	if got := wantJSON[jsonObject](t, b.request(http.MethodPut, "/resources/project/p%253A1", "pub", `{"name":"A"}`), 200); !maps.Equal(got, jsonObject{"type": "project", "id": "p%3A1", "name": "A"}) {
		t.Errorf("put %v", got)
	}
	if got := wantJSON[jsonObject](t, b.request(http.MethodPut, "/resources/task/t1", "pub", ""), 200); got["name"] != "" {
		t.Errorf("put %v", got)
	}
	read := b.request(http.MethodGet, "/resources/task/t1", "sub", "").Body.String()
	if w := b.request(http.MethodPut, "/resources/task/t1", "pub", read); w.Code != 200 || w.Body.String() != read {
		t.Errorf("round trip: %d %s", w.Code, w.Body)
	}
	for path, field := range map[string]string{
		"/resources/a%20b/x": "type", "/resources/project/a%20b": "id", "/resources/project/a%2Fb": "id", "/resources/project/*": "id",
		"/resources/project/" + strings.Repeat("x", 129): "id", "/resources/" + strings.Repeat("x", 129) + "/y": "type", "/resources/project/%C3%A9": "id",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
			if p := wantProblem(t, b.request(method, path, "both", ""), 400); firstField(p) != field {
				t.Errorf("%s %s: %+v", method, path, p)
			}
		}
	}
	for body, field := range map[string]string{`{"name":1}`: "name", `{"id":"t2"}`: "id", `{"type":"x"}`: "type", `{"title":"x"}`: "title"} {
		if p := wantProblem(t, b.request(http.MethodPut, "/resources/task/t1", "pub", body), 400); firstField(p) != field {
			t.Errorf("%s: %+v", body, p)
		}
	}
	if got := wantJSON[map[string]int](t, b.request(http.MethodPut, "/resources", "pub", `[{"type":"zebra","id":"z1","name":"Z"},{"TYPE":"zebra","id":"z2"}]`), 200); got["resources"] != 2 {
		t.Errorf("bulk %v", got)
	}
	if got := wantJSON[map[string]int](t, b.request(http.MethodPut, "/resources", "pub", `[]`), 200); got["resources"] != 0 {
		t.Errorf("bulk %v", got)
	}
	for body, field := range map[string]string{
		`[{"type":"a","id":"b"},{"id":"c"}]`: "/1/type", `[{"type":"a","id":""}]`: "/0/id", `[1]`: "/0", `[{"type":"a","id":"b"},{"type":"a","id":"b"}]`: "/1",
		`[{"type":"a","id":"b","x":1}]`: "/0/x", `{"type":"a","id":"b"}`: "", `[{"type":"a","id":"b"}] 1`: "", `[{"type":"a","id":"b","id":"c"}]`: "/0/id", `[`: "",
		"[" + strings.Repeat(`{},`, maxResources) + `{}]`: "",
	} {
		if p := wantProblem(t, b.request(http.MethodPut, "/resources", "pub", body), 400); firstField(p) != field {
			t.Errorf("%.80s: %+v", body, p)
		}
	}
	if n := len(wantJSON[[]jsonObject](t, b.request(http.MethodGet, "/resources", "sub", ""), 200)); n != 6 {
		t.Errorf("%d listed", n)
	}
	w := b.request(http.MethodGet, "/resources?type=zebra&limit=1", "sub", "")
	if got := w.Body.String(); got != `[{"id":"z1","type":"zebra","name":"Z"}]` {
		t.Errorf("listed %s", got)
	}
	if got := b.request(http.MethodGet, nextOf(w.Header()), "sub", "").Body.String(); got != `[{"id":"z2","type":"zebra","name":""}]` {
		t.Errorf("next %s", got)
	}
	if w := b.request(http.MethodGet, "/resources?type=unicorn", "sub", ""); w.Body.String() != "[]" {
		t.Errorf("none: %s", w.Body)
	}
	for path, field := range map[string]string{"/resources?type=a%20b": "type", "/resources?after=zebra": "after", "/resources?limit=1.5": "limit"} {
		if p := wantProblem(t, b.request(http.MethodGet, path, "sub", ""), 400); firstField(p) != field {
			t.Errorf("%s: %+v", path, p)
		}
	}
	if n := len(wantJSON[[]jsonObject](t, b.request(http.MethodGet, "/resources", "alien", ""), 200)); n != 0 {
		t.Errorf("another account sees %d", n)
	}
	if w := b.request(http.MethodDelete, "/resources/zebra/z1", "pub", ""); w.Code != 204 {
		t.Errorf("deleted: %d", w.Code)
	}
	wantProblem(t, b.request(http.MethodDelete, "/resources/zebra/z1", "pub", ""), 404)
	wantProblem(t, b.request(http.MethodGet, "/resources/zebra/z1", "pub", ""), 404)
	for _, x := range [][2]string{{http.MethodPut, "/resources/a/b"}, {http.MethodPut, "/resources"}, {http.MethodDelete, "/resources/a/b"}, {http.MethodPost, "/events"}} {
		wantProblem(t, b.request(x[0], x[1], "sub", "[]"), 403, "publish")
	}
}

func TestDeliveries(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	v, _ := b.subscribe(minimal)
	for i := range 3 {
		b.request(http.MethodPost, "/events", "pub", fmt.Sprintf(`{"id":"e%d","type":"a.b","data":{}}`, i))
	}
	d := b.queue.deliveries
	d[0].State, d[0].Reason, d[0].Attempts = queue.StateDead, queue.ReasonExhausted, 2
	d[1].State, d[1].NextAttemptAt, d[1].Attempts = queue.StateRetrying, testNow.Add(time.Minute), 1
	b.queue.attempts[d[0].ID] = []queue.Attempt{
		{Number: 1, StartedAt: testNow, Duration: 12345 * time.Microsecond, Class: queue.ClassRetry, Status: 500, Error: "answered 500", Response: []byte("no\xff\"\x00")},
		{Number: 2, StartedAt: testNow.Add(time.Second), Class: queue.ClassRetry, Error: "the connection was refused"},
	}
	list := wantJSON[[]jsonObject](t, b.request(http.MethodGet, "/deliveries", "sub", ""), 200)
	want := jsonObject{
		"id": d[0].ID.String(), "eventId": "e0", "eventType": "a.b", "subscriptionId": v["id"], "state": "dead", "reason": "exhausted",
		"attemptCount": 2.0, "acceptedAt": "2026-11-21T08:30:00Z",
	}
	if len(list) != 3 || !maps.Equal(list[2], want) || list[1]["nextAttemptAt"] != "2026-11-21T08:31:00Z" || list[0]["reason"] != nil || list[0]["nextAttemptAt"] != nil {
		t.Errorf("listed %v", list)
	}
	one := b.request(http.MethodGet, "/deliveries/"+d[0].ID.String(), "sub", "")
	if !strings.HasSuffix(one.Body.String(), `"attempts":[{"number":1,"time":"2026-11-21T08:30:00Z","durationMs":12.345,"status":500,"outcome":"retry","error":"answered 500","response":"no`+"\uFFFD"+`\"\u0000"},`+
		`{"number":2,"time":"2026-11-21T08:30:01Z","durationMs":0,"outcome":"retry","error":"the connection was refused"}]}`) {
		t.Errorf("read %s", one.Body)
	}
	for path, n := range map[string]int{
		"/deliveries?state=dead": 1, "/deliveries?state=held": 0, "/deliveries?event=e1": 1, "/deliveries?event=nope": 0, "/deliveries?since=2026-11-21T08:30:00Z": 3,
		"/deliveries?since=2026-11-21T08:30:01Z": 0, "/deliveries?subscription=" + v["id"].(string): 3, "/deliveries?subscription=01234567-89ab-7def-8123-456789abcdef": 0,
		"/deliveries?limit=2": 2, "/deliveries?after=" + d[1].ID.String(): 1,
	} {
		if got := wantJSON[[]jsonObject](t, b.request(http.MethodGet, path, "sub", ""), 200); len(got) != n {
			t.Errorf("%s: %d", path, len(got))
		}
	}
	next := nextOf(b.request(http.MethodGet, "/deliveries?limit=2&state=dead&event=e0", "sub", "").Header())
	if next != "" {
		t.Errorf("a page more: %s", next)
	}
	if next = nextOf(b.request(http.MethodGet, "/deliveries?limit=2", "sub", "").Header()); next != "/deliveries?after="+d[1].ID.String()+"&limit=2" {
		t.Errorf("next %s", next)
	}
	for path, field := range map[string]string{
		"/deliveries?state=lost": "state", "/deliveries?since=today": "since", "/deliveries?subscription=x": "subscription", "/deliveries?after=x": "after",
		"/deliveries?event=a%20b": "event", "/deliveries?limit=1001": "limit", "/deliveries?after=" + queue.DeliveryID{Seq: 77}.String(): "after", "/deliveries?status=dead": "status",
	} {
		if p := wantProblem(t, b.request(http.MethodGet, path, "sub", ""), 400); firstField(p) != field {
			t.Errorf("%s: %+v", path, p)
		}
	}
	if n := len(wantJSON[[]jsonObject](t, b.request(http.MethodGet, "/deliveries", "alien", ""), 200)); n != 0 {
		t.Errorf("another account sees %d", n)
	}
	for _, path := range []string{"/deliveries/" + d[0].ID.String(), "/deliveries/" + d[0].ID.String() + "/retry"} {
		method := http.MethodGet
		if strings.HasSuffix(path, "/retry") {
			method = http.MethodPost
		}
		wantProblem(t, b.request(method, path, "alien", ""), 404)
		wantProblem(t, b.request(method, strings.Replace(path, "dlv_0", "dlv_1", 1), "sub", ""), 404)
		wantProblem(t, b.request(method, strings.Replace(path, "dlv_", "x", 1), "sub", ""), 404)
		wantProblem(t, b.request(method, path, "pub", ""), 403, "subscribe")
	}
	// A paused subscription holds what waits, and nothing else.
	b.request(http.MethodPost, "/subscriptions/"+v["id"].(string)+"/pause", "sub", "")
	for i, state := range []string{"dead", "held", "held"} {
		if got := wantJSON[jsonObject](t, b.request(http.MethodGet, "/deliveries/"+d[i].ID.String(), "sub", ""), 200); got["state"] != state {
			t.Errorf("delivery %d is %v", i, got["state"])
		}
	}
	b.request(http.MethodPost, "/subscriptions/"+v["id"].(string)+"/enable", "sub", "")
	if got := wantJSON[jsonObject](t, b.request(http.MethodPost, "/deliveries/"+d[0].ID.String()+"/retry", "sub", ""), 202); got["state"] != "pending" || len(b.queue.retried) != 1 {
		t.Errorf("retried %v", got)
	}
	b.request(http.MethodDelete, "/subscriptions/"+v["id"].(string), "sub", "")
	wantProblem(t, b.request(http.MethodPost, "/deliveries/"+d[0].ID.String()+"/retry", "sub", ""), 409, "deleted")
	b.queue.setFail(errors.New("read /var/lib/queue.db: bad"))
	wantProblem(t, b.request(http.MethodGet, "/deliveries", "sub", ""), 503)
	wantProblem(t, b.request(http.MethodGet, "/events/e1", "sub", ""), 503)
	b.queue.setFail(fmt.Errorf("x: %w", store.ErrClosed))
	wantProblem(t, b.request(http.MethodPost, "/deliveries/"+d[0].ID.String()+"/retry", "sub", ""), 503, "stopping")
}
