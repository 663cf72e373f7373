package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// canary is an admin token as a person would paste it.
const canary = "Zx7canaryQ0123456789abcdef"

// Wherever a token ends up in a wrong file, no message repeats it.
func TestNoRefusalRepeatsASecret(t *testing.T) {
	t.Parallel()
	texts := []string{
		"TOKEN", "- TOKEN", "TOKEN: x", "TOKEN:", "? TOKEN", "? [TOKEN]", "admin_tokenTOKEN", "admin_token:TOKEN", "admin_token:TOKEN: x", "admin_token=TOKEN: x",
		"admin_token: [TOKEN]", "admin_token: {TOKEN: x}", "admin_token: {x: TOKEN}", "admin_token: !TOKEN x", "admin_token: !!int TOKEN",
		"admin_token: *TOKEN", "admin_token: '*TOKEN", "admin_token: &TOKEN [1]", "admin_token: \"TOKEN", "admin_token: 'TOKEN", "admin_token: @TOKEN", "admin_token: `TOKEN`",
		"admin_token: %TOKEN", "%TOKEN x\n---\n", "admin_token: TOKEN: x", "admin_token: \"TOKEN\\q\"", "admin_token: TOKEN !", "admin_token: |\n  TOKEN\n  TOKEN\n",
		"admin_token: \"TOKEN\\n\"", "admin_token: TOKEN\nadmin_token: TOKEN", "admin_token: TOKEN\n---\nadmin_token: TOKEN", "admin_token: TOKEN\nadmin_token_file: TOKEN",
		"listen: TOKEN", "listen: {TOKEN: x}", "listen: {admin_token: TOKEN}", "<<: TOKEN", "<<: {admin_token: TOKEN}", "admin_token: TOKEN\n\tx", "admin_token: TOKEN\n x: y: z",
		"egress: {proxy: 'http://u:TOKEN@'}", "egress: {proxy: 'http://u:TOKEN@h:x'}", "egress: {proxy: 'ftp://u:TOKEN@h'}", "egress: {proxy: '::TOKEN'}",
		"egress: {allow_networks: [TOKEN, TOKEN/8, 10.0.0.0/TOKEN, [TOKEN]]}", "delivery: {retry_schedule: [TOKEN]}", "public_url: 'https://u:TOKEN@h'", "public_url: 'http://[TOKEN'",
	}
	for _, path := range Keys() {
		// A key of one level with the token as its value, and as a list and a group.
		for _, value := range []string{"TOKEN", "[TOKEN]", "{TOKEN: TOKEN}"} {
			parts := strings.Split(path, ".")
			text := value
			for _, part := range slices.Backward(parts) {
				text = "{" + part + ": " + text + "}"
			}
			texts = append(texts, text)
		}
	}
	// These values are well where they stand: any text is a path that may not exist yet.
	refused := 0
	for _, text := range texts {
		_, err := Parse("x.yaml", []byte(strings.ReplaceAll(text, "TOKEN", canary)), nil)
		if err == nil {
			continue
		}
		refused++
		if strings.Contains(err.Error(), canary) {
			t.Errorf("%s is refused with %q", text, err)
		}
	}
	if refused < len(texts)-5 {
		t.Errorf("only %d of %d texts are refused, so that the rest tests nothing", refused, len(texts))
	}

	for _, k := range keys() {
		_, err := Parse("", nil, []string{k.variable + "=" + canary + " \n", "HERALD_UNKNOWN=" + canary})
		if err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", k.variable, err)
		}
	}

	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(canary+" "+canary), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Parse("x.yaml", []byte("admin_token_file: "+path+"\negress: {ca_file: "+path+"}\nlisten: {tls: {cert: "+path+", key: "+path+"}}"), nil); err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("files: %v", err)
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	t.Parallel()
	c := Default()
	c.AdminToken, c.Egress.Proxy = canary, "http://u:"+canary+"@h:1"
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10.3s", "%T", "%t"} {
		fmt.Fprintf(&out, verb+"\n", c.AdminToken)
		fmt.Fprintf(&out, verb+"\n", &c)
		fmt.Fprintf(&out, verb+"\n", []Secret{c.AdminToken})
		fmt.Fprintf(&out, verb+"\n", map[string]any{"k": c.AdminToken})
	}
	j, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.AdminToken.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "token", c.AdminToken, "config", c)
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "token", c.AdminToken, "config", c)
	fmt.Fprintf(&out, "%s%s%s%s", j, y, m, logged.String())

	hex := fmt.Sprintf("%x", canary)
	for _, leak := range []string{canary, canary[:4], hex, strings.ToUpper(hex)} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("%q is printed in\n%s", leak, out.String())
		}
	}
	if n := strings.Count(out.String(), hidden); n < 20 {
		t.Errorf("only %d printings say %s", n, hidden)
	}
	// encoding/json and yaml would fall back to MarshalText, other encoders might not.
	if j, err := c.AdminToken.MarshalJSON(); string(j) != `"`+hidden+`"` || err != nil {
		t.Errorf("MarshalJSON gives %s, %v", j, err)
	}
	if y, err := c.AdminToken.MarshalYAML(); y != hidden || err != nil {
		t.Errorf("MarshalYAML gives %v, %v", y, err)
	}
	if v := c.AdminToken.LogValue().String(); v != hidden {
		t.Errorf("LogValue gives %s", v)
	}
	if c.AdminToken.Reveal() != canary {
		t.Error("Reveal does not")
	}
	if s := fmt.Sprint(Secret("")); s != "" {
		t.Errorf("an empty secret prints %q", s)
	}
}
