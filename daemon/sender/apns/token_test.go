package apns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"herald/store"
)

func newKey(t *testing.T, curve elliptic.Curve) (*ecdsa.PrivateKey, *store.APNs) {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, &store.APNs{Key: der, KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ"}
}

func token(t *testing.T, k *tokens) string {
	t.Helper()
	text, err := k.token()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTokenForm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		key, a := newKey(t, elliptic.P256())
		k, err := newTokens(a)
		if err != nil {
			t.Fatal(err)
		}
		for range 64 { // numbers that begin with zeros are of full length too
			k.current = ""
			parts := strings.Split(token(t, k), ".")
			for n, want := range []string{`{"alg":"ES256","kid":"ABC123DEFG"}`, fmt.Sprintf(`{"iss":"DEF123GHIJ","iat":%d}`, time.Now().Unix())} {
				if got, err := base64.RawURLEncoding.DecodeString(parts[n]); err != nil || string(got) != want {
					t.Fatalf("part %d is %s %v, want %s", n, got, err, want)
				}
			}
			signature, err := base64.RawURLEncoding.DecodeString(parts[2])
			if err != nil || len(signature) != 64 {
				t.Fatalf("the signature is %x %v", signature, err)
			}
			sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
			if !ecdsa.Verify(&key.PublicKey, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
				t.Fatal("the signature is wrong")
			}
		}
	})
}

func TestTokenKeys(t *testing.T) {
	t.Parallel()
	_, a := newKey(t, elliptic.P384())
	for _, a := range []*store.APNs{a, {}, {Key: []byte("x")}} {
		if _, err := newTokens(a); err == nil {
			t.Errorf("the key %x is taken", a.Key)
		}
	}
}

// A token is replaced every 50 minutes, and at most once more when APNs says that it is expired; not at all while APNs wants none.
func TestTokenTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, a := newKey(t, elliptic.P256())
		k, err := newTokens(a)
		if err != nil {
			t.Fatal(err)
		}
		expired := func(used string, want bool) {
			t.Helper()
			if got, err := k.expired(used); got != want || err != nil {
				t.Fatalf("try again: %v %v, want %v", got, err, want)
			}
		}
		first := token(t, k)
		time.Sleep(tokenLife - time.Second)
		if token(t, k) != first {
			t.Fatal("the token was replaced before 50 minutes")
		}
		time.Sleep(time.Second)
		second := token(t, k)
		if second == first {
			t.Fatal("the token was not replaced after 50 minutes")
		}
		expired(first, true) // there is a newer one by now
		if token(t, k) != second {
			t.Fatal("an old answer has the token replaced")
		}
		expired(second, true)
		third := token(t, k)
		if third == second {
			t.Fatal("an expired token is used again")
		}
		expired(third, false)
		time.Sleep(tokenInterval - time.Second)
		expired(third, false)
		if token(t, k) != third {
			t.Fatal("the token was replaced twice within 20 minutes")
		}
		time.Sleep(time.Second)
		expired(third, true)
		fourth := token(t, k)
		time.Sleep(tokenLife - time.Minute)
		k.tooMany()
		time.Sleep(tokenInterval - time.Second)
		expired(fourth, false)
		if token(t, k) != fourth {
			t.Fatal("a token was made although APNs wants none")
		}
		time.Sleep(time.Second)
		if token(t, k) == fourth {
			t.Fatal("no token is made after APNs wanted none for 20 minutes")
		}
		// The clock was set back.
		k.at = k.at.Add(time.Hour)
		if before := k.current; token(t, k) == before {
			t.Fatal("a token from the future is used")
		}
	})
}

// However many ask at once, one token is made.
func TestTokenOnce(t *testing.T) {
	t.Parallel()
	_, a := newKey(t, elliptic.P256())
	k, err := newTokens(a)
	if err != nil {
		t.Fatal(err)
	}
	var seen sync.Map
	count := func() (n int) {
		seen.Range(func(any, any) bool { n++; return true })
		return n
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { seen.Store(token(t, k), true) })
	}
	wg.Wait()
	first := token(t, k)
	for range 50 {
		wg.Go(func() {
			if again, err := k.expired(first); !again || err != nil {
				t.Errorf("try again: %v %v", again, err)
			}
			seen.Store(token(t, k), true)
		})
	}
	wg.Wait()
	if n := count(); n != 2 {
		t.Errorf("%d tokens were made, want one and one when it expired", n)
	}
}
