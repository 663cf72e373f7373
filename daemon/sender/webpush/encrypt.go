package webpush

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxPayload is the longest payload, in bytes: push services take bodies of 4096 (RFC 8291, section 4), of which the header takes 86, the
// delimiter one, and the authentication tag 16.
const MaxPayload = 3993

const (
	// recordSize stands in the header. There is one record, which must be shorter.
	recordSize = 4096
	saltLength = 16
	keyLength  = 16
	tagLength  = 16
	// delimiter ends the plaintext of the last record; what follows is padding (RFC 8188, section 2).
	delimiter = 2
	// paddingStep hides the length of a payload from the push service, to a multiple of it.
	paddingStep = 128
	// smallPayload is what fits the 2744 bytes that reach Firefox on Android: padding must not lead beyond it.
	smallPayload = 2744 - (MaxBody - MaxPayload)
	// MaxBody is the length of the longest body, in bytes.
	MaxBody = 4096
)

// padded is the length to which a payload of n bytes is padded.
func padded(n int) int {
	limit := MaxPayload
	if n <= smallPayload {
		limit = smallPayload
	}
	return min((n+paddingStep-1)/paddingStep*paddingStep, limit)
}

// errBadKeys: the keys of a subscription are of no use.
var errBadKeys = errors.New("the keys of the subscription are not a P-256 point and 16 bytes")

// encrypt makes the body of a push: the payload, padded and encrypted for the subscription with those keys (RFC 8291). The key pair and
// the salt are made for this body alone. Keeping a key pair for many would save a quarter of the time, and would tie the pushes of
// one sender together.
func encrypt(payload, p256dh, auth []byte) ([]byte, error) {
	if len(auth) != saltLength {
		return nil, errBadKeys
	}
	browser, err := ecdh.P256().NewPublicKey(p256dh)
	if err != nil {
		return nil, errBadKeys
	}
	own, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key for the push: %w", err)
	}
	var salt [saltLength]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return nil, fmt.Errorf("make a salt for the push: %w", err)
	}
	ikm, err := keyingMaterial(own, browser, auth)
	if err != nil {
		return nil, err
	}
	return seal(ikm, salt[:], own.PublicKey().Bytes(), payload, padded(len(payload)))
}

// keyingMaterial combines the shared secret of the two keys with the subscription's authentication secret (RFC 8291, section 3.3).
func keyingMaterial(own *ecdh.PrivateKey, browser *ecdh.PublicKey, auth []byte) ([]byte, error) {
	secret, err := own.ECDH(browser)
	if err != nil {
		return nil, errBadKeys
	}
	info := make([]byte, 0, 14+65+65)
	info = append(info, "WebPush: info\x00"...)
	info = append(info, browser.Bytes()...)
	info = append(info, own.PublicKey().Bytes()...)
	ikm, err := hkdf.Key(sha256.New, secret, auth, string(info), sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive the keying material: %w", err)
	}
	return ikm, nil
}

// contentKeys derives the key and the nonce of the first record (RFC 8188, sections 2.2 and 2.3).
func contentKeys(ikm, salt []byte) (key, nonce []byte, err error) {
	prk, err := hkdf.Extract(sha256.New, ikm, salt)
	if err != nil {
		return nil, nil, fmt.Errorf("derive the key: %w", err)
	}
	if key, err = hkdf.Expand(sha256.New, prk, "Content-Encoding: aes128gcm\x00", keyLength); err != nil {
		return nil, nil, fmt.Errorf("derive the key: %w", err)
	}
	if nonce, err = hkdf.Expand(sha256.New, prk, "Content-Encoding: nonce\x00", 12); err != nil {
		return nil, nil, fmt.Errorf("derive the nonce: %w", err)
	}
	return key, nonce, nil
}

// seal writes the header and one record, in which the payload is padded to the length given (RFC 8188, section 2).
func seal(ikm, salt, keyID, payload []byte, length int) ([]byte, error) {
	key, nonce, err := contentKeys(ikm, salt)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("encrypt the payload: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("encrypt the payload: %w", err)
	}
	head := saltLength + 4 + 1 + len(keyID)
	body := make([]byte, head, head+length+1+tagLength)
	copy(body, salt)
	binary.BigEndian.PutUint32(body[saltLength:], recordSize)
	body[saltLength+4] = byte(len(keyID))
	copy(body[saltLength+5:], keyID)
	// The record is encrypted where it stands. The padding is the zeros that make left.
	record := body[head : head+length+1]
	record[copy(record, payload)] = delimiter
	return aead.Seal(body[:head], nonce, record, nil), nil
}
