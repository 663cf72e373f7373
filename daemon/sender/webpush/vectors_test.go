package webpush

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"herald/store"
)

func decoded(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func equal(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	if text := base64.RawURLEncoding.EncodeToString(got); text != want {
		t.Errorf("%s is %s, want %s", what, text, want)
	}
}

// RFC 8188, section 3.1. That of section 3.2 has two records, which no push has.
func TestRecordIsThatOfRFC8188(t *testing.T) {
	t.Parallel()
	ikm, salt := decoded(t, "yqdlZ-tYemfogSmv7Ws5PQ"), decoded(t, "I1BsxtFttlv3u_Oo94xnmw")
	prk, err := hkdf.Extract(sha256.New, ikm, salt)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the PRK", prk, "zyeH5phsIsgUyd4oiSEIy35x-gIi4aM7y0hCF8mwn9g")
	key, nonce, err := contentKeys(ikm, salt)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the CEK", key, "_wniytB-ofscZDh4tbSjHw")
	equal(t, "the nonce", nonce, "Bcs8gkIRKLI8GeI8")
	text := []byte("I am the walrus")
	body, err := seal(ikm, salt, nil, text, len(text))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the body", body, "I1BsxtFttlv3u_Oo94xnmwAAEAAA-NAVub2qFgBEuQKRapoZu-IxkIva3MEB1PD-ly8Thjg")
}

// RFC 8291, section 5 and appendix A.
func TestBodyIsThatOfRFC8291(t *testing.T) {
	t.Parallel()
	own, err := ecdh.P256().NewPrivateKey(decoded(t, "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the public key", own.PublicKey().Bytes(), "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8")
	browser, err := ecdh.P256().NewPublicKey(decoded(t, "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"))
	if err != nil {
		t.Fatal(err)
	}
	auth, salt := decoded(t, "BTBZMqHH6r4Tts7J_aSIgg"), decoded(t, "DGv6ra1nlYgDCS1FRnbzlw")
	secret, err := own.ECDH(browser)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the shared secret", secret, "kyrL1jIIOHEzg3sM2ZWRHDRB62YACZhhSlknJ672kSs")
	prk, err := hkdf.Extract(sha256.New, secret, auth)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "PRK_key", prk, "Snr3JMxaHVDXHWJn5wdC52WjpCtd2EIEGBykDcZW32k")
	ikm, err := keyingMaterial(own, browser, auth)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the IKM", ikm, "S4lYMb_L0FxCeq0WhDx813KgSYqU26kOyzWUdsXYyrg")
	if prk, err = hkdf.Extract(sha256.New, ikm, salt); err != nil {
		t.Fatal(err)
	}
	equal(t, "the PRK", prk, "09_eUZGrsvxChDCGRCdkLiDXrReGOEVeSCdCcPBSJSc")
	key, nonce, err := contentKeys(ikm, salt)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the CEK", key, "oIhVW04MRdy2XN9CiKLxTg")
	equal(t, "the nonce", nonce, "4h_95klXJ5E_qnoN")
	text := []byte("When I grow up, I want to be a watermelon")
	body, err := seal(ikm, salt, own.PublicKey().Bytes(), text, len(text))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the body", body, "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_"+
		"yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN")
}

// RFC 8292, section 2.4: its key has signed the example, and our input is the same to the byte.
func TestTokenIsThatOfRFC8292(t *testing.T) {
	t.Parallel()
	const (
		signed = "eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiJ9.eyJhdWQiOiJodHRwczovL3B1c2guZXhhbXBsZS5uZXQiLCJleHAiOjE0NTM1MjM3NjgsInN1YiI6Im1haWx0bzpwdXNoQGV4YW1wbGUuY29tIn0"
		sig    = "i3CYb7t4xfxCDquptFOepC9GAu_HLGkMlMuCGSK2rpiUfnK9ojFwDXb1JrErtmysazNjjvW2L9OkSSHzvoD1oA"
		k      = "BA1Hxzyi1RUM1b5wjxsn7nGxAszw2u61m164i3MrAIxHF6YK5h4SDYic-dRuU_RCPCfA5aq9ojSwk5Y2EmClBPs"
	)
	input, err := signingInput("https://push.example.net", "mailto:push@example.com", time.Unix(1453523768, 0))
	if err != nil || input != signed {
		t.Fatalf("%s, %v; want %s", input, err, signed)
	}
	if !verified(t, decoded(t, k), signed, sig) {
		t.Error("the example is not verified")
	}
	v := newKey(t)
	own, err := sign(v, input)
	if err != nil || !verified(t, v.PublicKey, input, own) || verified(t, v.PublicKey, input+"x", own) || verified(t, decoded(t, k), input, own) {
		t.Errorf("our signature %s, %v", own, err)
	}
}

func verified(t testing.TB, public []byte, input, signature string) bool {
	t.Helper()
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), public)
	if err != nil {
		t.Fatal(err)
	}
	b, sum := decoded(t, signature), sha256.Sum256([]byte(input))
	return len(b) == 64 && ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(b[:32]), new(big.Int).SetBytes(b[32:]))
}

func newKey(t testing.TB) *store.VAPID {
	t.Helper()
	v, err := store.GenerateVAPID()
	if err != nil {
		t.Fatal(err)
	}
	v.Subject = "mailto:push@example.com"
	return v
}

func TestPaddingHidesTheLengthWithinWhatIsTaken(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]int{0: 0, 1: 128, 128: 128, 129: 256, 2560: 2560, 2561: 2641, 2641: 2641, 2642: 2688, 3969: 3993, 3993: 3993} {
		if got := padded(n); got != want {
			t.Errorf("%d is padded to %d, want %d", n, got, want)
		}
	}
	for n := range MaxPayload + 1 {
		body := padded(n) + MaxBody - MaxPayload
		if padded(n) < n || body > MaxBody || n+MaxBody-MaxPayload <= 2744 && body > 2744 {
			t.Fatalf("%d is padded to %d", n, padded(n))
		}
	}
}

func TestEachPushHasItsOwnKeyAndSalt(t *testing.T) {
	t.Parallel()
	v := newKey(t)
	seen := make(map[string]bool)
	for range 20 {
		body, err := encrypt([]byte("x"), v.PublicKey, make([]byte, 16))
		if err != nil {
			t.Fatal(err)
		}
		if len(body) != 86+128+1+16 || !bytes.Equal(body[16:21], []byte{0, 0, 0x10, 0, 65}) {
			t.Fatalf("a body of %d bytes with the header %x", len(body), body[:21])
		}
		for _, part := range []string{string(body[:16]), string(body[21:86]), string(body[86:])} {
			if seen[part] {
				t.Fatal("a salt, a key or a text came twice")
			}
			seen[part] = true
		}
	}
	for _, bad := range [][2][]byte{{nil, make([]byte, 16)}, {make([]byte, 65), make([]byte, 16)}, {v.PublicKey, make([]byte, 15)}, {v.PublicKey[:64], make([]byte, 16)}} {
		if _, err := encrypt(nil, bad[0], bad[1]); !errors.Is(err, errBadKeys) {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

// parts reads an Authorization header.
func parts(t *testing.T, header string) (input, signature, k string, claims map[string]any) {
	t.Helper()
	rest, ok := strings.CutPrefix(header, "vapid t=")
	jwt, k, ok2 := strings.Cut(rest, ", k=")
	dot := strings.LastIndexByte(jwt, '.')
	if !ok || !ok2 || dot < 0 {
		t.Fatalf("the header %s", header)
	}
	input, signature = jwt[:dot], jwt[dot+1:]
	if err := json.Unmarshal(decoded(t, strings.Split(input, ".")[1]), &claims); err != nil {
		t.Fatal(err)
	}
	return input, signature, k, claims
}

func TestTokenIsKeptForHalfADay(t *testing.T) {
	t.Parallel()
	v := newKey(t)
	var kept tokens
	first := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	changes, last := 0, ""
	var changed time.Time
	for now := first; now.Before(first.Add(72 * time.Hour)); now = now.Add(17 * time.Minute) {
		header, err := kept.header("a", v, "https://push.example.net", now)
		if err != nil {
			t.Fatal(err)
		}
		var forgotten tokens // another process, or one that has forgotten
		if again, err := forgotten.header("b", v, "https://push.example.net", now); err != nil || again != header {
			t.Fatalf("at %s another process sends another token", now)
		}
		if header != last {
			if changes++; now.Sub(changed) < time.Hour {
				t.Fatalf("a token changed %s after the last", now.Sub(changed))
			}
			last, changed = header, now
		}
		input, signature, k, claims := parts(t, header)
		exp := time.Unix(int64(claims["exp"].(float64)), 0)
		if left := exp.Sub(now); left > 24*time.Hour || left < 10*time.Hour {
			t.Fatalf("at %s the token is valid for %s", now, left)
		}
		if claims["aud"] != "https://push.example.net" || claims["sub"] != v.Subject || len(claims) != 3 ||
			k != base64.RawURLEncoding.EncodeToString(v.PublicKey) || !verified(t, v.PublicKey, input, signature) {
			t.Fatalf("the token %s", header)
		}
	}
	if changes != 6 {
		t.Errorf("%d tokens in three days", changes)
	}
	// A clock that goes back does not send a token that ends too late.
	header, err := kept.header("a", v, "https://push.example.net", first)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, claims := parts(t, header); int64(claims["exp"].(float64)) != first.Add(23*time.Hour).Unix() {
		t.Errorf("after the clock went back: %v", claims)
	}
}

func TestTokensAreApartAndBounded(t *testing.T) {
	t.Parallel()
	v, other := newKey(t), newKey(t)
	var kept tokens
	now := time.Now()
	header := func(v *store.VAPID, origin string) string {
		h, err := kept.header("a", v, origin, now)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	elsewhere := *v
	elsewhere.Subject = "https://example.com/contact"
	all := map[string]bool{
		header(v, "https://a.example"): true, header(v, "https://b.example"): true, header(other, "https://a.example"): true,
		header(&elsewhere, "https://a.example"): true,
	}
	if len(all) != 4 {
		t.Errorf("%d tokens of four", len(all))
	}
	kept.forget("b")
	if len(kept.all.all) != 4 {
		t.Error("forgetting another owner took tokens")
	}
	kept.forget("a")
	if len(kept.all.all) != 0 || kept.all.used.Len() != 0 {
		t.Error("something was kept of an owner that is forgotten")
	}
	var r recent[string, int]
	for n := range maxKept + 5 {
		r.put(fmt.Sprint(n), n)
		r.get("0")
	}
	if _, ok := r.get("0"); !ok || len(r.all) != maxKept || r.used.Len() != maxKept {
		t.Errorf("%d entries, the one in use %v", len(r.all), ok)
	}
	if _, ok := r.get("1"); ok {
		t.Error("the one used longest ago was kept")
	}
	for _, bad := range []*store.VAPID{{}, {PrivateKey: v.PrivateKey}, {PublicKey: v.PublicKey}} {
		if _, err := kept.header("a", bad, "https://a.example", now); !errors.Is(err, errBadVAPID) {
			t.Errorf("%v", err)
		}
	}
}

func BenchmarkEncrypt(b *testing.B) {
	v := newKey(b)
	text := bytes.Repeat([]byte("x"), 400)
	auth := make([]byte, 16)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := encrypt(text, v.PublicKey, auth); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkToken(b *testing.B) {
	v := newKey(b)
	now := time.Now()
	b.Run("kept", func(b *testing.B) {
		var kept tokens
		b.ReportAllocs()
		for b.Loop() {
			if _, err := kept.header("a", v, "https://push.example.net", now); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("made", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var kept tokens
			if _, err := kept.header("a", v, "https://push.example.net", now); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkKeyPair(b *testing.B) {
	for b.Loop() {
		newKey(b)
	}
}
