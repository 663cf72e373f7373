package daemon_test

import (
	"fmt"
	"testing"
)

// What the contract has and this version has not is refused by name, never ignored: a caller who asked
// for a validation must not go without it.

func TestContract_LaterFieldsAreRefused(t *testing.T) {
	t.Parallel()
	h := start(t)
	r := receive(t)
	id := h.subscribe(r.URL, fields{"events": []string{"no.such"}})
	for _, c := range []struct {
		field string
		body  fields
	}{
	} {
		c.body["dataCallbackURL"] = r.URL
		for method, path := range map[string]string{"POST": "/subscriptions", "PUT": "/subscriptions/" + id, "PATCH": "/subscriptions/" + id} {
			names(t, fmt.Sprintf("%s with %v", method, c.body), h.admin().do(method, path, c.body).problem(400), "\n"+c.field+": ", "this version")
		}
	}
	if l := h.admin().do("GET", "/subscriptions", nil).is(200).list(); len(l) != 1 {
		t.Errorf("refused subscriptions were stored: %v", l)
	}
	// The values that ask for nothing of it are let through.
	h.admin().do("PATCH", "/subscriptions/"+id, fields{
		"clientCertificate": false, "validationCallbackURL": nil,
	}).is(200)
}

func TestContract_LaterCallsAreNotThere(t *testing.T) {
	t.Parallel()
	h := start(t)
	id := h.subscribe("http://127.0.0.1:8421/", nil)
	for _, call := range [][2]string{
		{"POST", "/subscriptions/" + id + "/replay"},
		{"POST", "/messages/android"},
		{"POST", "/messages"},
		{"GET", "/implementations"},
		{"GET", "/openapi.json"},
	} {
		h.admin().do(call[0], call[1], nil).problem(404)
	}
}
