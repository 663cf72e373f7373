package daemon_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The signatures of pushes in the judgement of an implementation of RFC 9421 that is not ours, npm's http-message-signatures.
// TEST_JUDGE names the directory it is installed in (npm install in a copy of testdata/judge); without it, or without Node,
// the test is skipped.
func TestContract_D1_SignaturesJudgedByAnotherImplementation(t *testing.T) {
	t.Parallel()
	judge := os.Getenv("TEST_JUDGE")
	if judge == "" {
		t.Skip("TEST_JUDGE does not name a directory with http-message-signatures")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("there is no Node to run the judge")
	}
	for _, identity := range []string{"", "rsa-pss-sha512", "ecdsa-p384-sha384", "ed25519"} {
		h := start(t, judgedIdentity(t, identity))
		r := receive(t)
		for _, f := range []fields{
			{"method": "POST"},
			{"method": "PUT", "payload": "data"},
			{"method": "GET"},
			{"method": "POST", "numberOfRecords": 10},
			{"method": "GET", "authentication": fields{"type": "query", "name": "key", "value": "a b/ü&"}},
		} {
			f["dataCallbackURL"], f["messageSignature"] = r.URL+"/a%2Fb?x=1&y=%20", true
			id := h.admin().do("POST", "/subscriptions", f).is(200).text("id")
			h.delivery(h.publish("task.create", "project/proj1", fields{"text": "é"}), id, "delivered")
			h.admin().do("DELETE", "/subscriptions/"+id, nil).is(204)
		}
		type request struct {
			Method  string            `json:"method"`
			URL     string            `json:"url"`
			Headers map[string]string `json:"headers"`
		}
		var requests []request
		for _, p := range r.wait(5) {
			headers := make(map[string]string)
			for name := range p.header {
				headers[strings.ToLower(name)] = p.header.Get(name)
			}
			requests = append(requests, request{p.method, r.URL + p.url, headers}, request{p.method, r.URL + p.url + "x", headers})
		}
		chain := string(h.as("").do("GET", "/certificates/default", nil).is(200).body)
		input, err := json.Marshal(map[string]any{"chain": chain, "requests": requests})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), node, filepath.Join("testdata", "judge", "verify.cjs"))
		cmd.Env = append(os.Environ(), "JUDGE="+judge)
		cmd.Stdin = bytes.NewReader(input)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, stderr.String())
		}
		var verdicts []any
		if err := json.Unmarshal(out, &verdicts); err != nil || len(verdicts) != len(requests) {
			t.Fatalf("the judge says %s", out)
		}
		for n, v := range verdicts {
			if v != (n%2 == 0) { // each second one was changed on its way
				t.Errorf("%q: %s %s: the judge says %v", identity, requests[n].Method, requests[n].URL, v)
			}
		}
	}
}

// judgedIdentity is the setting of an identity with a key of that algorithm; "" is the self-made.
func judgedIdentity(t *testing.T, algorithm string) string {
	t.Helper()
	if algorithm == "" {
		return ""
	}
	var key crypto.Signer
	var err error
	switch algorithm {
	case "rsa-pss-sha512":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ecdsa-p384-sha384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, private := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	for path, data := range map[string][]byte{
		cert: pemOf("CERTIFICATE", authority(t).issue(t, "herald.example", key).Raw), private: pemOf("PRIVATE KEY", pkcs8(t, key)),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("identity: {cert: %s, key: %s}", cert, private)
}
