package store

import (
	"reflect"
	"strings"
	"testing"
)

func TestTemplate_Fill(t *testing.T) {
	t.Parallel()
	tmpl := &Template{
		ImplementationID: "app", Contact: "{{customer.id}}",
		Notification: Notification{
			Title: map[string]string{"en": "Order {{ /id }} of {{customer.name}}", "nl": "{{none}}"},
			Text:  map[string]string{"": "{{paid}} {{total}} {{items.name}}|{{none}}|{{gone}}|{{customer}}|{{items}} }}"},
			Data:  map[string]string{"order": "{{id}}", "empty": "{{none}}", "plain": "x"},
			Sound: "{{id}}",
		},
	}
	contact, n, err := tmpl.Fill([]byte(`{"id":47.10,"paid":true,"total":1e2,"gone":null,"customer":{"id":"c-1","name":"Å \"x\""},"items":[{"name":"a"},{"name":"b"}]}`))
	if err != nil || contact != "c-1" {
		t.Fatalf("%q, %v", contact, err)
	}
	want := Notification{
		Title: map[string]string{"en": `Order 47.10 of Å "x"`},
		Text:  map[string]string{"": "true 1e2 a||||  }}"},
		Data:  map[string]string{"order": "47.10", "plain": "x"},
		Sound: "{{id}}",
	}
	want.Text[""] = "true 1e2 a|||| }}"
	if !reflect.DeepEqual(n, want) {
		t.Errorf("%+v, want %+v", n, want)
	}
	if tmpl.Notification.Data["order"] != "{{id}}" {
		t.Error("the template was changed")
	}
	for data, word := range map[string]string{
		`{}`:                         "blank",
		`{"customer":{"id":" "}}`:    "blank",
		`{"customer":{"id":null}}`:   "blank",
		`{"customer":{"id":"a\nb"}}`: "control",
		`{"customer":{"id":["a"]}}`:  "blank",
		`[]`:                         "object",
		`{"customer":{"id":"` + strings.Repeat("x", MaxContactLength+1) + `"}}`: "256 bytes",
	} {
		if _, _, err := tmpl.Fill([]byte(data)); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%.60s: %v, want …%s", data, err, word)
		}
	}
	if contact, _, err := (&Template{Contact: "n-{{n}}"}).Fill([]byte(`{"n":7}`)); err != nil || contact != "n-7" {
		t.Errorf("%q, %v", contact, err)
	}
}

func TestCheckTemplateText(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "plain", "{ {a} }", "{{a}}", "a {{a.b}} {{ /a/0 }}", "}}"} {
		if err := CheckTemplateText(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, word := range map[string]string{"{{a": "without its }}", "{{}}": "joined by single dots", "{{a..b}}": "joined by single dots", "{{/~2}}": "JSON Pointer", "{{a}} {{": "without"} {
		if err := CheckTemplateText(text); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q: %v, want …%s", text, err, word)
		}
	}
}
