package boltstore

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"herald/store"
	"herald/store/boltkit"
)

// The first byte of every value is the version of its kind. It grows when members are added, and a value
// of a newer version is refused: taking it apart by the old rules and writing it back would lose what the
// newer Herald put there. Older values are read as long as there may be any, and written anew as they change.
const (
	// recordVersion is that of accounts, tokens, resources, deleted accounts, implementations and devices.
	recordVersion = 1
	// subscriptionVersion is that of subscriptions. Version 1 ended before the delivery policy's second half, version 2 before the
	// permission of CloudEvents, version 3 before the role.
	subscriptionVersion = 4
)

// version takes the version byte off a value, which is at most the newest given.
func (r *reader) version(newest byte) byte {
	if r.err != nil {
		return 0
	}
	v := r.byte()
	switch {
	case r.err != nil:
		return 0
	case v > newest:
		r.err = fmt.Errorf("%w: a value has version %d, this Herald knows up to %d", ErrNewer, v, newest)
		r.b = nil
	case v == 0:
		r.fail()
	}
	return v
}

// decodeError says which record could not be read. The key is quoted: it comes from a damaged file.
func decodeError(kind string, key []byte, err error) error {
	return fmt.Errorf("read %s %q: %w", kind, key, err)
}

func encodeAccount(a *store.Account) []byte {
	b := []byte{recordVersion}
	b = appendText(b, a.Name)
	b = appendBool(b, a.Suspended)
	return appendTime(b, a.CreatedAt)
}

func decodeAccount(key, value []byte) (store.Account, error) {
	r := reader{b: value}
	r.version(recordVersion)
	a := store.Account{ID: string(key), Name: r.text(), Suspended: r.bool(), CreatedAt: r.time()}
	if err := r.end(); err != nil {
		return store.Account{}, decodeError("account", key, err)
	}
	return a, nil
}

// encodeGone writes the mark of an account that was deleted at the time given.
func encodeGone(deleted time.Time) []byte {
	return appendTime([]byte{recordVersion}, deleted)
}

func decodeGone(key, value []byte) (deleted time.Time, err error) {
	r := reader{b: value}
	r.version(recordVersion)
	deleted = r.time()
	if err := r.end(); err != nil {
		return time.Time{}, decodeError("deleted account", key, err)
	}
	return deleted, nil
}

func encodeToken(t *store.Token) []byte {
	b := []byte{recordVersion}
	b = appendText(b, t.AccountID)
	b = appendText(b, t.Name)
	b = binary.AppendUvarint(b, uint64(len(t.Scopes)))
	for _, s := range t.Scopes {
		b = appendText(b, string(s))
	}
	b = append(b, t.Hash[:]...)
	b = appendTime(b, t.CreatedAt)
	return appendTime(b, t.ExpiresAt)
}

func decodeToken(key, value []byte) (store.Token, error) {
	r := reader{b: value}
	r.version(recordVersion)
	t := store.Token{ID: string(key), AccountID: r.text(), Name: r.text()}
	if n := r.count(); n > 0 {
		t.Scopes = make([]store.Scope, n)
		for i := range t.Scopes {
			t.Scopes[i] = store.Scope(r.text())
		}
	}
	copy(t.Hash[:], r.view(uint64(len(t.Hash))))
	t.CreatedAt, t.ExpiresAt = r.time(), r.time()
	if err := r.end(); err != nil {
		return store.Token{}, decodeError("token", key, err)
	}
	return t, nil
}

func encodeResource(x *store.Resource) []byte {
	return appendText([]byte{recordVersion}, x.Name)
}

// resourceKey is type, NUL, id. Neither part can hold a NUL, and NUL sorts before every character
// they can hold, so that byte order is the order of type and id.
func resourceKey(k store.ResourceKey) []byte {
	b := make([]byte, 0, len(k.Type)+1+len(k.ID))
	b = append(b, k.Type...)
	b = append(b, 0)
	return append(b, k.ID...)
}

func decodeResource(key, value []byte) (store.Resource, error) {
	for i, c := range key {
		if c != 0 {
			continue
		}
		r := reader{b: value}
		r.version(recordVersion)
		x := store.Resource{ResourceKey: store.ResourceKey{Type: string(key[:i]), ID: string(key[i+1:])}, Name: r.text()}
		if err := r.end(); err != nil {
			return store.Resource{}, decodeError("resource", key, err)
		}
		return x, nil
	}
	return store.Resource{}, decodeError("resource", key, errShort)
}

// secretsField is the one sealed field of a record that has secrets: all of them together, so that neither
// which of them are set nor how long each is can be seen in the file.
const secretsField = "secrets"

func encodeSubscription(sl *sealer, s *store.Subscription) []byte {
	return sl.sealValue(subscriptionVersion, subscriptionPlace(s.ID[:], clearPart(s)), secretPart(s))
}

func clearPart(s *store.Subscription) []byte {
	b := make([]byte, 0, 256)
	b = appendText(b, s.AccountID)
	b = appendTime(b, s.CreatedAt)
	b = appendTime(b, s.UpdatedAt)
	b = appendText(b, s.ExportFormat)
	b = binary.AppendVarint(b, int64(s.NumberOfRecords))
	b = binary.AppendVarint(b, int64(s.MaxWait))
	b = appendText(b, s.Resource)
	b = binary.AppendUvarint(b, uint64(len(s.Events)))
	for _, e := range s.Events {
		b = appendText(b, e)
	}
	b = appendText(b, string(s.Payload))
	b = appendText(b, s.Method)
	b = appendText(b, string(s.Authentication.Type))
	b = appendText(b, s.Authentication.Username)
	b = appendText(b, s.Authentication.Name)
	b = binary.AppendVarint(b, int64(s.Delivery.Timeout))
	b = appendText(b, s.Delivery.RetrySchedule)
	b = binary.AppendVarint(b, int64(s.Delivery.MaxConcurrency))
	b = appendText(b, string(s.State))
	b = appendText(b, s.StateReason)
	b = appendTime(b, s.StateSince)
	b = appendPolicy(b, s)
	// From here on by version 3.
	b = appendText(b, string(s.ValidationKind))
	b = appendText(b, s.Validation.Origin)
	b = binary.AppendVarint(b, int64(s.Validation.AllowedRate))
	// From here on by version 4.
	b = appendText(b, string(s.Role))
	b = appendText(b, s.ImplementationID)
	b = appendTemplate(b, s.Notification)
	return appendText(b, s.Health.Suspended)
}

// appendTemplate writes the notification as encoding/json does: it has many members of which few are set, and a new one needs no
// new version. What that cannot write (a number that is none) is left empty, and refused when it is read.
func appendTemplate(b []byte, t *store.Template) []byte {
	b = appendBool(b, t != nil)
	if t == nil {
		return b
	}
	b = appendText(b, t.ImplementationID)
	b = appendText(b, t.Contact)
	text, _ := json.Marshal(&t.Notification)
	return appendBytes(b, text)
}

func (r *reader) template() *store.Template {
	if !r.bool() {
		return nil
	}
	t := &store.Template{ImplementationID: r.text(), Contact: r.text()}
	text := r.view(r.uint())
	if r.err != nil {
		return nil
	}
	if err := json.Unmarshal(text, &t.Notification); err != nil {
		r.err, r.b = fmt.Errorf("value is %w: its notification: %w", boltkit.ErrDamaged, err), nil
		return nil
	}
	return t
}

// appendPolicy writes what version 2 added.
func appendPolicy(b []byte, s *store.Subscription) []byte {
	filter := ""
	if s.Filter != nil {
		filter = s.Filter.Text()
	}
	b = appendText(b, filter)
	d := &s.Delivery
	b = binary.BigEndian.AppendUint64(b, math.Float64bits(d.RateLimit))
	b = binary.AppendVarint(b, int64(d.RateBurst))
	b = appendText(b, string(d.Ordering))
	b = appendText(b, d.OrderingKey)
	b = appendBool(b, d.DisableAfter.Set)
	b = binary.AppendVarint(b, int64(d.DisableAfter.Duration))
	b = binary.AppendVarint(b, int64(d.DisableAfter.Failures))
	b = appendText(b, string(d.OnDisabled))
	b = appendBool(b, s.Discarding)
	h := &s.Health
	b = appendTime(b, h.FailingSince)
	b = binary.AppendVarint(b, int64(h.Failures))
	b = appendTime(b, h.OpenedAt)
	b = binary.AppendVarint(b, int64(h.Probes))
	b = appendTime(b, h.ProbeAt)
	b = binary.AppendVarint(b, int64(h.Warned))
	b = appendText(b, h.Notice)
	b = appendTime(b, h.NoticeAt)
	v := &s.Validation
	b = appendText(b, v.Confirmed)
	b = appendTime(b, v.ExpiresAt)
	b = binary.AppendVarint(b, int64(v.Attempts))
	b = appendTime(b, v.NextAt)
	b = appendText(b, v.LastError)
	b = appendText(b, s.Authentication.TokenURL)
	b = appendText(b, s.Authentication.ClientID)
	b = appendText(b, s.Authentication.Scopes)
	b = appendBool(b, s.ClientCertificate.Identity)
	b = appendText(b, s.ClientCertificate.Chain)
	return appendBool(b, s.MessageSignature)
}

// float reads a number that is neither negative nor infinite.
func (r *reader) float() float64 {
	b := r.view(8)
	if len(b) != 8 {
		return 0
	}
	v := math.Float64frombits(binary.BigEndian.Uint64(b))
	if !(v >= 0) || math.IsInf(v, 0) || math.Signbit(v) {
		r.fail()
		return 0
	}
	return v
}

func (r *reader) policy(s *store.Subscription) {
	if text := r.text(); text != "" {
		filter, err := store.ParseFilter([]byte(text))
		if err != nil { // only what was parsed before is ever written
			r.err, r.b = fmt.Errorf("value is %w: its filter: %w", boltkit.ErrDamaged, err), nil
			return
		}
		s.Filter = filter
	}
	d := &s.Delivery
	d.RateLimit = r.float()
	d.RateBurst = int(r.int())
	d.Ordering = store.Ordering(r.text())
	d.OrderingKey = r.text()
	d.DisableAfter.Set = r.bool()
	d.DisableAfter.Duration = time.Duration(r.int())
	d.DisableAfter.Failures = int(r.int())
	d.OnDisabled = store.OnDisabled(r.text())
	s.Discarding = r.bool()
	h := &s.Health
	h.FailingSince = r.time()
	h.Failures = int(r.int())
	h.OpenedAt = r.time()
	h.Probes = int(r.int())
	h.ProbeAt = r.time()
	h.Warned = int(r.int())
	h.Notice = r.text()
	h.NoticeAt = r.time()
	v := &s.Validation
	v.Confirmed = r.text()
	v.ExpiresAt = r.time()
	v.Attempts = int(r.int())
	v.NextAt = r.time()
	v.LastError = r.text()
	s.Authentication.TokenURL = r.text()
	s.Authentication.ClientID = r.text()
	s.Authentication.Scopes = r.text()
	s.ClientCertificate.Identity = r.bool()
	s.ClientCertificate.Chain = r.text()
	s.MessageSignature = r.bool()
}

func secretPart(s *store.Subscription) []byte {
	b := make([]byte, 0, 256)
	b = appendText(b, s.DataCallbackURL)
	b = appendText(b, s.Authentication.Token)
	b = appendText(b, s.Authentication.Password)
	b = appendText(b, s.Authentication.Value)
	b = binary.AppendUvarint(b, uint64(len(s.SigningSecrets)))
	for _, x := range s.SigningSecrets {
		b = appendBytes(b, x.Key)
		b = appendTime(b, x.ExpiresAt)
	}
	// From here on by version 2.
	b = appendText(b, s.ValidationCallbackURL)
	b = appendBytes(b, s.Validation.Secret)
	b = appendText(b, s.Authentication.ClientSecret)
	b = appendBytes(b, s.ClientCertificate.Key)
	for _, x := range s.SigningSecrets {
		b = appendBool(b, x.Ed25519)
	}
	return b
}

func subscriptionPlace(id, clear []byte) place {
	return place{bucket: string(bucketSubscription), id: id, field: secretsField, clear: clear}
}

// split is the value of a record with secrets in its parts, all of them views of it.
type split struct {
	version       byte
	clear, sealed []byte
}

// splitValue takes such a value apart. keySize is the length the key has to have, 0 for any.
func splitValue(kind string, newest byte, keySize int, key, value []byte) (split, error) {
	r := reader{b: value}
	p := split{version: r.version(newest), clear: r.view(r.uint())}
	if r.err == nil && keySize != 0 && len(key) != keySize {
		r.fail()
	}
	if r.err != nil {
		return split{}, decodeError(kind, key, r.err)
	}
	p.sealed = r.b
	return p, nil
}

func splitSubscription(key, value []byte) (split, error) {
	return splitValue("subscription", subscriptionVersion, len(store.SubscriptionID{}), key, value)
}

// sealValue is the other way: version, clear part with its length, sealed part.
func (s *sealer) sealValue(version byte, where place, secret []byte) []byte {
	b := make([]byte, 0, len(where.clear)+len(secret)+48)
	b = append(b, version)
	b = appendBytes(b, where.clear)
	return s.seal(b, where, secret)
}

// decodeClear reads the part of a subscription that is not encrypted: enough for the matcher, at a
// fraction of the cost.
func decodeClear(key, value []byte) (*store.Subscription, error) {
	p, err := splitSubscription(key, value)
	if err != nil {
		return nil, err
	}
	r := reader{b: p.clear}
	s := &store.Subscription{ID: store.SubscriptionID(key)}
	s.AccountID = r.text()
	s.CreatedAt = r.time()
	s.UpdatedAt = r.time()
	s.ExportFormat = r.text()
	s.NumberOfRecords = int(r.int())
	s.MaxWait = time.Duration(r.int())
	s.Resource = r.text()
	if n := r.count(); n > 0 {
		s.Events = make([]string, n)
		for i := range s.Events {
			s.Events[i] = r.text()
		}
	}
	s.Payload = store.PayloadForm(r.text())
	s.Method = r.text()
	s.Authentication.Type = store.AuthType(r.text())
	s.Authentication.Username = r.text()
	s.Authentication.Name = r.text()
	s.Delivery.Timeout = time.Duration(r.int())
	s.Delivery.RetrySchedule = r.text()
	s.Delivery.MaxConcurrency = int(r.int())
	s.State = store.State(r.text())
	s.StateReason = r.text()
	s.StateSince = r.time()
	if p.version > 1 {
		r.policy(s)
	}
	if p.version > 2 {
		s.ValidationKind = store.ValidationKind(r.text())
		s.Validation.Origin = r.text()
		s.Validation.AllowedRate = int(r.int())
	}
	if p.version > 3 {
		s.Role = store.Role(r.text())
		s.ImplementationID = r.text()
		s.Notification = r.template()
		s.Health.Suspended = r.text()
	}
	if err := r.end(); err != nil {
		return nil, decodeError("subscription", key, err)
	}
	return s, nil
}

// decodeSubscription reads a whole subscription, secrets included.
func decodeSubscription(sl *sealer, key, value []byte) (*store.Subscription, error) {
	s, err := decodeClear(key, value)
	if err != nil {
		return nil, err
	}
	p, err := splitSubscription(key, value)
	if err != nil {
		return nil, err
	}
	text, err := sl.open(subscriptionPlace(key, p.clear), p.sealed)
	if err == nil {
		err = decodeSecrets(s, text, p.version)
	}
	if err != nil {
		return nil, fmt.Errorf("read subscription %s: %w", s.ID, err)
	}
	return s, nil
}

func decodeSecrets(s *store.Subscription, text []byte, version byte) error {
	r := reader{b: text}
	s.DataCallbackURL = r.text()
	s.Authentication.Token = r.text()
	s.Authentication.Password = r.text()
	s.Authentication.Value = r.text()
	if n := r.count(); n > 0 {
		s.SigningSecrets = make([]store.SigningSecret, n)
		for i := range s.SigningSecrets {
			s.SigningSecrets[i] = store.SigningSecret{Key: r.bytes(), ExpiresAt: r.time()}
		}
	}
	if version > 1 {
		s.ValidationCallbackURL = r.text()
		s.Validation.Secret = r.bytes()
		s.Authentication.ClientSecret = r.text()
		s.ClientCertificate.Key = r.bytes()
		for i := range s.SigningSecrets {
			s.SigningSecrets[i].Ed25519 = r.bool()
		}
	}
	return r.end()
}
