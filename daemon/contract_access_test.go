package daemon_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Access: tokens, scopes, accounts.

// Every call with every scope: the one it needs suffices, and no other does.
func TestContract_ScopesMatrix(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.account("acc", "publish")
	scopes := []string{"publish", "subscribe", "devices", "send", "admin"}
	for _, scope := range scopes {
		c := h.token("acc", scope)
		var rest []string
		for _, s := range scopes {
			if s != scope && s != "admin" {
				rest = append(rest, s)
			}
		}
		others := h.token("acc", rest...)
		for _, r := range routes() {
			may := scope == "admin" || slices.Contains(r.scopes, scope)
			a := c.do(r.method, r.path, r.sample())
			if !may {
				names(t, scope+" for "+a.request, a.problem(403), append([]string{"scope"}, append(r.scopes, "admin")[0])...)
			} else if a.status == 401 || a.status == 403 || a.status >= 500 {
				t.Errorf("the scope %s does not suffice for %s: %d %s", scope, a.request, a.status, a.body)
			}
			a = others.do(r.method, r.path, r.sample())
			may = slices.ContainsFunc(r.scopes, func(s string) bool { return slices.Contains(rest, s) })
			if may == (a.status == 403) {
				t.Errorf("the scopes %v for %s: %d %s", rest, a.request, a.status, a.body)
			}
			// What the admin made is made away with, so that the next scope finds the same.
			if r.path == "/accounts" && r.method == "POST" && scope == "admin" {
				h.admin().do("DELETE", "/accounts/made", nil).is(204)
			}
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} { // open to all
		h.as("").do("GET", path, nil).is(200)
	}
}

func TestContract_TokenIsShownOnceAndRevokedAtOnce(t *testing.T) {
	t.Parallel()
	h := start(t)
	made := h.admin().do("POST", "/tokens", fields{"accountId": "default", "name": "ci", "scopes": []string{"publish", "subscribe"}}).is(200)
	token, id := made.text("token"), made.text("id")
	if !strings.HasPrefix(token, "hrld_") || len(token) < 48 {
		t.Errorf("the token is %q", token)
	}
	second := h.admin().do("POST", "/tokens", fields{"accountId": "default", "name": "ci 2", "scopes": []string{"publish"}}).is(200)
	if second.text("token") == token || second.text("id") == id {
		t.Error("two tokens are the same")
	}
	list := h.admin().do("GET", "/tokens", nil).is(200)
	if strings.Contains(string(list.body), token) || strings.Contains(string(list.body), "hrld_") {
		t.Errorf("the list shows a token: %s", list.body)
	}
	found := slices.IndexFunc(list.list(), func(m map[string]any) bool { return m["id"] == id })
	if found < 0 {
		t.Fatalf("the token %s is not in the list %s", id, list.body)
	}
	one := list.list()[found]
	if m := members(one); !slices.Equal(m, []string{"accountId", "createdAt", "id", "name", "scopes"}) ||
		one["accountId"] != "default" || one["name"] != "ci" || fmt.Sprint(one["scopes"]) != "[publish subscribe]" {
		t.Errorf("the token is listed as %v", one)
	}

	c, other := h.as(token), h.as(second.text("token"))
	c.do("GET", "/events", nil).is(200)
	other.do("GET", "/events", nil).is(200) // several are valid at once
	if a := h.admin().do("DELETE", "/tokens/"+id, nil).is(204); len(a.body) != 0 {
		t.Errorf("the revocation answered %s", a.body)
	}
	a := c.do("GET", "/events", nil)
	a.problem(401)
	if got := a.header.Get("WWW-Authenticate"); !strings.Contains(got, `error="invalid_token"`) {
		t.Errorf("a revoked token gets WWW-Authenticate %q", got)
	}
	other.do("GET", "/events", nil).is(200)
	h.admin().do("DELETE", "/tokens/"+id, nil).problem(404)
	h = h.restart()
	h.as(token).do("GET", "/events", nil).problem(401)
	h.as(second.text("token")).do("GET", "/events", nil).is(200)
}

func TestContract_TokenExpires(t *testing.T) {
	t.Parallel()
	h := start(t)
	expiry := time.Now().Add(900 * time.Millisecond).UTC()
	made := h.admin().do("POST", "/tokens", fields{"accountId": "default", "name": "short", "scopes": []string{"publish"}, "expiresAt": expiry.Format(time.RFC3339Nano)}).is(200)
	if got := moment(t, made.object()["expiresAt"]); got.Sub(expiry).Abs() > time.Millisecond {
		t.Errorf("the token expires at %v, want %v", got, expiry)
	}
	c := h.as(made.text("token"))
	if time.Until(expiry) > 300*time.Millisecond {
		c.do("GET", "/events", nil).is(200)
	}
	h.eventually("the token has expired", func() bool { return c.do("GET", "/events", nil).status == 401 })
	if early := time.Until(expiry); early > 2*time.Millisecond {
		t.Errorf("the token expired %v too early", early)
	}
	c.do("GET", "/events", nil).problem(401)
	for _, bad := range []any{"tomorrow", "2020-01-01T00:00:00Z", 5, "2026-11-21"} {
		names(t, fmt.Sprint("expiresAt ", bad), h.admin().do("POST", "/tokens",
			fields{"accountId": "default", "name": "x", "scopes": []string{"publish"}, "expiresAt": bad}).problem(400), "expiresAt")
	}
}

func TestContract_AuthorizationForms(t *testing.T) {
	t.Parallel()
	h := start(t)
	for _, value := range []string{"Bearer " + adminToken, "bearer " + adminToken, "BEARER  " + adminToken} {
		h.as("").with("Authorization", value).do("GET", "/tokens", nil).is(200)
	}
	for _, value := range []string{
		adminToken, "Basic " + adminToken, "Bearer", "Bearer ", "Bearer x", "Bearer " + adminToken + "x", "Bearer " + adminToken[1:],
		"Bearer " + strings.ToUpper(adminToken), "Bearer " + strings.Repeat("x", 5000), "Token " + adminToken,
	} {
		a := h.as("").with("Authorization", value).do("GET", "/tokens", nil)
		a.problem(401)
		if !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") || strings.Contains(string(a.body), adminToken[1:]) {
			t.Errorf("%.40s: 401 with %v %s", value, a.header, a.body)
		}
	}
	h.as("").do("GET", "/tokens?access_token="+adminToken, nil).problem(401)
}

func TestContract_AdminActsForAnAccount(t *testing.T) {
	t.Parallel()
	h := start(t)
	own := h.account("shop", "publish", "subscribe")
	as := h.admin().with("Herald-Account", "shop")
	r := receive(t)
	id := as.do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL}).is(200).text("id")
	as.do("PUT", "/resources/project/p", fields{"name": "P"}).is(200)
	event := as.do("POST", "/events", fields{"type": "a.b", "data": fields{}}).is(202).text("id")
	if got := r.wait(1)[0].object(t); got["accountId"] != "shop" || got["id"] != event {
		t.Errorf("the push is %v", got)
	}
	for _, c := range []*caller{own, as, own.with("Herald-Account", "shop")} { // both see it, and a token may name its own
		c.do("GET", "/subscriptions/"+id, nil).is(200)
		c.do("GET", "/events/"+event, nil).is(200)
		if l := c.do("GET", "/deliveries", nil).is(200).list(); len(l) != 1 {
			t.Errorf("the deliveries are %v", l)
		}
		if l := c.do("GET", "/resources", nil).is(200).list(); len(l) != 1 {
			t.Errorf("the resources are %v", l)
		}
	}
	h.admin().do("GET", "/subscriptions/"+id, nil).problem(404) // without the header it is the default account
	names(t, "an unknown account", h.admin().with("Herald-Account", "nobody").do("GET", "/subscriptions", nil).problem(404), "nobody", "Herald-Account")
	names(t, "another account", own.with("Herald-Account", "default").do("GET", "/subscriptions", nil).problem(403), "Herald-Account")
	names(t, "another account", own.with("Herald-Account", "nobody").do("GET", "/subscriptions", nil).problem(403), "Herald-Account")
	// Tokens are minted for the account acted for, unless the body names one.
	for _, c := range []struct {
		c    *caller
		body fields
		want string
	}{
		{as, fields{}, "shop"},
		{h.admin(), fields{}, "default"},
		{h.admin(), fields{"accountId": "shop"}, "shop"},
	} {
		c.body["name"], c.body["scopes"] = "t", []string{"publish"}
		if got := c.c.do("POST", "/tokens", c.body).is(200).text("accountId"); got != c.want {
			t.Errorf("a token for %v is of the account %s", c.body, got)
		}
	}
	h.admin().do("POST", "/tokens", fields{"accountId": "nobody", "name": "t", "scopes": []string{"publish"}}).problem(400 /* the request is wrong */)
}

// What is another account's is as if it were not there.
func TestContract_AccountsAreApart(t *testing.T) {
	t.Parallel()
	h := start(t)
	one, two := h.account("one", "publish", "subscribe"), h.account("two", "publish", "subscribe")
	r := receive(t)
	id := one.do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL}).is(200).text("id")
	one.do("PUT", "/resources/project/p", fields{"name": "P"}).is(200)
	event := one.do("POST", "/events", fields{"id": "e-1", "type": "a.b", "data": fields{"secret": "of one"}}).is(202).text("id")
	var delivery string
	h.eventually("the event is delivered", func() bool {
		l := one.deliveries(event)
		delivery, _ = l[0]["id"].(string)
		return l[0]["state"] == "delivered"
	})
	for _, call := range [][2]string{
		{"GET", "/subscriptions/" + id},
		{"DELETE", "/subscriptions/" + id},
		{"POST", "/subscriptions/" + id + "/enable"},
		{"POST", "/subscriptions/" + id + "/pause"},
		{"POST", "/subscriptions/" + id + "/secret"},
		{"POST", "/subscriptions/" + id + "/ping"},
		{"POST", "/subscriptions/" + id + "/retry"},
		{"GET", "/events/" + event},
		{"GET", "/deliveries/" + delivery},
		{"POST", "/deliveries/" + delivery + "/retry"},
		{"GET", "/resources/project/p"},
		{"DELETE", "/resources/project/p"},
	} {
		two.do(call[0], call[1], nil).problem(404)
	}
	two.do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": "http://127.0.0.1:8421/stolen"}).problem(404)
	two.do("PATCH", "/subscriptions/"+id, fields{"dataCallbackURL": "http://127.0.0.1:8421/stolen"}).problem(404)
	for _, path := range []string{"/subscriptions", "/events", "/deliveries", "/resources", "/deliveries?subscription=" + id, "/deliveries?event=" + event} {
		if a := two.do("GET", path, nil).is(200); string(a.body) != "[]" {
			t.Errorf("GET %s shows %s", path, a.body)
		}
	}
	names(t, "another account's resource", two.do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL, "resource": "project/p"}).problem(400), "resource")
	// An event of the one never reaches the other, and an id of the one is free for the other.
	foreign := receive(t)
	two.do("POST", "/subscriptions", fields{"dataCallbackURL": foreign.URL}).is(200)
	own := two.do("POST", "/events", fields{"id": "e-1", "type": "a.b", "data": fields{"of": "two"}}).is(202).text("id")
	one.do("POST", "/events", fields{"id": "e-2", "type": "a.b", "data": fields{}}).is(202)
	r.wait(2)
	foreign.wait(1)
	h.sentinel()
	r.only(event, "e-2")
	foreign.only(own)
	if data := fmt.Sprint(foreign.got()[0].object(t)["data"]); data != "map[of:two]" {
		t.Errorf("the other account got %s", data)
	}
	if s := one.do("GET", "/subscriptions/"+id, nil).is(200).object(); s["dataCallbackURL"] != r.URL || s["state"] != "active" {
		t.Errorf("another account changed the subscription to %v", s)
	}
}

func TestContract_SuspendedAccount(t *testing.T) {
	t.Parallel()
	h := start(t)
	c := h.account("shop", "publish", "subscribe")
	free := h.account("free", "publish", "subscribe")
	c.do("GET", "/subscriptions", nil).is(200)
	if a := h.admin().do("PATCH", "/accounts/shop", fields{"suspended": true}).is(200).object(); a["suspended"] != true || a["name"] != "the account shop" {
		t.Errorf("suspending answered %v", a)
	}
	for _, r := range routes() {
		if r.scopes != nil {
			names(t, "a suspended account", c.do(r.method, r.path, r.sample()).problem(403), "suspended")
		}
	}
	free.do("GET", "/subscriptions", nil).is(200)
	h.admin().with("Herald-Account", "shop").do("GET", "/subscriptions", nil).is(200) // the operator may look
	h = h.restart()
	h.as(c.token).do("GET", "/subscriptions", nil).problem(403)
	h.admin().do("PUT", "/accounts/shop", fields{"name": "Shop", "suspended": false}).is(200)
	h.as(c.token).do("GET", "/subscriptions", nil).is(200)
}

func TestContract_Accounts(t *testing.T) {
	t.Parallel()
	h := start(t)
	a := h.admin().do("POST", "/accounts", fields{"id": "shop-1", "name": "Shop Ü"}).is(200).object()
	if m := members(a); !slices.Equal(m, []string{"createdAt", "id", "name", "suspended"}) || a["id"] != "shop-1" || a["name"] != "Shop Ü" || a["suspended"] != false {
		t.Errorf("POST answered %v", a)
	}
	moment(t, a["createdAt"])
	names(t, "the same account again", h.admin().do("POST", "/accounts", fields{"id": "shop-1", "name": "x"}).problem(409), "shop-1")
	var all []string
	for _, x := range h.admin().do("GET", "/accounts", nil).is(200).list() {
		all = append(all, x["id"].(string))
	}
	if !slices.Equal(all, []string{"default", "shop-1"}) { // default exists from the start
		t.Errorf("the accounts are %v", all)
	}
	if got := h.admin().do("GET", "/accounts/shop-1", nil).is(200).object(); fmt.Sprint(got) != fmt.Sprint(a) {
		t.Errorf("GET answered %v, want %v", got, a)
	}
	names(t, "the default account", h.admin().do("DELETE", "/accounts/default", nil).problem(409), "default")
	for _, bad := range []any{"", "a b", "a/b", "é", strings.Repeat("a", 65), 7} {
		names(t, fmt.Sprint("the id ", bad), h.admin().do("POST", "/accounts", fields{"id": bad, "name": "x"}).problem(400), "id")
	}

	// Deleting takes everything of the account along.
	c := h.token("shop-1", "publish", "subscribe")
	r := receive(t)
	id := c.do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL}).is(200).text("id")
	c.do("PUT", "/resources/project/p", fields{}).is(200)
	h.admin().do("DELETE", "/accounts/shop-1", nil).is(204)
	c.do("GET", "/subscriptions", nil).problem(401)
	h.admin().do("GET", "/accounts/shop-1", nil).problem(404)
	h.admin().with("Herald-Account", "shop-1").do("GET", "/subscriptions", nil).problem(404)
	// Its id is not given again: whoever got it would get what is still retained under it.
	names(t, "the id of a deleted account", h.admin().do("POST", "/accounts", fields{"id": "shop-1", "name": "again"}).problem(409), "deleted")
	h.admin().with("Herald-Account", "shop-1").do("GET", "/subscriptions/"+id, nil).problem(404)
	h.admin().with("Herald-Account", "shop-1").do("POST", "/events", fields{"type": "a.b", "data": fields{}}).problem(404)
	h.sentinel()
	r.only()
	c.do("GET", "/subscriptions", nil).problem(401)
}

func TestContract_RateLimit(t *testing.T) {
	t.Parallel()
	h := start(t, "limits: {rate_per_token: 0.5}")
	limited := func(c *caller, what string) {
		t.Helper()
		c.do("GET", "/events", nil).is(200)
		a := c.do("GET", "/events", nil)
		a.problem(http.StatusTooManyRequests)
		if s, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || s < 1 || s > 2 {
			t.Errorf("%s: 429 with Retry-After %q, want 1 or 2 seconds", what, a.header.Get("Retry-After"))
		}
		c.do("POST", "/events", fields{"type": "a.b", "data": fields{}}).problem(http.StatusTooManyRequests)
	}
	limited(h.admin(), "the admin token")
	h.as("").do("GET", "/readyz", nil).is(200)
	h.as("nobody").do("GET", "/events", nil).problem(401) // it has no token to limit

	// Every token has its own share, and the socket has none.
	s := h.overSocket()
	var tokens []string
	for range 2 {
		tokens = append(tokens, s.do("POST", "/tokens", fields{"accountId": "default", "name": "t", "scopes": []string{"publish"}}).is(200).text("token"))
	}
	for _, token := range tokens {
		limited(h.as(token), "a token")
	}
	c := h.as(tokens[0])
	h.eventually("the token may call again", func() bool { return c.do("GET", "/events", nil).status == 200 })
	if l := s.do("GET", "/events", nil).is(200).list(); len(l) != 0 {
		t.Errorf("refused calls made %v", l)
	}
}

// Over the unix socket the daemon's own user is the admin, without a token.
func TestContract_SocketHasAdminRights(t *testing.T) {
	t.Parallel()
	h := start(t)
	s := h.overSocket()
	s.do("GET", "/accounts", nil).is(200)
	s.do("POST", "/accounts", fields{"id": "shop", "name": "x"}).is(200)
	token := s.do("POST", "/tokens", fields{"accountId": "shop", "name": "t", "scopes": []string{"publish"}}).is(200).text("token")
	h.as(token).do("POST", "/events", fields{"type": "a.b", "data": fields{}}).is(202)
	if l := s.with("Herald-Account", "shop").do("GET", "/events", nil).is(200).list(); len(l) != 1 {
		t.Errorf("for the account the socket sees %v", l)
	}
	if l := s.do("GET", "/events", nil).is(200).list(); len(l) != 0 {
		t.Errorf("without an account named the socket sees %v", l)
	}
	s.with("Herald-Account", "nobody").do("GET", "/events", nil).problem(404)
	s.do("GET", "/none", nil).problem(404)
	h.as("").do("GET", "/accounts", nil).problem(401) // the same call from the network
}
