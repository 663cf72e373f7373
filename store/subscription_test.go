package store_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"herald/store"
)

func TestSubscriptionIDs(t *testing.T) {
	t.Parallel()
	var last store.SubscriptionID
	for range 1000 {
		id, err := store.NewSubscriptionID()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Compare(id[:], last[:]) <= 0 {
			t.Fatalf("%s was made after %s and sorts before it", id, last)
		}
		if id[6]>>4 != 7 || id[8]>>6 != 2 {
			t.Fatalf("%s is not a UUID of version 7", id)
		}
		for _, text := range []string{id.String(), strings.ToUpper(id.String())} {
			if got, err := store.ParseSubscriptionID(text); err != nil || got != id {
				t.Fatalf("%s was read as %s, %v", text, got, err)
			}
		}
		last = id
	}
	good := last.String()
	for _, bad := range []string{
		"", "x", good[:35], good + "0", "{" + good + "}", "urn:uuid:" + good, strings.ReplaceAll(good, "-", ""),
		strings.ReplaceAll(good, "-", "_"), "g" + good[1:], " " + good[1:], strings.Repeat("-", 36), strings.Repeat("é", 18),
	} {
		if id, err := store.ParseSubscriptionID(bad); err == nil {
			t.Errorf("%q was read as %s", bad, id)
		}
	}
}

func TestCloneSharesNothing(t *testing.T) {
	t.Parallel()
	s := &store.Subscription{
		Events: []string{"a", "b"}, Authentication: store.Authentication{Token: "t"},
		SigningSecrets: []store.SigningSecret{{Key: []byte{1, 2}, ExpiresAt: time.Unix(5, 0)}, {Key: []byte{3}}},
	}
	c := s.Clone()
	c.Events[0], c.SigningSecrets[0].Key[0], c.SigningSecrets[1].ExpiresAt, c.Authentication.Token = "x", 9, time.Unix(6, 0), "x"
	if s.Events[0] != "a" || s.SigningSecrets[0].Key[0] != 1 || !s.SigningSecrets[1].ExpiresAt.IsZero() || s.Authentication.Token != "t" {
		t.Errorf("the original changed with its clone: %+v", s)
	}
	if !c.SigningSecrets[0].ExpiresAt.Equal(time.Unix(5, 0)) || c.Events[1] != "b" {
		t.Errorf("the clone is not like the original: %+v", c)
	}
}

func TestTokenRules(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, x := range []struct {
		expires, now time.Time
		want         bool
	}{
		{time.Time{}, at, false},
		{at, at.Add(-time.Nanosecond), false},
		{at, at, true},
		{at, at.Add(time.Hour), true},
	} {
		if got := (&store.Token{ExpiresAt: x.expires}).Expired(x.now); got != x.want {
			t.Errorf("expires %v, now %v: expired %v, want %v", x.expires, x.now, got, x.want)
		}
	}
	for _, has := range store.Scopes() {
		token := store.Token{Scopes: []store.Scope{has}}
		for _, asked := range store.Scopes() {
			if got, want := token.Has(asked), has == asked || has == store.ScopeAdmin; got != want {
				t.Errorf("a token with %s has %s: %v, want %v", has, asked, got, want)
			}
		}
	}
	if (&store.Token{}).Has(store.ScopePublish) {
		t.Error("a token without scopes has one")
	}
}
