package boltstore

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"

	"herald/store/boltkit"
)

// nonceSize is the size of the random nonce before each sealed field. 96 random bits are safe for
// 2^32 fields under one key (NIST SP 800-38D section 8.3), far more than a store ever writes.
const nonceSize = 12

// errSealed: a sealed field was changed, belongs to another record, or was sealed with another key.
var errSealed = fmt.Errorf("%w: a secret does not decrypt: it was changed, moved to another record, or encrypted with another key", boltkit.ErrDamaged)

// sealer encrypts fields of records with AES-256-GCM. It is safe for concurrent use.
type sealer struct{ aead cipher.AEAD }

func newSealer(k Key) (*sealer, error) {
	block, err := aes.NewCipher(k.bytes[:])
	if err != nil {
		return nil, fmt.Errorf("set up the cipher: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("set up the cipher: %w", err)
	}
	return &sealer{aead}, nil
}

// place says where a sealed field belongs. All of it is authenticated, so that a field does not
// decrypt in another bucket, record or member, or beside another clear part than it was written with.
type place struct {
	bucket, field string
	id            []byte
	clear         []byte // the part of the record that is not encrypted
}

// additional is the associated data of a place. Each part but the last is preceded by its length, so
// that no two places have the same.
func (p place) additional() []byte {
	b := make([]byte, 0, 16+len(p.bucket)+len(p.id)+len(p.field)+len(p.clear))
	b = appendText(b, p.bucket)
	b = appendBytes(b, p.id)
	b = appendText(b, p.field)
	return append(b, p.clear...)
}

// seal appends the nonce and the sealed text to dst.
func (s *sealer) seal(dst []byte, p place, text []byte) []byte {
	var nonce [nonceSize]byte
	_, _ = rand.Read(nonce[:]) // never fails, see NewKey
	dst = append(dst, nonce[:]...)
	return s.aead.Seal(dst, nonce[:], text, p.additional())
}

// open returns the text of a sealed field, or errSealed.
func (s *sealer) open(p place, sealed []byte) ([]byte, error) {
	if len(sealed) < nonceSize+s.aead.Overhead() {
		return nil, errSealed
	}
	text, err := s.aead.Open(nil, sealed[:nonceSize], sealed[nonceSize:], p.additional())
	if err != nil {
		return nil, errSealed
	}
	return text, nil
}
