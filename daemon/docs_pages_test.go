package daemon_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// program writes the Go program that a page shows to the directory, compiled, with the texts of the page replaced.
func (c *console) program(name string) {
	c.t.Helper()
	for _, b := range fences(document(c.t, c.page)) {
		if b.language != "go" {
			continue
		}
		source := filepath.Join(c.t.TempDir(), name+".go")
		if err := os.WriteFile(source, []byte(c.replace.Replace(b.text)), 0o600); err != nil {
			c.t.Fatal(err)
		}
		if out, err := exec.CommandContext(c.t.Context(), "go", "build", "-o", filepath.Join(c.dir, name), source).CombinedOutput(); err != nil {
			c.t.Fatalf("go build: %v: %s", err, out)
		}
		return
	}
	c.t.Fatalf("%s shows no program in Go", c.page)
}

func (c *console) write(name, text string) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func TestDocs_ReadmeCommandsDoWhatTheySay(t *testing.T) {
	page{
		file:  "../README.md",
		pairs: []string{"/srv/herald", "srv", "/etc/bash_completion.d/herald", "completion"},
		setUp: func(c *console) {
			c.program("shown")
			c.write("events.ndjson", `{"type":"task.create","data":{"n":1}}`)
			// What a browser subscribes with; its push service is a port of this machine at which nobody listens.
			key, err := ecdh.P256().GenerateKey(rand.Reader)
			if err != nil {
				c.t.Fatal(err)
			}
			c.write("subscription.json", fmt.Sprintf(`{"endpoint":"https://push.example/m/1","keys":{"p256dh":"%s","auth":"%s"}}`,
				base64.RawURLEncoding.EncodeToString(key.PublicKey().Bytes()), base64.RawURLEncoding.EncodeToString(make([]byte, 16))))
			c.environ = append(c.environ, "HERALD_PROVIDERS_WEBPUSH_URL=https://"+freeAddress(c.t))
		},
		stays: []string{"HERALD_EGRESS_ALLOW_NETWORKS=127.0.0.0/8 ./herald serve"},
		before: map[string]func(c *console){
			"TOKEN=$(./herald token create": func(c *console) { c.stay("./shown") },
			"curl localhost:8420/events -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: application/json' \\\n    -d '{\"type\":\"task.delete\"": func(c *console) {
				c.interrupt("./shown")
			},
			"curl -X POST": func(c *console) { c.stay("./shown") },
			"curl localhost:8420/implementations": func(c *console) {
				c.quietly("TOKEN=$(herald token create --name phone --scope devices --scope send)")
			},
		},
		not: map[string]string{
			"go run . demo":                         "the demo has tests of its own",
			"go test ./...":                         "is what runs this",
			"herald tail":                           "it does not end; a test of its own looks at it",
			"herald subscription status ID --watch": "it does not end",
			"go build -o herald .":                  "it is built already",
		},
	}.run(t)
}

// served is the daemon as the README starts it, with a token of these scopes.
func served(scopes ...string) func(c *console) {
	return func(c *console) {
		c.stay("HERALD_EGRESS_ALLOW_NETWORKS=127.0.0.0/8 herald serve")
		c.appears("msg=serving")
		c.quietly("TOKEN=$(herald token create --name docs --scope " + strings.Join(scopes, " --scope ") + ")")
	}
}

func TestDocs_MonitoringCommandsDoWhatTheySay(t *testing.T) {
	page{
		file: "../docs/monitoring.md", setUp: served("admin"),
		not: map[string]string{
			"curl -i localhost:8420/readyz": "needs a queue that is full",
			"time=":                         "lines of the log, which other tests hold against the page",
			"<3>level":                      "what the journal gets; tests of the log look at it",
			"Webhook-Id:":                   "what a receiver gets; the contract tests of traces look at it",
			"cd /etc/prometheus":            inPrometheus, "sudo cp /usr/share": inPrometheus, "promtool": inPrometheus, "sudo systemctl reload": inPrometheus,
		},
	}.run(t)
}

// inPrometheus is where the commands for Prometheus are.
const inPrometheus = "needs a Prometheus; a test of its own has promtool judge the files, in CI"

func TestDocs_ReceivingCommandsDoWhatTheySay(t *testing.T) {
	receiver := "SIGNING_SECRETS=$SECRET go run ./docs/receivers/go"
	page{
		file:  "../docs/receiving.md",
		setUp: served("publish", "subscribe"),
		pairs: []string{"go run ./docs/receivers/go", "./receiver"},
		stays: []string{receiver},
		before: map[string]func(c *console){
			"api /subscriptions/$SUB/status": func(c *console) {
				c.interrupt("docs/receivers/go")
				c.quietly(`api /events -d '{"type":"task.create","data":{"n":3}}'`)
			},
			"api /deliveries/$D/retry": func(c *console) { c.stay(receiver) },
		},
	}.run(t)
}

func TestDocs_ApiCommandsDoWhatTheySay(t *testing.T) {
	// Where pushes of the page go; it answers what the hooks say.
	r := receive(t)
	shop := func(c *console, scopes string) {
		c.quietly(`TOKEN=$(herald token create --account shop-1 --name docs --scope ` + strings.ReplaceAll(scopes, " ", " --scope ") + `)`)
	}
	alone := func(c *console) { // no subscription but those that follow
		c.quietly(`for id in $(api /subscriptions | jq -r '.[].id'); do api /subscriptions/$id -X DELETE; done`)
	}
	page{
		file:  apiDocument,
		pairs: []string{"127.0.0.1:9000", strings.TrimPrefix(r.URL, "http://")},
		setUp: func(c *console) {
			served("admin")(c)
			c.quietly(`openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -subj /CN=shop-1 -days 30`)
			c.quietly(`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out AuthKey_ABC123DEFG.p8`)
		},
		before: map[string]func(c *console){
			"api /resources -X PUT": func(c *console) {
				c.quietly(`api /accounts/shop-1 -X PATCH -d '{"suspended":false}'`)
				shop(c, "publish subscribe")
			},
			"api /subscriptions/$SUB -X PATCH": func(c *console) { c.quietly("SUB=01a2028d-6410-75c6-afb6-c070567ab1e9") },
			"curl -i localhost:8420/subscriptions/$SUB/confirmation": func(c *console) {
				c.quietly("SUB=01a20348-3093-7692-b6ea-0ff508601f1b")
				var record struct{ Signature string }
				if err := json.Unmarshal(r.wait(1)[0].body, &record); err != nil {
					c.t.Fatal(err)
				}
				c.ids["1795437792403.zIxcdURapmVCnb_wyxJcXVJKmzBPhTORXBiy7IUAd-8"] = record.Signature
			},
			"api /subscriptions/$SUB/status": func(c *console) {
				r.status(503)
				c.quietly(`SUB=$(api /subscriptions -d '{"dataCallbackURL":"http://127.0.0.1:9000/hook","validationCallbackURL":"http://127.0.0.1:9000/validate"}' | jq -r .id)`)
			},
			"api /subscriptions/$DOWN/status": func(c *console) {
				c.quietly(`DOWN=$(api /subscriptions -d '{"dataCallbackURL":"http://127.0.0.1:9000/down","events":["down"]}' | jq -r .id)`)
				for n := range 7 {
					c.quietly(`api /events -d '{"type":"down","data":{}}'`)
					failures := strconv.Itoa(min(n+1, 5))
					eventually(c.t, "it fails", func() bool {
						return strings.TrimSpace(c.quietly(`api /subscriptions/$DOWN/status | jq .breaker.failures`)) == failures
					})
				}
			},
			"jq -n --rawfile key":  func(c *console) { shop(c, "publish subscribe devices send") },
			"api /contacts/$PHONE": func(c *console) { c.quietly("PHONE=%2B31612345678") },
			`api /events -d '{"id":"order-17","type":"task.create","resource"`: func(c *console) {
				alone(c)
				r.status(204)
				c.quietly(`api /subscriptions -d '{"dataCallbackURL":"http://127.0.0.1:9000/hook"}'`)
			},
			"api /deliveries/$D": func(c *console) {
				alone(c)
				r.respond(func(_ int, _ push, w http.ResponseWriter) {
					http.Error(w, "down till Monday", http.StatusServiceUnavailable)
				})
				c.quietly(`api /subscriptions -d '{"dataCallbackURL":"http://127.0.0.1:9000/hook","delivery":{"retrySchedule":["2m"]}}'; api /events -d '{"type":"order.paid","data":{}}'`)
				eventually(c.t, "it fails", func() bool {
					return strings.HasPrefix(c.quietly(`D=$(api /deliveries?state=retrying | jq -r '.[0].id'); echo $D`), "dlv_")
				})
			},
			`api "/deliveries?subscription=$MAIL`: func(c *console) {
				alone(c)
				c.quietly(`MAIL=$(api /subscriptions -d '{"dataCallbackURL":"http://127.0.0.1:9000/mail","delivery":{"retrySchedule":["1s"]}}' | jq -r .id)`)
				c.quietly(`api /events -d '[{"type":"mail.sent","data":{}},{"type":"mail.sent","data":{}}]'`)
				eventually(c.t, "both are dead", func() bool {
					return strings.TrimSpace(c.quietly(`api "/deliveries?subscription=$MAIL&state=dead" | jq length`)) == "2"
				})
			},
			`api /subscriptions/$SUB/replay -d '{"date":"2026-11-22","dryRun":true}'`: func(c *console) {
				alone(c)
				r.status(204)
				c.quietly(`SUB=$(api /subscriptions -d '{"dataCallbackURL":"http://127.0.0.1:9000/hook","events":["again"]}' | jq -r .id)`)
				c.quietly(`api /events -d '[{"type":"again","data":{}},{"type":"again","data":{}},{"type":"again","data":{}}]'`)
			},
		},
		not: map[string]string{
			"verified: order-17":           "what another program prints, which is compiled by a test of its own",
			"2026/11/22 09:14:13 verified": "what another program prints, which is compiled by a test of its own",
		},
	}.run(t)
}

func TestDocs_GettingStartedCommandsDoWhatTheySay(t *testing.T) {
	another := func(c *console) { c.interrupt("receivers/go") }
	page{
		file:  "../docs/getting-started.md",
		pairs: []string{"go run herald-source/docs/receivers/go/receiver.go", "./receiver"},
		stays: []string{"HERALD_EGRESS_ALLOW_NETWORKS=127.0.0.0/8 herald serve", "SIGNING_SECRETS="},
		before: map[string]func(c *console){
			"herald event publish --type task.delete": another,
			"SIGNING_SECRETS=":                        another,
		},
		not: map[string]string{
			"go build -o herald . && sudo": "it is built already",
			"sudo apt install":             inSystemd,
			"sudo systemctl enable --now":  inSystemd,
			"sudo herald token create":     inSystemd,
		},
	}.run(t)
}

// Each page has a test that runs its commands, or says why not; a new one fails this until somebody has decided.
func TestDocs_EachPageIsRun(t *testing.T) {
	t.Parallel()
	run := []string{
		"api.md", "devices.md", "getting-started.md", "install.md", "monitoring.md", "operations.md", "performance.md", "receiving.md", "security.md",
	}
	generated := []string{"cli.md"}       // of --help, whose examples the program's own test parses
	silent := []string{"dependencies.md"} // shows no command
	paths, err := filepath.Glob(filepath.FromSlash("../docs/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	readme := document(t, "../README.md")
	for _, path := range paths {
		name := filepath.Base(path)
		if !slices.Contains(slices.Concat(run, generated, silent), name) {
			t.Errorf("no test runs the commands of %s", path)
		}
		if !strings.Contains(readme, "](docs/"+name+")") {
			t.Errorf("the README does not lead to %s", path)
		}
	}
	for _, name := range silent {
		for _, b := range fences(document(t, "../docs/"+name)) {
			if len(commands(b)) > 0 {
				t.Errorf("%s shows commands: %s", name, b.text)
			}
		}
	}
}

func TestDocs_InstallCommandsAreThoseOfCI(t *testing.T) {
	page{
		file: "../docs/install.md",
		not: map[string]string{
			"sudo apt install": inSystemd, "sudo systemctl": inSystemd, "sudo herald token create": inSystemd,
			"sudo install -D -m 600 /var/lib/herald/secrets.key": inSystemd,
			"sudo apt remove": inSystemd, "sudo apt purge": inSystemd,
			"sudoedit":               "is for a person",
			"sudo rm -r /var/lib":    "removes the data for good",
			"tar -xzf":               "the tarball is made in CI, and unpacked by nobody there",
			"sudo install -m 755":    "writes to /usr; the same files are in the package",
			"sudo install -D -m 644": "writes to /usr; the same files are in the package",
			"sudo install -D -m 640": "writes to /etc; the same files are in the package",
			"sudo install -m 644 -t": "writes to /etc; the same files are in the package",
		},
	}.run(t)
}

func TestDocs_PerformanceCommandsAreForAQuietMachine(t *testing.T) {
	page{
		file: "../docs/performance.md",
		not: map[string]string{
			"go build":              "it is built already",
			"./herald bench":        "takes a while; CI runs the benchmark",
			"TEST_MEASURE_BACKUP=1": "takes minutes, and is judged by a person",
			"go test":               "measures; other tests are in the same packages",
		},
	}.run(t)
}

// inSystemd is where the commands of an installed service are run.
const inSystemd = "needs root and systemd: .ci/systemd-inside does it"

func TestDocs_SecurityCommandsDoWhatTheySay(t *testing.T) {
	page{
		file: "../docs/security.md",
		setUp: func(c *console) {
			c.stay("herald serve")
			c.appears("msg=serving")
		},
	}.run(t)
}

func TestDocs_OperationsCommandsDoWhatTheySay(t *testing.T) {
	const serve = "HERALD_EGRESS_ALLOW_NETWORKS=127.0.0.0/8 herald serve"
	page{
		file:  operationsDocument,
		pairs: []string{"/safe/place", "safe", "/var/backups/herald", "backups"},
		setUp: func(c *console) {
			served("admin")(c)
			c.quietly(`mkdir backups safe; cp data/secrets.key safe; herald subscription create --data-callback-url http://127.0.0.1:9000/hook`)
		},
		before: map[string]func(c *console){
			"HERALD_DATA_DIR=new herald serve": func(c *console) { c.quietly("rm new/secrets.key") },
			"herald check\n": func(c *console) { // the sixth page of the file is written over
				c.interrupt("herald serve")
				c.quietly("cp data/store.db whole; printf garbageg | dd of=data/store.db bs=4096 seek=5 conv=notrunc")
			},
			"herald compact": func(c *console) { c.quietly("cp whole data/store.db") },
			"herald token create": func(c *console) {
				c.stay(serve)
				eventually(c.t, "it serves again", func() bool { _, _, err := c.run("herald token list"); return err == nil })
				c.quietly(`herald token create --name backend --scope publish`)
			},
			"herald subscription secret": func(c *console) {
				c.ids["01a2050c-2ad7-7263-8059-f3d0a28671ff"] = strings.TrimSpace(c.quietly(`herald subscription list --json | jq -r '.[0].id'`))
			},
		},
		not: map[string]string{
			"herald bench":                 "takes a while; CI runs the benchmark",
			"install -d -g herald":         "is for certbot, and root",
			"install -g herald":            "is for certbot, and root",
			"openssl req":                  withTLS,
			"curl --cacert":                withTLS,
			"HERALD_URL=https://localhost": withTLS,
		},
	}.run(t)
}

// withTLS is where the commands about TLS are run.
const withTLS = "TestDocs_TLSCommandsWork runs it, against a daemon with TLS"
