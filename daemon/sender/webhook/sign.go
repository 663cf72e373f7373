package webhook

import (
	"crypto/ed25519"
	"encoding/base64"
	"net/http"
	"net/url"
	"time"

	"herald/daemon/identity"
	"herald/queue"
	"herald/store"
)

// sign adds the signature by Herald's certificate (RFC 9421), and the digest it covers when there is content (RFC
// 9530). The URL and the other headers have to be what is sent.
func sign(c *identity.Credential, u *url.URL, h http.Header, method, id, stamp string, now time.Time, body []byte) *problem {
	m := identity.Message{
		Method: method, Target: u.Scheme + "://" + u.Host + u.RequestURI(), ID: id, Timestamp: stamp, Created: now,
	}
	var values [3]string
	v := values[:]
	if body != nil {
		v[0] = identity.Digest(body)
		m.Digest = v[0]
		h["Content-Digest"] = v[0:1:1]
	}
	var err error
	if v[1], v[2], err = c.Sign(&m); err != nil {
		return &problem{queue.ClassRetry, "this daemon could not sign the push with its certificate's key; its operator has to act"}
	}
	h["Signature-Input"], h["Signature"] = v[1:2:2], v[2:3:3]
	return nil
}

// appendAsymmetric appends the v1a signature of Standard Webhooks: Ed25519 over id.timestamp.body.
func appendAsymmetric(text []byte, s *store.SigningSecret, id, stamp string, body []byte) []byte {
	content := make([]byte, 0, len(id)+len(stamp)+len(body)+2)
	content = append(append(append(append(content, id...), '.'), stamp...), '.')
	content = append(content, body...)
	sig := ed25519.Sign(ed25519.NewKeyFromSeed(s.Key), content)
	return base64.StdEncoding.AppendEncode(append(text, "v1a,"...), sig)
}
