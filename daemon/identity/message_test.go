package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"math/big"
	"strings"
	"testing"
	"time"
)

// The vectors of RFC 9421, appendix B: its public keys, signature bases and signatures.
func TestVectorsOfTheRFC(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]struct{ algorithm, public, base, signature string }{
		"B.2.3": {
			RSAPSSSHA512, `MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAr4tmm3r20Wd/PbqvP1s2
+QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct+Lh1GH45x28Rw3Ry53mm+
oAXjyQ86OnDkZ5N8lYbggD4O3w6M6pAvLkhk95AndTrifbIFPNU8PPMO7OyrFAHq
gDsznjPFmTOtCEcN2Z1FpWgchwuYLPL+Wokqltd11nqqzi+bJ9cvSKADYdUAAN5W
Utzdpiy6LbTgSxP7ociU4Tn0g5I6aDZJ7A8Lzo0KSyZYoA485mqcO0GVAdVw9lq4
aOT9v6d+nb4bnNkQVklLQ3fVAvJm+xdDOp9LCNCN48V2pnDOkFV6+U9nV5oyc6XI
2wIDAQAB`,
			`"date": Tue, 20 Apr 2021 02:07:55 GMT
"@method": POST
"@path": /foo
"@query": ?param=Value&Pet=dog
"@authority": example.com
"content-type": application/json
"content-digest": sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:
"content-length": 18
"@signature-params": ("date" "@method" "@path" "@query" "@authority" "content-type" "content-digest" "content-length");created=1618884473;keyid="test-key-rsa-pss"`,
			`bbN8oArOxYoyylQQUU6QYwrTuaxLwjAC9fbY2F6SVWvh0yBiMIRGOnMYwZ/5MR6fb0Kh1rIRASVxFkeGt683+qRpRRU5p2voTp768ZrCUb38K0fUxN0O0iC59DzYx8DFll5GmydPxSmme9v6ULbMFkl+V5B1TP/yPViV7KsLNmvKiLJH1pFkh/aYA2HXXZzNBXmIkoQoLd7YfW91kE9o/CCoC1xMy7JA1ipwvKvfrs65ldmlu9bpG6A9BmzhuzF8Eim5f8ui9eH8LZH896+QIF61ka39VBrohr9iyMUJpvRX2Zbhl5ZJzSRxpJyoEZAFL2FUo5fTIztsDZKEgM4cUA==`,
		},
		"B.2.4": {
			ECDSAP256SHA256, `MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqIVYZVLCrPZHGHjP17CTW0/+D9Lf
w0EkjqF7xB4FivAxzic30tMM4GF+hR6Dxh71Z50VGGdldkkDXZCnTNnoXQ==`,
			`"@status": 200
"content-type": application/json
"content-digest": sha-512=:mEWXIS7MaLRuGgxOBdODa3xqM1XdEvxoYhvlCFJ41QJgJc4GTsPp29l5oGX69wWdXymyU0rjJuahq4l5aGgfLQ==:
"content-length": 23
"@signature-params": ("@status" "content-type" "content-digest" "content-length");created=1618884473;keyid="test-key-ecc-p256"`,
			`wNmSUAhwb5LxtOtOpNa6W5xj067m5hFrj0XQ4fvpaCLx0NKocgPquLgyahnzDnDAUy5eCdlYUEkLIj+32oiasw==`,
		},
		"B.2.6": {
			Ed25519, `MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=`,
			`"date": Tue, 20 Apr 2021 02:07:55 GMT
"@method": POST
"@path": /foo
"@authority": example.com
"content-type": application/json
"content-length": 18
"@signature-params": ("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"`,
			`wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==`,
		},
	} {
		public, err := x509.ParsePKIXPublicKey(decode(t, v.public))
		if err != nil {
			t.Fatal(err)
		}
		leaf, signature := &x509.Certificate{PublicKey: public}, decode(t, v.signature)
		if err := verify(leaf, v.algorithm, []byte(v.base), signature); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if verify(leaf, v.algorithm, []byte(v.base+" "), signature) == nil {
			t.Errorf("%s: the signature fits another text", name)
		}
		signature[len(signature)/2] ^= 1
		if verify(leaf, v.algorithm, []byte(v.base), signature) == nil {
			t.Errorf("%s: another signature fits", name)
		}
		if verify(leaf, ECDSAP384SHA384, []byte(v.base), signature) == nil {
			t.Errorf("%s: it fits another algorithm", name)
		}
	}
	// Ed25519 has one signature for a text: ours is theirs.
	key, err := x509.ParsePKCS8PrivateKey(decode(t, "MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF"))
	if err != nil {
		t.Fatal(err)
	}
	_, sign, err := method(key.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	got, err := sign([]byte("\"date\": Tue, 20 Apr 2021 02:07:55 GMT\n\"@method\": POST\n\"@path\": /foo\n\"@authority\": example.com\n\"content-type\": application/json\n" +
		"\"content-length\": 18\n\"@signature-params\": (\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \"content-length\");created=1618884473;keyid=\"test-key-ed25519\""))
	if want := "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="; err != nil || base64.StdEncoding.EncodeToString(got) != want {
		t.Errorf("signed %x, %v", got, err)
	}
}

func decode(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RFC 9530, appendix B.
func TestDigest(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		"{\"hello\": \"world\"}\n": "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:",
		"":                         "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
	} {
		if got := Digest([]byte(body)); got != want {
			t.Errorf("%q: %s, want %s", body, got, want)
		}
	}
}

// The text that is signed, letter for letter, in the form of RFC 9421, section 2.5.
func TestSignatureBase(t *testing.T) {
	t.Parallel()
	c := &Credential{KeyID: strings.Repeat("0f", 32), Algorithm: ECDSAP256SHA256}
	var signed []byte
	c.sign = func(text []byte) ([]byte, error) { signed = text; return []byte("abc"), nil }
	for _, v := range []struct {
		m           Message
		input, base string
	}{
		{
			Message{"POST", "https://example.com/a?b=c%20d", "sha-256=:eA==:", "evt_1", "1795339150", time.Unix(1795339150, 999)},
			`herald=("@method" "@target-uri" "content-digest" "webhook-id" "webhook-timestamp");created=1795339150;keyid="` + c.KeyID + `";alg="ecdsa-p256-sha256"`,
			`"@method": POST
"@target-uri": https://example.com/a?b=c%20d
"content-digest": sha-256=:eA==:
"webhook-id": evt_1
"webhook-timestamp": 1795339150
"@signature-params": ("@method" "@target-uri" "content-digest" "webhook-id" "webhook-timestamp");created=1795339150;keyid="` + c.KeyID + `";alg="ecdsa-p256-sha256"`,
		},
		{
			Message{"GET", "http://h/", "", "i", "1", time.Unix(1, 0)},
			`herald=("@method" "@target-uri" "webhook-id" "webhook-timestamp");created=1;keyid="` + c.KeyID + `";alg="ecdsa-p256-sha256"`,
			`"@method": GET
"@target-uri": http://h/
"webhook-id": i
"webhook-timestamp": 1
"@signature-params": ("@method" "@target-uri" "webhook-id" "webhook-timestamp");created=1;keyid="` + c.KeyID + `";alg="ecdsa-p256-sha256"`,
		},
	} {
		input, signature, err := c.Sign(&v.m)
		if err != nil || input != v.input || signature != "herald=:YWJj:" || string(signed) != v.base {
			t.Errorf("input %s\nsignature %s, %v\nbase\n%s", input, signature, err, signed)
		}
	}
}

// keys has one of each kind that can sign.
func keys(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	out := make(map[string]crypto.Signer)
	for algorithm, curve := range map[string]elliptic.Curve{ECDSAP256SHA256: elliptic.P256(), ECDSAP384SHA384: elliptic.P384()} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		out[algorithm] = k
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, e, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	out[RSAPSSSHA512], out[Ed25519] = r, e
	return out
}

func certificate(t testing.TB, key crypto.Signer, until time.Time) []byte {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestEveryKindOfKeySigns(t *testing.T) {
	t.Parallel()
	for algorithm, key := range keys(t) {
		c, err := newCredential(&tls.Certificate{Certificate: [][]byte{certificate(t, key, time.Now().Add(time.Hour))}, PrivateKey: key})
		if err != nil {
			t.Fatalf("%s: %v", algorithm, err)
		}
		if c.Algorithm != algorithm {
			t.Errorf("%s signs as %s", algorithm, c.Algorithm)
		}
		if sum := sha256.Sum256(c.TLS.Leaf.RawSubjectPublicKeyInfo); c.KeyID != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: the key id is %s", algorithm, c.KeyID)
		}
		m := &Message{"POST", "https://example.com/", "sha-256=:eA==:", "evt_1", "1795339150", time.Unix(1795339150, 0)}
		for range 50 { // short r and s come up once in 128
			_, signature, err := c.Sign(m)
			if err != nil {
				t.Fatal(err)
			}
			raw := decode(t, strings.TrimSuffix(strings.TrimPrefix(signature, "herald=:"), ":"))
			if err := verify(c.TLS.Leaf, algorithm, base(m, c.params(m)), raw); err != nil {
				t.Fatalf("%s: %v", algorithm, err)
			}
		}
	}
}

func TestKeysThatCannotSignAreRefused(t *testing.T) {
	t.Parallel()
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"short RSA": short, "P-521": p521} {
		if _, _, err := method(key); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	// A key of another certificate is found out by trying it.
	k := keys(t)
	if _, err := newCredential(&tls.Certificate{Certificate: [][]byte{certificate(t, k[Ed25519], time.Now().Add(time.Hour))}, PrivateKey: k[ECDSAP256SHA256]}); err == nil {
		t.Error("a key of another certificate is taken")
	}
}

func TestIntegersOfSignaturesArePadded(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signECDSA(key, make([]byte, 32), 8); err == nil {
		t.Error("numbers longer than their place are taken")
	}
	for _, n := range []*big.Int{big.NewInt(1), big.NewInt(0x80), new(big.Int).Lsh(big.NewInt(0xff), 376)} {
		der, err := asn1.Marshal(struct{ R, S *big.Int }{n, n})
		if err != nil {
			t.Fatal(err)
		}
		rest, ok := sequence(der)
		for range 2 {
			var got []byte
			if got, rest, ok = integer(rest, ok); !ok || new(big.Int).SetBytes(got).Cmp(n) != 0 || got[0] == 0 {
				t.Errorf("%v: read %x, %v", n, got, ok)
			}
		}
	}
	for _, bad := range []string{"", "\x30", "\x30\x02\x02", "\x30\x03\x02\x02\x01", "\x31\x03\x02\x01\x01", "\x30\x04\x02\x81\x01\x01"} {
		rest, ok := sequence([]byte(bad))
		if _, _, ok = integer(rest, ok); ok {
			t.Errorf("%x is taken", bad)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	for algorithm, key := range keys(b) {
		c, err := newCredential(&tls.Certificate{Certificate: [][]byte{certificate(b, key, time.Now().Add(time.Hour))}, PrivateKey: key})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(algorithm, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m := &Message{"POST", "https://example.com/", Digest(make([]byte, 500)), "evt_1", "1795339150", time.Unix(1795339150, 0)}
				if _, _, err := c.Sign(m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
