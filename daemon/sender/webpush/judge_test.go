package webpush

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"herald/daemon/standin"
)

// What goes to browsers in the judgement of implementations that are not ours: npm's http_ece decrypts our bodies, jws verifies our tokens, and web-push sends to
// our stand-in. TEST_JUDGE names the directory they are installed in (npm install in a copy of daemon/testdata/judge); without it, or
// without Node, the test is skipped.
func TestWebPushJudgedByOtherImplementations(t *testing.T) {
	t.Parallel()
	judge := os.Getenv("TEST_JUDGE")
	if judge == "" {
		t.Skip("TEST_JUDGE does not name a directory with http_ece, jws and web-push")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("there is no Node to run the judge")
	}
	text := base64.RawURLEncoding.EncodeToString
	type body struct {
		PrivateKey string `json:"privateKey"`
		Auth       string `json:"auth"`
		Body       string `json:"body"`
	}
	type push struct {
		Subscription json.RawMessage `json:"subscription"`
		Payload      string          `json:"payload"`
		Options      map[string]any  `json:"options"`
	}
	type verdict struct {
		Bodies []string `json:"bodies"`
		Tokens []bool   `json:"tokens"`
		Pushes []any    `json:"pushes"`
	}
	var input struct {
		Bodies []body   `json:"bodies"`
		Tokens []string `json:"tokens"`
		CA     string   `json:"ca"`
		Pushes []push   `json:"pushes"`
	}
	var want verdict
	for _, n := range []int{0, 1, 127, 128, 129, 1000, 2600, 2641, 2642, 3992, MaxPayload} {
		key, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		payload, auth := make([]byte, n), make([]byte, 16)
		_, _ = rand.Read(payload)
		_, _ = rand.Read(auth)
		b, err := encrypt(payload, key.PublicKey().Bytes(), auth)
		if err != nil {
			t.Fatal(err)
		}
		input.Bodies = append(input.Bodies, body{text(key.Bytes()), text(auth), text(b)})
		want.Bodies = append(want.Bodies, text(payload))
	}
	v := newKey(t)
	var kept tokens
	for n := range 10 {
		header, err := kept.header("a", v, "https://push.example.net", time.Now().Add(time.Duration(n)*tokenUse))
		if err != nil {
			t.Fatal(err)
		}
		other := []byte(header) // with another signature
		if at := strings.LastIndexByte(header, '.') + 10; other[at] == 'A' {
			other[at] = 'B'
		} else {
			other[at] = 'A'
		}
		input.Tokens = append(input.Tokens, header, string(other))
		want.Tokens = append(want.Tokens, true, false)
	}
	var mu sync.Mutex
	var got []string
	s := service(t, standin.WebPushOptions{Received: func(m standin.WebPushMessage) {
		mu.Lock()
		got = append(got, string(m.Payload))
		mu.Unlock()
	}})
	file, err := s.CAFile(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	input.CA = string(ca)
	var payloads []string
	for n, options := range []map[string]any{
		{}, {"TTL": 60}, {"urgency": "high", "topic": "news"}, {"TTL": 0, "urgency": "very-low"},
	} {
		subscription, err := s.Subscribe(v.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		options["vapidDetails"] = map[string]string{"subject": v.Subject, "publicKey": text(v.PublicKey), "privateKey": text(v.PrivateKey)}
		payload := strings.Repeat("é", 1+300*n)
		payloads = append(payloads, payload)
		input.Pushes = append(input.Pushes, push{subscription, payload, options})
		want.Pushes = append(want.Pushes, 201.0)
	}
	question, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), node, filepath.Join("..", "..", "testdata", "judge", "webpush.cjs"))
	cmd.Env = append(os.Environ(), "JUDGE="+judge)
	cmd.Stdin = bytes.NewReader(question)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var answer verdict
	if err := json.Unmarshal(out, &answer); err != nil || !reflect.DeepEqual(answer, want) {
		t.Errorf("%v, the judge says %.2000s", err, out)
	}
	noFaults(t, s)
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(got)
	slices.Sort(payloads)
	if !slices.Equal(got, payloads) {
		t.Errorf("%d of its pushes arrived as they were sent", len(got))
	}
}
