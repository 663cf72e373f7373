package config

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
)

// identity judges the chain and key that pushes are signed with: beyond fitting together the key has to be of a kind that
// message signatures have an algorithm for.
func (j judge) identity(cert, key string) {
	j.pair("identity", cert, key)
	if cert == "" || key == "" || j.d.bad["identity.cert"] || j.d.bad["identity.key"] {
		return
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return // the files have changed since they were judged; the start will tell
	}
	switch k := pair.PrivateKey.(type) {
	case *ecdsa.PrivateKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return
		}
	case *rsa.PrivateKey:
		if k.N.BitLen() >= 2048 {
			return
		}
	case ed25519.PrivateKey:
		return
	}
	j.refuse("identity.key", "must be ECDSA (P-256 or P-384), Ed25519, or RSA of at least 2048 bits")
}
