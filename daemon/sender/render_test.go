package sender

import (
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"herald/store"
)

func in(language, text string) map[string]string { return map[string]string{language: text} }

func TestTooLarge(t *testing.T) {
	t.Parallel()
	texts := map[string]string{"en": strings.Repeat("x", 100), "nl": "x"}
	for _, c := range []struct {
		n             store.Notification
		language      string
		field, ending string
	}{
		{store.Notification{Text: texts, Data: in("k", strings.Repeat("x", 99))}, "en", "body", "the text"},
		{store.Notification{Text: texts, Data: in("k", strings.Repeat("x", 100))}, "en", "data", "the data"},
		{store.Notification{Text: texts, Data: in("k", "x")}, "nl", "data", "the data"},
		{store.Notification{Title: texts, Text: in("en", "x")}, "en", "body", "the title"},
		{store.Notification{Title: texts, Silent: true, Data: in("k", "x")}, "en", "data", "the data"},
		{store.Notification{}, "en", "body", "the text"},
	} {
		e := TooLarge(&c.n, c.language, store.PlatformIOS, "APNs takes", 4310, 4096)
		if want := "is 4,310 bytes for ios, 214 more than the 4,096 that APNs takes; shorten " + c.ending; e.Field != c.field || e.Detail != want || e.Missing {
			t.Errorf("%+v, want %s: %s", e, c.field, want)
		}
	}
}

func TestThousands(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := Thousands(n); got != want {
			t.Errorf("%d is %s", n, got)
		}
	}
}

// What one key replaces another does not.
func TestPushTopic(t *testing.T) {
	t.Parallel()
	seen := make(map[string]string)
	for key, want := range map[string]string{
		"": "", "a": "a", "A": "A", "A-z_09": "A-z_09", strings.Repeat("x", 32): strings.Repeat("x", 32), strings.Repeat("x", 33): "?",
		strings.Repeat("x", 34): "?", "a b": "?", "a.b": "?", "a/b": "?", "é": "?", "a\r\nb": "?", "=": "?",
		// What waits at a push service is replaced after an update of Herald too.
		"parcel/7": "LWB9B_ypl9fJcrWCycg4Vz2uRthT91Hw",
	} {
		got := PushTopic(key)
		switch other, taken := seen[got]; {
		case taken:
			t.Errorf("%q and %q are %q", key, other, got)
		case want == "?" && (len(got) != 32 || strings.Trim(got, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" || got != PushTopic(key)),
			want != "?" && got != want:
			t.Errorf("%q is %q", key, got)
		}
		seen[got] = key
	}
}

func TestNewAPS(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		n    store.Notification
		want string
	}{
		"little": {store.Notification{Text: in("en", "x")}, `{"alert":{"body":"x"}}`},
		"silent": {
			store.Notification{Text: in("en", "x"), Silent: true, Badge: new(3), Sound: "s", ImageURL: "https://x.example/i.png"},
			`{"content-available":1}`,
		},
		"all": {
			store.Notification{
				Title: in("en", "T"), Text: in("en", "X"), Badge: new(0), Sound: "bell.caf",
				APNs: store.APNsOptions{
					Subtitle: "S", Category: "C", ThreadID: "TH", InterruptionLevel: "time-sensitive", TargetContent: "TC", RelevanceScore: new(0.0),
					MutableContent: true, Critical: true, Volume: 0.5,
				},
			},
			`{"alert":{"title":"T","subtitle":"S","body":"X"},"badge":0,"sound":{"critical":1,"name":"bell.caf","volume":0.5},"category":"C","thread-id":"TH",` +
				`"mutable-content":1,"target-content-id":"TC","interruption-level":"time-sensitive","relevance-score":0}`,
		},
		"an image": {store.Notification{Sound: "default", ImageURL: "https://x.example/i.png"}, `{"sound":"default","mutable-content":1}`},
		"critical": {store.Notification{APNs: store.APNsOptions{Critical: true, Volume: 1}}, `{"sound":{"critical":1,"name":"default","volume":1}}`},
		"localized": {
			store.Notification{Title: in("en", "T"), Text: in("en", "X"), APNs: store.APNsOptions{
				LocalizedTitle: "t", LocalizedTitleArgs: []string{"1", "2"}, LocalizedText: "b", LocalizedTextArgs: []string{"3"},
			}},
			`{"alert":{"title-loc-key":"t","title-loc-args":["1","2"],"loc-key":"b","loc-args":["3"]}}`,
		},
	} {
		if got, err := json.Marshal(NewAPS(&c.n, "en")); err != nil || string(got) != c.want {
			t.Errorf("%s: %v\n%s, want\n%s", name, err, got, c.want)
		}
	}
}

func TestNewWebOptions(t *testing.T) {
	t.Parallel()
	n := store.Notification{
		ImageURL: "i", Actions: []store.Action{{ID: "a", Title: "A", IconURL: "c"}, {ID: "b", Title: "B"}},
		Web: store.WebOptions{IconURL: "n", BadgeURL: "g", Tag: "t", RequireInteraction: true, Renotify: true},
	}
	const all = `{"icon":"n","image":"i","badge":"g","tag":"t","actions":[{"action":"a","title":"A","icon":"c"},{"action":"b","title":"B"}],` +
		`"requireInteraction":true,"renotify":true}`
	untagged := store.Notification{Web: store.WebOptions{Renotify: true}}
	for want, n := range map[string]*store.Notification{all: &n, "{}": &untagged} {
		if got, err := json.Marshal(NewWebOptions(n)); err != nil || string(got) != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}
