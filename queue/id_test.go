package queue

import (
	"strings"
	"testing"
)

func TestDeliveryID(t *testing.T) {
	t.Parallel()
	for _, id := range []DeliveryID{
		{},
		{Seq: 1, Lane: Lane{15: 1}},
		{Seq: 1<<64 - 1, Lane: Lane{0xff, 0xfe, 15: 0x7f}},
	} {
		s := id.String()
		if len(s) != 43 || s != strings.ToLower(s) {
			t.Errorf("%+v prints as %q", id, s)
		}
		got, err := ParseDeliveryID(s)
		if err != nil || got != id {
			t.Errorf("%q parses as %+v, %v", s, got, err)
		}
	}
	if a, b := (DeliveryID{Seq: 255}).String(), (DeliveryID{Seq: 256}).String(); a >= b {
		t.Errorf("ids do not sort by age: %q, %q", a, b)
	}
	good := DeliveryID{Seq: 7, Lane: Lane{1}}.String()
	for _, bad := range []string{
		"", "dlv_", good[4:], "evt_" + good[4:], good + "0", good[:42], strings.ToUpper(good), " " + good, "dlv_" + strings.Repeat("z", 39),
		good[:42] + "1", // sets bits that the encoding leaves at zero
	} {
		if id, err := ParseDeliveryID(bad); err == nil {
			t.Errorf("%q was taken as %+v", bad, id)
		}
	}
}

func FuzzParseDeliveryID(f *testing.F) {
	f.Add("")
	f.Add(DeliveryID{Seq: 1 << 40, Lane: Lane{3: 9}}.String())
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseDeliveryID(s); err == nil && id.String() != s {
			t.Fatalf("%q parses as %+v, which prints as %q", s, id, id)
		}
	})
}
