package store_test

import (
	"testing"

	"herald/store"
)

// What messages to devices are made of is replayed to no subscription, whatever its pattern.
func TestMessagesAreNotSelected(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{"herald.*", store.MessagePrefix + ".device", store.MessagePrefix, "*.device"} {
		s := store.Subscription{ID: store.SubscriptionID{1}, AccountID: "a", State: store.StateActive, Events: []string{pattern}}
		selects := s.Selects()
		for _, eventType := range []string{store.MessagePrefix, store.MessagePrefix + ".device", store.MessagePrefix + ".status"} {
			if selects(eventType, "", []byte("{}")) {
				t.Errorf("%s selects %s", pattern, eventType)
			}
		}
		if pattern == "herald.*" && !selects("herald.subscription.disabled", "", []byte("{}")) {
			t.Errorf("%s selects nothing", pattern)
		}
	}
}
