package webhook

import (
	"bytes"
	"testing"

	"herald/queue"
	"herald/store"
)

func TestMask(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		auth       store.Authentication
		body, want string
	}{
		{store.Authentication{Type: store.AuthBearer, Token: "tok-123456"}, "Authorization: Bearer tok-123456!", "Authorization: Bearer <secret>!"},
		{store.Authentication{Type: store.AuthBasic, Username: "me", Password: "pass word"}, "Basic bWU6cGFzcyB3b3Jk and pass word", "Basic <secret> and <secret>"},
		{store.Authentication{Type: store.AuthHeader, Name: "X", Value: "value-1"}, "value-1value-1", "<secret><secret>"},
		{store.Authentication{Type: store.AuthQuery, Name: "k", Value: "a b&c/d"}, "GET /?k=a+b%26c%2Fd", "GET /?k=<secret>"},
		{store.Authentication{Type: store.AuthBasic, Username: "u", Password: "no"}, "no, nothing", "no, nothing"},
		{store.Authentication{}, "nothing", "nothing"},
		{store.Authentication{Type: store.AuthBearer, Token: "tok-123456"}, "", ""},
	} {
		if got := mask([]byte(c.body), &c.auth); string(got) != c.want {
			t.Errorf("%q is masked as %q, want %q", c.body, got, c.want)
		}
	}
	long := mask(bytes.Repeat([]byte("abcdef"), queue.MaxResponse/6), &store.Authentication{Type: store.AuthBearer, Token: "abcdef"})
	if len(long) > queue.MaxResponse {
		t.Errorf("masking made it %d bytes", len(long))
	}
}
