package api

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net/url"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"software.sslmate.com/src/go-pkcs12"

	"herald/store"
)

// ownCertificateView is a subscription's own client certificate as a read shows it.
type ownCertificateView struct {
	PKCS12Set bool      `json:"pkcs12Set"`
	Subject   string    `json:"subject"`
	NotAfter  time.Time `json:"notAfter"`
}

// viewClientCertificate is true, the view of the subscription's own, or nil for none.
func viewClientCertificate(c *store.ClientCertificate) any {
	if c.Identity {
		return true
	}
	if c.Chain == "" {
		return nil
	}
	v := ownCertificateView{PKCS12Set: true}
	if b, _ := pem.Decode([]byte(c.Chain)); b != nil {
		if leaf, err := x509.ParseCertificate(b.Bytes); err == nil {
			v.Subject, v.NotAfter = leaf.Subject.String(), leaf.NotAfter.UTC()
		}
	}
	return v
}

func sameCertificate(a, b *store.ClientCertificate) bool {
	return a.Identity == b.Identity && a.Chain == b.Chain && bytes.Equal(a.Key, b.Key)
}

const (
	// maxPKCS12 bounds the text of a PKCS #12 file, which a few certificates and a key fill to a tenth.
	maxPKCS12 = 64 << 10
	// maxDerivation bounds the rounds of deriving keys from the password, all of a file together, in what of it can be read
	// without them. It is about a second's work; common files have some thousands.
	maxDerivation = 2_000_000
	// maxChain bounds the certificates of a chain.
	maxChain = 10
)

// clientCertificate reads what the TLS handshake of a push presents: true for Herald's own chain, an object for a PKCS #12
// file, false or null for nothing.
func (p *subscriptionInput) clientCertificate() {
	const name = "clientCertificate"
	n, is := p.get(name, `true, false or an object such as {"pkcs12":"…","password":"…"}`,
		jsontext.KindTrue, jsontext.KindFalse, jsontext.KindBeginObject)
	switch {
	case is == null || is == given && n.kind == jsontext.KindFalse:
		p.next.ClientCertificate = store.ClientCertificate{}
	case is == given && n.kind == jsontext.KindTrue:
		p.next.ClientCertificate = store.ClientCertificate{Identity: true}
	case is == given:
		p.ownCertificate(n)
	}
	if c := &p.next.ClientCertificate; c.Identity || c.Chain != "" {
		if u, err := url.Parse(p.next.DataCallbackURL); err == nil && u.Scheme == "http" {
			p.fault(name, "needs a dataCallbackURL that begins with https://: there is no TLS handshake without")
		}
	}
}

// ownCertificate reads the object form. What a read shows may be sent back and changes nothing.
func (p *subscriptionInput) ownCertificate(n *node) {
	f := object(n, "/clientCertificate", p.faults)
	before := p.next.ClientCertificate
	text, is := f.text("pkcs12")
	password, passwordIs := f.text("password")
	if v, shown := f.boolean("pkcs12Set"); shown == given && v != (before.Chain != "" || is == given) {
		f.fault("pkcs12Set", "is only shown and cannot be changed; send pkcs12 itself")
	}
	f.ignore("subject", "notAfter")
	defer f.end("")
	switch {
	case is == wrong, passwordIs == wrong:
		return
	case is == absent && before.Chain != "":
		if passwordIs == given {
			f.fault("password", "goes with pkcs12: the password of the one that is set is not needed any more")
		}
		return
	case is != given:
		f.fault("pkcs12", "is needed: a PKCS #12 file in base64; \"clientCertificate\": null removes the one that is set")
		return
	}
	made, refusal := n.decodedOnce(p.decode, text, password)
	if made == nil {
		p.refusal = refusal
		return
	}
	if made.fault != "" {
		f.fault(made.field, "%s", made.fault)
		return
	}
	p.next.ClientCertificate = made.certificate
}

// decoded is a PKCS #12 file as read, or what is wrong with it and which field is to blame.
type decoded struct {
	certificate  store.ClientCertificate
	field, fault string
}

// decodedOnce returns the PKCS #12 file in the value, or why it cannot be read now. A change reads the body twice, the second time within the step
// of the store, which must not be kept waiting: then decode is nil, and what was made at the first reading is there.
func (n *node) decodedOnce(decode func(text, password string) (*decoded, *problem), text, password string) (made *decoded, refusal *problem) {
	made, _ = n.costly.(*decoded)
	if made == nil && decode != nil {
		made, refusal = decode(text, password)
		n.costly = made
	}
	return made, refusal
}

// decodingPatience is how long a file waits for those before it.
const decodingPatience = 5 * time.Second

// decoder returns decodePKCS12 for a request. One file at a time may cost the processor: what a file hides in its encrypted
// part cannot be judged beforehand.
func (a *API) decoder(ctx context.Context) func(text, password string) (*decoded, *problem) {
	return func(text, password string) (*decoded, *problem) {
		patience := time.NewTimer(decodingPatience)
		defer patience.Stop()
		select {
		case a.decoding <- struct{}{}:
			defer func() { <-a.decoding }()
			return decodePKCS12(text, password, a.now()), nil
		case <-patience.C:
		case <-ctx.Done():
		}
		return nil, newProblem(unavailable, "another PKCS #12 file is being read, and takes long; try again").with("Retry-After", "5")
	}
}

// decodePKCS12 reads a file (RFC 7292) in its old forms (RC2, triple DES) and the modern one (PBES2 with AES).
func decodePKCS12(text, password string, now time.Time) *decoded {
	wrong := func(detail string) *decoded { return &decoded{field: "pkcs12", fault: detail} }
	if len(text) > maxPKCS12 {
		return wrong("must have at most 64 KiB")
	}
	if len(password) > maxSecretText {
		return &decoded{field: "password", fault: "must have at most 4096 bytes"}
	}
	file, err := base64.StdEncoding.DecodeString(text) // line ends are skipped, which base64(1) makes
	if err != nil || len(file) == 0 {
		return wrong("must be a PKCS #12 file (.p12, .pfx) in base64")
	}
	rounds, ok := derivation(file)
	if !ok {
		return wrong("must be a PKCS #12 file (.p12, .pfx) with one private key and its certificate; this is not one, or it is damaged")
	}
	if rounds > maxDerivation {
		return wrong("asks for too many rounds to derive its keys from the password; export it again with at most 600000 iterations")
	}
	key, leaf, others, err := pkcs12.DecodeChain(file, password)
	_, unknown := errors.AsType[pkcs12.NotImplementedError](err)
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword), errors.Is(err, pkcs12.ErrDecryption):
		return &decoded{field: "password", fault: "does not open the PKCS #12 file"}
	case unknown:
		return wrong("is encrypted or built in a way that is not supported; export it again with AES-256 and one key, as openssl pkcs12 -export does")
	case err != nil:
		return wrong("must be a PKCS #12 file (.p12, .pfx) with one private key and its certificate; this is not one, or it is damaged")
	}
	return certificateOf(key, leaf, others, now)
}

// certificateOf judges what was in a file.
func certificateOf(key any, leaf *x509.Certificate, others []*x509.Certificate, now time.Time) *decoded {
	wrong := func(detail string) *decoded { return &decoded{field: "pkcs12", fault: detail} }
	signer, ok := key.(crypto.Signer)
	if ok {
		switch k := key.(type) {
		case *ecdsa.PrivateKey, ed25519.PrivateKey:
		case *rsa.PrivateKey:
			ok = k.N.BitLen() >= 2048
		default:
			ok = false
		}
	}
	if !ok {
		return wrong("must have a private key that is ECDSA, Ed25519, or RSA of at least 2048 bits")
	}
	// Some files have the certificates in another order.
	all := append([]*x509.Certificate{leaf}, others...)
	public, _ := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	at := slices.IndexFunc(all, func(c *x509.Certificate) bool { return public != nil && public.Equal(c.PublicKey) })
	switch {
	case at < 0:
		return wrong("must have the certificate of its private key; the one it has is of another")
	case now.After(all[at].NotAfter):
		return wrong("has a certificate that expired at " + all[at].NotAfter.UTC().Format(time.RFC3339))
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return wrong("has a private key that cannot be stored")
	}
	var chain bytes.Buffer
	for _, c := range path(all, at) {
		// A write to a buffer does not fail, and the block has no headers to be refused.
		_ = pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return &decoded{certificate: store.ClientCertificate{Chain: chain.String(), Key: der}}
}

// path orders certificates from the one given to the last issuer that is there; what does not belong to it is left out.
func path(all []*x509.Certificate, at int) []*x509.Certificate {
	chain := []*x509.Certificate{all[at]}
	for len(chain) < maxChain {
		last := chain[len(chain)-1]
		n := slices.IndexFunc(all, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, last.RawIssuer) && !slices.Contains(chain, c) && last.CheckSignatureFrom(c) == nil
		})
		if n < 0 {
			break
		}
		chain = append(chain, all[n])
	}
	return chain
}

// derivation adds up the rounds of deriving keys that a PKCS #12 file asks for where that can be seen without its password: for
// its seal, and for each part encrypted by PBE (RFC 7292, appendix C) or PBKDF2 (RFC 8018, appendix A.2). It is false
// for what is no such file.
func derivation(file []byte) (rounds int64, ok bool) {
	var pfx struct {
		Version int
		Safe    asn1.RawValue
		Seal    struct {
			Mac    asn1.RawValue
			Salt   []byte
			Rounds int64 `asn1:"optional,default:1"`
		} `asn1:"optional"`
	}
	if rest, err := asn1.Unmarshal(file, &pfx); err != nil || len(rest) > 0 {
		return 0, false
	}
	rounds = max(pfx.Seal.Rounds, 0)
	for _, part := range []asn1.RawValue{pfx.Safe, pfx.Seal.Mac} {
		rounds += seen(part.FullBytes, 0)
	}
	return rounds, true
}

// maxNesting bounds how deep a file is looked into; those that programs make have about fifteen levels.
const maxNesting = 40

// seen adds up the rounds of all parameters in a row of DER values, also in the octet strings that hold DER. More than
// maxDerivation need not be exact.
func seen(der []byte, depth int) (rounds int64) {
	for len(der) > 0 && rounds <= maxDerivation {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(der, &v)
		if err != nil {
			return rounds
		}
		der = rest
		switch {
		case depth > maxNesting:
			return maxDerivation + 1
		case v.IsCompound:
			var a struct {
				Algorithm  asn1.ObjectIdentifier
				Parameters struct {
					Salt   asn1.RawValue
					Rounds int64
					Length asn1.RawValue `asn1:"optional"`
					PRF    asn1.RawValue `asn1:"optional"`
				}
			}
			if _, err := asn1.Unmarshal(v.FullBytes, &a); err == nil {
				rounds += max(a.Parameters.Rounds, 0)
			}
			rounds += seen(v.Bytes, depth+1)
		case v.Class == asn1.ClassUniversal && v.Tag == asn1.TagOctetString:
			rounds += seen(v.Bytes, depth+1)
		}
	}
	return rounds
}
