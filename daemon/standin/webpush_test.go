package standin

import (
	"bytes"
	"crypto/ecdh"
	"encoding/base64"
	"slices"
	"testing"
)

func webpushDecoded(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RFC 8188, sections 3.1 and 3.2.
func TestWebPushReadsTheRecordsOfRFC8188(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ikm, keyID, body string
		want             webpushContent
	}{
		{
			"yqdlZ-tYemfogSmv7Ws5PQ", "", "I1BsxtFttlv3u_Oo94xnmwAAEAAA-NAVub2qFgBEuQKRapoZu-IxkIva3MEB1PD-ly8Thjg",
			webpushContent{records: 1, recordSize: 4096},
		},
		{
			"BO3ZVPxUlnLORbVGMpbT1Q", "a1", "uNCkWiNYzKTnBN9ji3-qWAAAABkCYTHOG8chz_gnvgOqdGYovxyjuqRyJFjEDyoF1Fvkj6hQPdPHI51OEUKEpgz3SsLWIqS_uA",
			webpushContent{records: 2, recordSize: 25, padding: 1},
		},
	} {
		body := webpushDecoded(t, c.body)
		open := func(body []byte) (webpushContent, error) {
			return webpushOpen(body, func(id []byte) ([]byte, error) {
				if string(id) != c.keyID {
					t.Errorf("the key id is %q, want %q", id, c.keyID)
				}
				return webpushDecoded(t, c.ikm), nil
			})
		}
		got, err := open(body)
		if err != nil || string(got.text) != "I am the walrus" || got.records != c.want.records || got.padding != c.want.padding || got.recordSize != c.want.recordSize {
			t.Errorf("%+v, %v", got, err)
		}
		for n := range 21 + len(c.keyID) {
			if _, err := webpushOpen(body[:n], func([]byte) ([]byte, error) { return nil, nil }); err == nil {
				t.Errorf("%d bytes were read", n)
			}
		}
		for n := 21 + len(c.keyID); n < len(body); n++ {
			if _, err := open(body[:n]); err == nil {
				t.Errorf("%d bytes were read", n)
			}
			if _, err := open(append(slices.Clone(body[:n]), append([]byte{body[n] ^ 1}, body[n+1:]...)...)); err == nil {
				t.Errorf("a wrong byte at %d was not noticed", n)
			}
		}
	}
}

// rfc8291 is the browser and the body of RFC 8291, section 5.
func rfc8291(t testing.TB) (*webpushBrowser, []byte) {
	t.Helper()
	key, err := ecdh.P256().NewPrivateKey(webpushDecoded(t, "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"))
	if err != nil {
		t.Fatal(err)
	}
	return &webpushBrowser{key: key, auth: [16]byte(webpushDecoded(t, "BTBZMqHH6r4Tts7J_aSIgg"))},
		webpushDecoded(t, "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_"+
			"yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN")
}

func TestWebPushReadsTheBodyOfRFC8291(t *testing.T) {
	t.Parallel()
	b, body := rfc8291(t)
	text, padding, err := webpushDecrypt(b, body)
	if err != nil || string(text) != "When I grow up, I want to be a watermelon" || padding != 0 {
		t.Errorf("%q, %d, %v", text, padding, err)
	}
	other := &webpushBrowser{key: b.key}
	if _, _, err := webpushDecrypt(other, body); err == nil {
		t.Error("another authentication secret reads it")
	}
	if _, _, err := webpushDecrypt(b, append(bytes.Clone(body), 0)); err == nil {
		t.Error("a byte more was not noticed")
	}
}

// FuzzWebPushDecrypt holds that no body brings the stand-in down, and that none but the right one is read.
func FuzzWebPushDecrypt(f *testing.F) {
	b, body := rfc8291(f)
	f.Add(body)
	f.Add(body[:86])
	f.Add(slices.Concat(body[:16], []byte{0, 0, 0, 18}, body[20:]))
	f.Fuzz(func(t *testing.T, got []byte) {
		if text, _, err := webpushDecrypt(b, got); err == nil && !bytes.Equal(got, body) {
			t.Fatalf("%x is read as %q", got, text)
		}
	})
}
