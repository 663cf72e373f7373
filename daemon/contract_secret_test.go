package daemon_test

import (
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Secrets are write-only: no answer has them, and neither have the files.

func TestContract_SecretsAreNeverReadable(t *testing.T) {
	t.Parallel()
	h := start(t)
	const (
		bearer, password, value, query = "bearer-token-in-hiding", "password-in-hiding", "header-value-in-hiding", "query-value-in-hiding"
		newBearer                      = "new-bearer-in-hiding"
	)
	var hidden []string
	hide := func(s string) {
		hidden = append(hidden, s)
		if key, ok := strings.CutPrefix(s, "whsec_"); ok {
			raw, err := base64.StdEncoding.DecodeString(key)
			if err != nil {
				t.Fatal(err)
			}
			hidden = append(hidden, key, string(raw))
		}
	}
	for _, s := range []string{bearer, password, value, query, newBearer, aSecret, anotherSecret} {
		hide(s)
	}
	check := func(a *answer) *answer {
		t.Helper()
		for _, s := range hidden {
			if strings.Contains(string(a.body), s) {
				t.Errorf("%s shows %q: %s", a.request, s, a.body)
			}
		}
		return a
	}
	r := receive(t)
	r.respond(func(_ int, p push, w http.ResponseWriter) {
		w.WriteHeader(http.StatusInternalServerError)
	})
	refused := "http://" + freeAddress(t)
	var all []string
	for _, f := range []fields{
		{"authentication": fields{"type": "bearer", "token": bearer}, "signingSecret": aSecret},
		{"authentication": fields{"type": "basic", "username": "shop", "password": password}, "signingSecret": aSecret},
		{"authentication": fields{"type": "header", "name": "X-Key", "value": value}, "signingSecret": aSecret},
		{"authentication": fields{"type": "query", "name": "key", "value": query}, "signingSecret": aSecret},
		{"authentication": fields{"type": "query", "name": "key", "value": query}, "signingSecret": aSecret, "dataCallbackURL": refused + "/hook"},
	} {
		if f["dataCallbackURL"] == nil {
			f["dataCallbackURL"] = r.URL + "/hook"
		}
		f["delivery"] = patiently()
		made := check(h.admin().do("POST", "/subscriptions", f).is(200))
		if made.object()["signingSecret"] != nil || made.object()["signingSecretSet"] != true {
			t.Errorf("a given signing secret is answered with %s", made.body)
		}
		all = append(all, made.text("id"))
	}
	for i, want := range []string{
		`"authentication":{"type":"bearer","tokenSet":true}`, `"authentication":{"type":"basic","username":"shop","passwordSet":true}`,
		`"authentication":{"type":"header","name":"X-Key","valueSet":true}`, `"authentication":{"type":"query","name":"key","valueSet":true}`,
	} {
		if a := check(h.admin().do("GET", "/subscriptions/"+all[i], nil).is(200)); !strings.Contains(string(a.body), want) {
			t.Errorf("the read does not say %s: %s", want, a.body)
		}
	}
	// A generated one is shown once.
	made := h.admin().do("POST", "/subscriptions", fields{"dataCallbackURL": r.URL, "delivery": patiently()}).is(200)
	hide(made.text("signingSecret"))
	check(h.admin().do("GET", "/subscriptions/"+made.text("id"), nil).is(200))
	rotated := h.admin().do("POST", "/subscriptions/"+made.text("id")+"/secret", nil).is(200)
	hide(rotated.text("signingSecret"))
	all = append(all, made.text("id"))

	token := h.admin().do("POST", "/tokens", fields{"accountId": "default", "name": "t", "scopes": []string{"publish"}}).is(200).text("token")
	hide(token)
	hide(adminToken)
	event := h.publish("task.create", "", fields{})
	for _, id := range all {
		d := h.delivery(event, id, "retrying")
		check(h.admin().do("GET", "/deliveries/"+d["id"].(string), nil).is(200))
		check(h.admin().do("PATCH", "/subscriptions/"+id, fields{"maxWaitSeconds": 2}).is(200))
		check(h.admin().do("PUT", "/subscriptions/"+id, fields{"dataCallbackURL": r.URL, "authentication": fields{"type": "bearer", "token": newBearer}, "signingSecret": anotherSecret}).is(200))
		check(h.admin().do("PATCH", "/subscriptions/"+id, fields{"authentication": fields{"token": bearer}, "signingSecret": aSecret}).is(200))
		check(h.admin().do("POST", "/subscriptions/"+id+"/pause", nil).is(200))
		check(h.admin().do("POST", "/subscriptions/"+id+"/enable", nil).is(200))
		check(h.admin().do("POST", "/subscriptions/"+id+"/ping", nil).is(202))
	}
	for _, path := range []string{"/subscriptions", "/tokens", "/deliveries", "/events", "/events/" + event, "/metrics", "/readyz"} {
		check(h.admin().do("GET", path, nil).is(200))
	}
	// A refusal does not repeat them either.
	check(h.admin().do("PATCH", "/subscriptions/"+all[0], fields{"authentication": fields{"type": "bearer", "token": bearer + " ü"}}))
	check(h.admin().do("PATCH", "/subscriptions/"+all[0], fields{"authentication": fields{"type": "basic", "token": bearer}}))
	check(h.admin().do("PATCH", "/subscriptions/"+all[0], fields{"authentication": bearer, "signingSecret": aSecret + "x"}))
	check(h.as(token+"x").do("GET", "/events", nil))

	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	files := 0
	err := filepath.WalkDir(filepath.Join(h.dir, "data"), func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		files++
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, s := range hidden {
			if strings.Contains(string(content), s) {
				t.Errorf("the file %s holds %q", e.Name(), s)
			}
		}
		if info, err := e.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("the file %s has the mode %v", e.Name(), info.Mode())
		}
		return nil
	})
	if err != nil || files < 2 {
		t.Errorf("%d files were searched: %v", files, err)
	}
}
