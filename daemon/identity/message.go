package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"time"
)

// The algorithms of the HTTP Signature Algorithms registry (RFC 9421, section 6.2.2) that a Credential may have.
const (
	ECDSAP256SHA256 = "ecdsa-p256-sha256"
	ECDSAP384SHA384 = "ecdsa-p384-sha384"
	RSAPSSSHA512    = "rsa-pss-sha512"
	Ed25519         = "ed25519"
)

// label names Herald's signature among those a message may carry.
const label = "herald"

// KeyID names the key of a certificate, see Credential.KeyID.
func KeyID(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

func publicID(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// Message is what of a request is signed.
type Message struct {
	// Method and Target are the request's: the method in upper case, the target as an absolute URI, as it is sent.
	Method, Target string
	// Digest is the value of Content-Digest; "" for a request without content, which does not sign one.
	Digest string
	// ID and Timestamp are the values of webhook-id and webhook-timestamp.
	ID, Timestamp string
	// Created is when the signature is made; it is told in whole seconds.
	Created time.Time
}

// Digest returns the value of Content-Digest for a body (RFC 9530, section 2): its SHA-256.
func Digest(body []byte) string {
	sum := sha256.Sum256(body)
	b := make([]byte, 0, len("sha-256=::")+44)
	b = append(b, "sha-256=:"...)
	b = base64.StdEncoding.AppendEncode(b, sum[:])
	return string(append(b, ':'))
}

// Sign returns the values of Signature-Input and Signature (RFC 9421, sections 4.1 and 4.2) for a message. An error says
// that the key failed, which is no fault of the message.
func (c *Credential) Sign(m *Message) (input, signature string, err error) {
	params := c.params(m)
	sig, err := c.sign(base(m, params))
	if err != nil {
		return "", "", fmt.Errorf("sign with %s: %w", c.Algorithm, err)
	}
	b := make([]byte, 0, len(label)+3+base64.StdEncoding.EncodedLen(len(sig)))
	b = append(b, label+"=:"...)
	b = base64.StdEncoding.AppendEncode(b, sig)
	return label + "=" + params, string(append(b, ':')), nil
}

// params is the value of @signature-params (RFC 9421, section 2.3): what is covered and how. Its texts need no escapes: they
// are made here or come from a registry.
func (c *Credential) params(m *Message) string {
	const covered, digest, rest = `("@method" "@target-uri"`, ` "content-digest"`, ` "webhook-id" "webhook-timestamp")`
	b := make([]byte, 0, 256)
	b = append(b, covered...)
	if m.Digest != "" {
		b = append(b, digest...)
	}
	b = append(append(b, rest...), ";created="...)
	b = strconv.AppendInt(b, m.Created.Unix(), 10)
	b = append(append(append(b, `;keyid="`...), c.KeyID...), `";alg="`...)
	return string(append(append(b, c.Algorithm...), '"'))
}

// base is the signature base (RFC 9421, section 2.5).
func base(m *Message, params string) []byte {
	b := make([]byte, 0, 160+len(m.Target)+len(m.Digest)+len(m.ID)+len(params))
	line := func(name, value string) {
		b = append(append(append(append(append(b, '"'), name...), `": `...), value...), '\n')
	}
	line("@method", m.Method)
	line("@target-uri", m.Target)
	if m.Digest != "" {
		line("content-digest", m.Digest)
	}
	line("webhook-id", m.ID)
	line("webhook-timestamp", m.Timestamp)
	return append(append(b, `"@signature-params": `...), params...)
}

// MinRSA is the smallest RSA key that is taken, in bits.
const MinRSA = 2048

// pss is RSASSA-PSS as RFC 9421, section 3.3.1 has it: SHA-512 with a salt as long as the hash.
func pss() *rsa.PSSOptions { return &rsa.PSSOptions{SaltLength: 64, Hash: crypto.SHA512} }

// method finds how a key signs (RFC 9421, section 3.3).
func method(key crypto.Signer) (algorithm string, sign func([]byte) ([]byte, error), err error) {
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		switch k.Curve {
		case elliptic.P256():
			return ECDSAP256SHA256, func(text []byte) ([]byte, error) {
				sum := sha256.Sum256(text)
				return signECDSA(k, sum[:], 32)
			}, nil
		case elliptic.P384():
			return ECDSAP384SHA384, func(text []byte) ([]byte, error) {
				sum := sha512.Sum384(text)
				return signECDSA(k, sum[:], 48)
			}, nil
		}
	case *rsa.PrivateKey:
		if k.N.BitLen() >= MinRSA {
			return RSAPSSSHA512, func(text []byte) ([]byte, error) {
				sum := sha512.Sum512(text)
				return rsa.SignPSS(rand.Reader, k, crypto.SHA512, sum[:], pss())
			}, nil
		}
	case ed25519.PrivateKey:
		return Ed25519, func(text []byte) ([]byte, error) { return ed25519.Sign(k, text), nil }, nil
	}
	return "", nil, errors.New("the private key must be ECDSA (P-256 or P-384), Ed25519, or RSA of at least " + strconv.Itoa(MinRSA) + " bits")
}

// signECDSA returns r and s, each of size bytes (RFC 9421, section 3.3.4).
func signECDSA(key *ecdsa.PrivateKey, sum []byte, size int) ([]byte, error) {
	der, err := ecdsa.SignASN1(rand.Reader, key, sum)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 2*size)
	rest, ok := sequence(der)
	for n := range 2 {
		var number []byte
		if number, rest, ok = integer(rest, ok); !ok || len(number) > size {
			return nil, errors.New("the signature is not in its form")
		}
		copy(out[(n+1)*size-len(number):], number)
	}
	return out, nil
}

// sequence returns what is in a DER SEQUENCE of less than 256 bytes.
func sequence(der []byte) ([]byte, bool) {
	if len(der) > 2 && der[0] == 0x30 && der[1] == 0x81 {
		der = der[1:]
	} else if len(der) < 2 || der[0] != 0x30 || der[1] >= 0x80 {
		return nil, false
	}
	return der[2:], len(der)-2 == int(der[1])
}

// integer takes a positive DER INTEGER off the front, without leading zeros.
func integer(der []byte, ok bool) (number, rest []byte, _ bool) {
	if !ok || len(der) < 2 || der[0] != 0x02 || der[1] >= 0x80 || len(der)-2 < int(der[1]) {
		return nil, nil, false
	}
	number, rest = der[2:2+der[1]], der[2+der[1]:]
	for len(number) > 0 && number[0] == 0 {
		number = number[1:]
	}
	return number, rest, true
}

// verify judges a signature by the certificate of the key that should have made it: nil says that it did. The text is the
// signature base.
func verify(leaf *x509.Certificate, algorithm string, text, signature []byte) error {
	wrong := errors.New("the signature is not that of the certificate's key")
	ok := false
	switch k := leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		size, sum := 32, sha256.New()
		if algorithm == ECDSAP384SHA384 {
			size, sum = 48, sha512.New384()
		}
		want := ECDSAP256SHA256
		if k.Curve == elliptic.P384() {
			want = ECDSAP384SHA384
		}
		if algorithm != want || len(signature) != 2*size {
			return wrong
		}
		sum.Write(text)
		r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
		ok = ecdsa.Verify(k, sum.Sum(nil), r, s)
	case *rsa.PublicKey:
		sum := sha512.Sum512(text)
		ok = algorithm == RSAPSSSHA512 && rsa.VerifyPSS(k, crypto.SHA512, sum[:], signature, pss()) == nil
	case ed25519.PublicKey:
		ok = algorithm == Ed25519 && ed25519.Verify(k, text, signature)
	}
	if !ok {
		return wrong
	}
	return nil
}
