package daemon_test

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// firstVersion makes the data directory that a daemon of the first version left when it was killed: two accounts, a token of the
// second, a resource, a paused subscription in each, three events tried once and two not tried yet.
func firstVersion(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join("testdata", "first-version.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for files := tar.NewReader(z); ; {
		file, err := files.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(io.LimitReader(files, 64<<20))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "data", filepath.Base(file.Name)), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestContract_FilesOfTheFirstVersion(t *testing.T) {
	t.Parallel()
	const (
		token  = "hrld_i7bAPrR6m8W2B98KYHYYmUww36lISi_eEWtnB4jP9f0"
		secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLw01MfKQ9r8GKYo="
		ours   = "01a20506-5129-7da2-84e5-b708d696dff8"
		theirs = "01a20506-5392-7126-9f09-c8a9198cf187"
	)
	const keep = "retention: {events: 3650d, attempts: 3650d}" // so that the test outlives the ages of these events
	h := startIn(t, firstVersion(t), keep)
	acme := h.as(token)
	if got := h.admin().do("GET", "/resources?type=project", nil).is(200).list(); len(got) != 1 || got[0]["name"] != "Seven" {
		t.Errorf("resources: %v", got)
	}
	for event, attempts := range map[string]float64{"first-1": 1, "first-2": 1, "first-3": 1, "first-4": 0} {
		list := h.admin().deliveries(event)
		if len(list) != 1 || list[0]["subscriptionId"] != ours || list[0]["state"] != "held" || list[0]["attemptCount"] != attempts {
			t.Errorf("%s: %v", event, list)
		}
	}
	if list := acme.deliveries("acme-1"); len(list) != 1 || list[0]["subscriptionId"] != theirs {
		t.Errorf("acme-1: %v", list)
	}
	acme.do("GET", "/events/first-1", nil).problem(404)
	// An event of then is known by its id, and a repeat is not delivered again.
	repeat := `{"id":"first-1","type":"task.create","resource":"project/7","data":{"n":1, "text":"of the first version"}}`
	h.admin().do("POST", "/events", repeat).is(202)

	// What waits goes to where the owner says now, once, with the secrets of then.
	r, acmes := receive(t), receive(t)
	h.admin().do("PATCH", "/subscriptions/"+ours, fields{"dataCallbackURL": r.URL}).is(200)
	acme.do("PATCH", "/subscriptions/"+theirs, fields{"dataCallbackURL": acmes.URL}).is(200)
	h.admin().do("POST", "/subscriptions/"+ours+"/enable", nil).is(200)
	acme.do("POST", "/subscriptions/"+theirs+"/enable", nil).is(200)
	var arrived []string
	for _, p := range r.wait(4) {
		arrived = append(arrived, p.id())
		if !p.verifies(t, secret) || p.header.Get("Authorization") != "Bearer a-token-of-the-first-version" {
			t.Errorf("%s: %v", p.id(), p.header)
		}
	}
	if slices.Sort(arrived); !slices.Equal(arrived, []string{"first-1", "first-2", "first-3", "first-4"}) {
		t.Errorf("%v arrived", arrived)
	}
	if p := acmes.wait(1)[0]; p.id() != "acme-1" || !p.verifies(t, secret) {
		t.Errorf("acme got %s: %v", p.id(), p.header)
	}
	h.delivery("first-4", ours, "delivered")

	// The files are of the new format now, and whole.
	h = h.restart(keep)
	h.delivery("first-1", ours, "delivered")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	if code, out, bad := check(t, filepath.Join(h.dir, "data")); code != 0 {
		t.Errorf("check: %s%s", out, bad)
	}
}
