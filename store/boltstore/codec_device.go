package boltstore

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"herald/store"
)

// implementationID is what an implementation is called in the whole file: account, NUL, id. Neither can hold a NUL.
func implementationID(accountID, id string) []byte {
	b := make([]byte, 0, len(accountID)+1+len(id))
	b = append(b, accountID...)
	b = append(b, 0)
	return append(b, id...)
}

func implementationPlace(accountID, id string, clear []byte) place {
	return place{bucket: string(bucketImplementation), id: implementationID(accountID, id), field: secretsField, clear: clear}
}

func encodeImplementation(sl *sealer, i *store.Implementation) []byte {
	return sl.sealValue(recordVersion, implementationPlace(i.AccountID, i.ID, implementationClear(i)), implementationSecrets(i))
}

func implementationClear(i *store.Implementation) []byte {
	b := make([]byte, 0, 512)
	b = append(b, i.UID[:]...)
	b = binary.BigEndian.AppendUint32(b, i.Number)
	b = appendText(b, i.Name)
	b = appendTime(b, i.CreatedAt)
	b = appendTime(b, i.UpdatedAt)
	for _, f := range []*store.FCM{i.Android, i.IOSFCM, i.WebFCM} {
		b = appendBool(b, f != nil)
		if f != nil {
			b = appendText(b, f.ProjectID)
			b = appendText(b, f.ClientEmail)
			b = appendText(b, f.TokenURI)
			b = appendText(b, f.KeyID)
		}
	}
	b = appendText(b, string(i.IOSProvider))
	b = appendBool(b, i.APNs != nil)
	if a := i.APNs; a != nil {
		b = appendText(b, a.KeyID)
		b = appendText(b, a.TeamID)
		b = appendText(b, a.Chain)
		b = appendText(b, a.Topic)
		b = appendBool(b, a.Sandbox)
	}
	b = appendBool(b, i.Web)
	b = appendBool(b, i.VAPID != nil)
	if v := i.VAPID; v != nil {
		b = appendBytes(b, v.PublicKey)
		b = appendText(b, v.Subject)
	}
	b = binary.AppendUvarint(b, uint64(len(i.StatusOrigins)))
	for _, origin := range i.StatusOrigins {
		b = appendText(b, origin)
	}
	return b
}

func implementationSecrets(i *store.Implementation) []byte {
	b := make([]byte, 0, 2048)
	for _, f := range []*store.FCM{i.Android, i.IOSFCM, i.WebFCM} {
		if f != nil {
			b = appendBytes(b, f.PrivateKey)
		}
	}
	if i.APNs != nil {
		b = appendBytes(b, i.APNs.Key)
		b = appendBytes(b, i.APNs.CertificateKey)
	}
	if i.VAPID != nil {
		b = appendBytes(b, i.VAPID.PrivateKey)
	}
	return appendBytes(b, i.StatusSecret)
}

// decodeImplementationClear reads the part that is not encrypted: enough to know its number and its lanes.
func decodeImplementationClear(accountID string, key, value []byte) (*store.Implementation, error) {
	p, err := splitValue("implementation", recordVersion, 0, key, value)
	if err != nil {
		return nil, err
	}
	r := reader{b: p.clear}
	i := &store.Implementation{AccountID: accountID, ID: string(key)}
	copy(i.UID[:], r.view(uint64(len(i.UID))))
	i.Number = r.uint32()
	i.Name = r.text()
	i.CreatedAt = r.time()
	i.UpdatedAt = r.time()
	for _, f := range []**store.FCM{&i.Android, &i.IOSFCM, &i.WebFCM} {
		if r.bool() {
			*f = &store.FCM{ProjectID: r.text(), ClientEmail: r.text(), TokenURI: r.text(), KeyID: r.text()}
		}
	}
	i.IOSProvider = store.Provider(r.text())
	if r.bool() {
		i.APNs = &store.APNs{KeyID: r.text(), TeamID: r.text(), Chain: r.text(), Topic: r.text(), Sandbox: r.bool()}
	}
	i.Web = r.bool()
	if r.bool() {
		i.VAPID = &store.VAPID{PublicKey: r.bytes(), Subject: r.text()}
	}
	if n := r.count(); n > 0 {
		i.StatusOrigins = make([]string, n)
		for k := range i.StatusOrigins {
			i.StatusOrigins[k] = r.text()
		}
	}
	if err := r.end(); err != nil {
		return nil, decodeError("implementation", key, err)
	}
	return i, nil
}

func decodeImplementation(sl *sealer, accountID string, key, value []byte) (*store.Implementation, error) {
	i, err := decodeImplementationClear(accountID, key, value)
	if err != nil {
		return nil, err
	}
	p, err := splitValue("implementation", recordVersion, 0, key, value)
	if err != nil {
		return nil, err
	}
	text, err := sl.open(implementationPlace(accountID, i.ID, p.clear), p.sealed)
	if err == nil {
		err = decodeImplementationSecrets(i, text)
	}
	if err != nil {
		return nil, decodeError("implementation", key, err)
	}
	return i, nil
}

func decodeImplementationSecrets(i *store.Implementation, text []byte) error {
	r := reader{b: text}
	for _, f := range []*store.FCM{i.Android, i.IOSFCM, i.WebFCM} {
		if f != nil {
			f.PrivateKey = r.bytes()
		}
	}
	if i.APNs != nil {
		i.APNs.Key = r.bytes()
		i.APNs.CertificateKey = r.bytes()
	}
	if i.VAPID != nil {
		i.VAPID.PrivateKey = r.bytes()
	}
	i.StatusSecret = r.bytes()
	return r.end()
}

// tokenKey is the key of bucket device_token.
type tokenKey [16]byte

// deviceTokenKey hashes a token, so that its key says nothing of it and has one length. 16 bytes are enough: whoever wanted two
// tokens of the same key would have to try 2^64 of them, and would only disturb an implementation of their own.
func deviceTokenKey(number uint32, p store.Platform, token string) tokenKey {
	b := make([]byte, 0, 256)
	b = binary.BigEndian.AppendUint32(b, number)
	b = append(b, p...)
	b = append(b, 0)
	sum := sha256.Sum256(append(b, token...))
	return tokenKey(sum[:16])
}

// numberOf is the number of the implementation in a device's id.
func numberOf(id store.DeviceID) uint32 { return binary.BigEndian.Uint32(id[:4]) }

// contactPrefix begins the keys of a contact's devices in bucket device_contact; the device's id follows.
func contactPrefix(accountID, contact string) []byte {
	b := make([]byte, 0, len(accountID)+len(contact)+2+16)
	b = append(b, accountID...)
	b = append(b, 0)
	b = append(b, contact...)
	return append(b, 0)
}

func contactKey(accountID, contact string, id store.DeviceID) []byte {
	return append(contactPrefix(accountID, contact), id[:]...)
}

func devicePlace(id, clear []byte) place {
	return place{bucket: string(bucketDevice), id: id, field: secretsField, clear: clear}
}

func encodeDevice(sl *sealer, d *store.Device) []byte {
	return sl.sealValue(recordVersion, devicePlace(d.ID[:], deviceClear(d)), deviceSecrets(d))
}

// deviceClear holds the key of bucket device_token, so that a device can be removed without decrypting its token. The account and
// the implementation are known by the number in the id.
func deviceClear(d *store.Device) []byte {
	key := deviceTokenKey(numberOf(d.ID), d.Platform, d.Token)
	b := make([]byte, 0, 128)
	b = append(b, key[:]...)
	b = appendText(b, d.Contact)
	b = appendText(b, string(d.Platform))
	b = appendText(b, string(d.Kind))
	b = appendText(b, d.Locale)
	b = appendText(b, d.AppVersion)
	b = appendTime(b, d.RegisteredAt)
	b = appendTime(b, d.LastSeenAt)
	b = appendBool(b, d.Proven)
	b = appendBool(b, d.OtherEnvironment)
	return appendTime(b, d.RestUntil)
}

func deviceSecrets(d *store.Device) []byte {
	b := make([]byte, 0, 256)
	b = appendText(b, d.Token)
	b = appendBytes(b, d.P256DH)
	return appendBytes(b, d.Auth)
}

// decodeDeviceClear reads the part that is not encrypted.
func decodeDeviceClear(key, value []byte) (store.Device, tokenKey, error) {
	p, err := splitValue("device", recordVersion, len(store.DeviceID{}), key, value)
	if err != nil {
		return store.Device{}, tokenKey{}, err
	}
	r := reader{b: p.clear}
	d := store.Device{ID: store.DeviceID(key)}
	var token tokenKey
	copy(token[:], r.view(uint64(len(token))))
	d.Contact = r.text()
	d.Platform = store.Platform(r.text())
	d.Kind = store.TokenKind(r.text())
	d.Locale = r.text()
	d.AppVersion = r.text()
	d.RegisteredAt = r.time()
	d.LastSeenAt = r.time()
	d.Proven = r.bool()
	d.OtherEnvironment = r.bool()
	d.RestUntil = r.time()
	if err := r.end(); err != nil {
		return store.Device{}, tokenKey{}, decodeError("device", key, err)
	}
	return d, token, nil
}

// decodeDevice reads a whole device of that account and implementation, its token included.
func decodeDevice(sl *sealer, accountID, implementation string, key, value []byte) (store.Device, error) {
	d, token, err := decodeDeviceClear(key, value)
	if err != nil {
		return store.Device{}, err
	}
	p, err := splitValue("device", recordVersion, len(d.ID), key, value)
	if err != nil {
		return store.Device{}, err
	}
	text, err := sl.open(devicePlace(key, p.clear), p.sealed)
	if err == nil {
		err = decodeDeviceSecrets(&d, text)
	}
	if err == nil && deviceTokenKey(numberOf(d.ID), d.Platform, d.Token) != token {
		err = fmt.Errorf("value is damaged: its token is another one")
	}
	if err != nil {
		return store.Device{}, fmt.Errorf("read device %s: %w", d.ID, err)
	}
	d.AccountID, d.ImplementationID = accountID, implementation
	return d, nil
}

func decodeDeviceSecrets(d *store.Device, text []byte) error {
	r := reader{b: text}
	d.Token = r.text()
	d.P256DH = r.bytes()
	d.Auth = r.bytes()
	return r.end()
}
