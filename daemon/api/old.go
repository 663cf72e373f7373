package api

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"herald/store"
)

// What a program written against version 1.1 of the mail tracking push API finds: the paths and names of that
// version are answered with what has taken their place. No token is needed to be told.

// oldRoutes are the paths of version 1.1. Those that only have another name now redirect to it, with 308, by
// which method and body are kept (RFC 9110, section 15.4.9); those whose method or meaning changed are gone.
func (a *API) oldRoutes() []route {
	get, post, put, del := http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete
	told := func(method string, do func(*call) error) *endpoint {
		return &endpoint{method: method, open: true, anyQuery: true, do: do}
	}
	all, one := moved("/subscriptions"), moved("/subscriptions/{subscription}")
	return []route{
		{"/subscription", []*endpoint{told(get, all), told(post, all)}},
		{"/subscription/{subscription}", []*endpoint{told(get, one), told(put, one), told(del, one)}},
		{"/cert.pem", []*endpoint{told(get, moved("/certificates/default"))}},
		{"/verify/{subscription}", []*endpoint{told(get, replaced(
			"a subscription is confirmed with POST %s/confirmation, and the signature of its validation record as form field, JSON member or query parameter",
		))}},
		{"/repush/{subscription}/{day}", []*endpoint{told(get, replaced(
			"events are pushed again with POST %s/replay, and the day as date (such as 2026-11-21) in a form field, JSON member or query parameter",
		))}},
		{"/sandbox/generate/{subscription}", []*endpoint{told(post, replaced(
			"there is no sandbox any more; test pushes come from the replay service, POST %s/replay with a date, and from POST %[1]s/ping",
		))}},
	}
}

// moved redirects to a path, in which {subscription} stands for that of the request, with the query as it came.
func moved(path string) func(*call) error {
	return func(c *call) error {
		to := strings.Replace(path, "{subscription}", url.PathEscape(c.r.PathValue("subscription")), 1)
		if c.r.URL.RawQuery != "" {
			to += "?" + ascii(c.r.URL.RawQuery)
		}
		c.Header().Set("Location", to)
		c.WriteHeader(http.StatusPermanentRedirect)
		return nil
	}
}

// ascii escapes the bytes of a query that do not belong into a header and are none of a URL either.
func ascii(query string) string {
	var b strings.Builder
	for i := range len(query) {
		if c := query[i]; c <= ' ' || c >= 0x7f {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// replaced refuses a call whose place another has taken; %s in the advice is the path of the subscription.
func replaced(advice string) func(*call) error {
	return func(c *call) error {
		path := "/subscriptions/{id}"
		if id, err := store.ParseSubscriptionID(c.r.PathValue("subscription")); err == nil {
			path = "/subscriptions/" + id.String()
		}
		return newProblem(gone, "this call of version 1.1 is gone: "+advice, path)
	}
}

// renamed refuses the names that members had in version 1.1.
func (p *subscriptionInput) renamed() {
	for _, old := range []struct{ name, now string }{
		{"exportEndpoint", "dataCallbackURL now, and validationCallbackURL where the validation goes, which may be the same URL"},
		{"documentAmount", "numberOfRecords now"},
	} {
		if p.take(old.name) != nil {
			p.fault(old.name, "is a name of version 1.1; it is %s", old.now)
		}
		p.asked = p.asked[:len(p.asked)-1] // not to be recommended
	}
}
