package standin

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// webpushDecrypt is the browser: it reads the payload of a body that was encrypted for it (RFC 8291), and says how long its padding was. It shares no code with who encrypts.
func webpushDecrypt(b *webpushBrowser, body []byte) (payload []byte, padding int, err error) {
	c, err := webpushOpen(body, func(keyID []byte) ([]byte, error) {
		sender, err := ecdh.P256().NewPublicKey(keyID)
		if err != nil {
			return nil, errors.New("the key in the body is no point on P-256")
		}
		secret, err := b.key.ECDH(sender)
		if err != nil {
			return nil, errors.New("the key in the body cannot be used")
		}
		info := bytes.Join([][]byte{[]byte("WebPush: info\x00"), b.key.PublicKey().Bytes(), keyID, {1}}, nil)
		return webpushMAC(webpushMAC(b.auth[:], secret), info), nil
	})
	switch {
	case err != nil:
		return nil, 0, err
	case c.records != 1: // RFC 8291, section 4
		return nil, 0, fmt.Errorf("the body has %d records, not one", c.records)
	case c.recordSize != 4096: // which all services and browsers take
		return nil, 0, fmt.Errorf("the record size is %d, not 4096", c.recordSize)
	}
	return c.text, c.padding, nil
}

// webpushContent is a decrypted body.
type webpushContent struct {
	text                         []byte
	records, padding, recordSize int
}

// webpushOpen reads a body of the content coding aes128gcm (RFC 8188). ikm returns the keying material for the key id in its header.
func webpushOpen(body []byte, ikm func(keyID []byte) ([]byte, error)) (c webpushContent, err error) {
	if len(body) < 21 || len(body) < 21+int(body[20]) {
		return c, errors.New("the body is shorter than its header")
	}
	salt, size, keyID, rest := body[:16], int(binary.BigEndian.Uint32(body[16:20])), body[21:21+int(body[20])], body[21+int(body[20]):]
	c.recordSize = size
	if size < 18 {
		return c, fmt.Errorf("the record size is %d, less than 18", size)
	}
	material, err := ikm(keyID)
	if err != nil {
		return c, err
	}
	prk := webpushMAC(salt, material)
	block, err := aes.NewCipher(webpushMAC(prk, []byte("Content-Encoding: aes128gcm\x00\x01"))[:16])
	if err != nil {
		return c, fmt.Errorf("decrypt: %w", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return c, fmt.Errorf("decrypt: %w", err)
	}
	base := webpushMAC(prk, []byte("Content-Encoding: nonce\x00\x01"))[:12]
	c.text = []byte{}
	for last := false; !last; c.records++ {
		record := rest[:min(size, len(rest))]
		rest = rest[len(record):]
		last = len(rest) == 0
		nonce := bytes.Clone(base) // xor the number of the record, RFC 8188, section 2.3
		binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^uint64(c.records))
		plain, err := gcm.Open(nil, nonce, record, nil)
		if err != nil {
			return c, fmt.Errorf("record %d cannot be decrypted", c.records)
		}
		text := bytes.TrimRight(plain, "\x00")
		if len(text) == 0 {
			return c, fmt.Errorf("record %d has no delimiter", c.records)
		}
		want := byte(1)
		if last {
			want = 2
		}
		if d := text[len(text)-1]; d != want {
			return c, fmt.Errorf("record %d of which the last is %v has the delimiter %d", c.records, last, d)
		}
		c.padding += len(plain) - len(text)
		c.text = append(c.text, text[:len(text)-1]...)
	}
	return c, nil
}

// webpushMAC is both steps of HKDF (RFC 5869) as far as web push needs them: extract, and the first block of expand when text ends with 1.
func webpushMAC(key, text []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(text)
	return m.Sum(nil)
}
