package standin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The stand-in in the judgement of a client of APNs that is not ours, npm's @parse/node-apn: what that sends is in order, and it understands the
// answers. TEST_JUDGE names the directory it is installed in (npm install in a copy of testdata/judge); without it, or without Node, the
// test is skipped.
func TestAPNsJudgedByAnotherClient(t *testing.T) {
	t.Parallel()
	judge := os.Getenv("TEST_JUDGE")
	if judge == "" {
		t.Skip("TEST_JUDGE does not name a directory with @parse/node-apn")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("there is no Node to run the judge")
	}
	a := newAPNs(t, APNsOptions{Topic: "com.example.app"})
	var tokens, want []string
	for n := range 20 {
		tokens, want = append(tokens, fmt.Sprintf("%064x", n)), append(want, "sent")
	}
	a.Answer(tokens[3], 1, APNsAnswer{Status: 410, Reason: "Unregistered", Timestamp: time.UnixMilli(1_790_000_000_000)})
	a.Answer(tokens[5], 1, APNsAnswer{Status: 400, Reason: "BadDeviceToken"})
	want[3], want[5] = "410 Unregistered", "400 BadDeviceToken"
	u, err := url.Parse(a.URL())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	k := a.Key()
	input, err := json.Marshal(map[string]any{
		"host": u.Hostname(), "port": port, "ca": string(a.CA()), "key": string(k.PEM), "keyId": k.KeyID, "teamId": k.TeamID,
		"topic": "com.example.app", "tokens": tokens,
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), node, filepath.Join("..", "testdata", "judge", "apns.cjs"))
	cmd.Env = append(os.Environ(), "JUDGE="+judge)
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var got []string
	if err := json.Unmarshal(out, &got); err != nil || !slices.Equal(got, want) {
		t.Errorf("the judge says %s %s", out, stderr.String())
	}
	if f := a.Faults(); len(f) > 0 {
		t.Errorf("faults: %q", f)
	}
	last, _ := a.Last(tokens[0])
	if last.Header.Get("Apns-Collapse-Id") != "judge" || !strings.Contains(string(last.Payload), "from another client") {
		t.Errorf("%v %s", last.Header, last.Payload)
	}
}
