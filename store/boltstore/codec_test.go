package boltstore

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"herald/store"
	"herald/store/boltkit"
)

func testSealer(t testing.TB, n byte) *sealer {
	t.Helper()
	sl, err := newSealer(Key{bytes: [32]byte{n}})
	if err != nil {
		t.Fatal(err)
	}
	return sl
}

var at = time.Date(2026, 11, 21, 12, 0, 0, 987654321, time.UTC)

func fullSubscription() *store.Subscription {
	return &store.Subscription{
		ID: store.SubscriptionID{1, 2, 3}, AccountID: "acme", CreatedAt: at, UpdatedAt: at.Add(time.Second),
		DataCallbackURL: "https://receiver.example/unlisted", ExportFormat: "application/json", NumberOfRecords: 5,
		MaxWait: time.Second, Resource: "project/*", Events: []string{"task.*", "*.create"}, Payload: store.PayloadData, Method: "PUT",
		Authentication: store.Authentication{
			Type: store.AuthHeader, Token: "secret-token", Username: "user", Password: "secret-password", Name: "X-Key", Value: "secret-value",
			TokenURL: "https://tokens.example/token", ClientID: "client", Scopes: "push read", ClientSecret: "secret-client",
		},
		ValidationCallbackURL: "https://receiver.example/validate", ValidationKind: store.ValidationCloudEvents, Validation: store.Validation{
			Secret: []byte("secret-validation"), Confirmed: "https://confirmed.example:443", Origin: "herald.example", AllowedRate: 120,
			ExpiresAt: at.Add(time.Hour), Attempts: 3,
			NextAt: at.Add(time.Minute), LastError: "the receiver answered 500",
		},
		ClientCertificate: store.ClientCertificate{Identity: true, Chain: "-----BEGIN CERTIFICATE-----", Key: []byte("secret-key")}, MessageSignature: true,
		SigningSecrets: []store.SigningSecret{
			{Key: []byte("secret-signing-key-the-new-one"), Ed25519: true}, {Key: []byte("secret-signing-key-the-old-one"), ExpiresAt: at},
		},
		Delivery: store.DeliveryPolicy{
			Timeout: time.Minute, RetrySchedule: "day", MaxConcurrency: 4, RateLimit: 2.5, RateBurst: 9,
			Ordering: store.OrderKey, OrderingKey: "customer.id",
			DisableAfter: store.DisableAfter{Set: true, Duration: time.Hour, Failures: 7}, OnDisabled: store.OnDisabledDiscard,
		},
		State: store.StateDisabled, StateReason: "gone", StateSince: at.Add(time.Hour),
		Filter: mustFilter(`{"customer.country":"NL","total":{"$gt":1e2}}`), Discarding: true,
		Health: store.Health{
			FailingSince: at.Add(-time.Hour), Failures: 12, OpenedAt: at.Add(-time.Minute), Probes: 3, ProbeAt: at.Add(time.Minute), Warned: 75,
			Notice: "herald.subscription.disabled", NoticeAt: at.Add(2 * time.Hour), Suspended: "the key was revoked",
		},
		ImplementationID: "app", Notification: fullTemplate(),
	}
}

func fullTemplate() *store.Template {
	badge, score, ttl := 3, 0.5, time.Minute
	return &store.Template{
		ImplementationID: "app", Contact: "{{customer.id}}", Notification: store.Notification{
			Title: map[string]string{"en": "Hello {{name}}"}, Text: map[string]string{"nl": "Dag <ü>"}, ForceLocale: "en", ImageURL: "https://i.example/i",
			Data: map[string]string{"k": "v"}, Actions: []store.Action{{ID: "yes", Title: "Yes", IconURL: "https://i.example/y"}},
			Badge: &badge, Sound: "ping", Silent: true, TTL: time.Hour, High: true, CollapseKey: "c",
			Android: store.AndroidOptions{
				ClickAction: "open", Icon: "i", Color: "#fff", ChannelID: "ch", Tag: "t", LocalizedTitle: "lt", LocalizedText: "lx",
				LocalizedTitleArgs: []string{"a"}, LocalizedTextArgs: []string{"b"}, TTL: &ttl,
			},
			APNs: store.APNsOptions{
				LocalizedTitle: "lt", LocalizedText: "lx", LocalizedTitleArgs: []string{"a"}, LocalizedTextArgs: []string{"b"}, Subtitle: "s",
				Category: "c", ThreadID: "th", InterruptionLevel: "active", TargetContent: "tc", MutableContent: true, Critical: true, Volume: 0.25,
				RelevanceScore: &score, TTL: &ttl,
			},
			Web: store.WebOptions{
				IconURL: "https://i.example/w", TargetURL: "https://i.example/t", BadgeURL: "https://i.example/b", Tag: "t",
				RequireInteraction: true, Renotify: true, TTL: &ttl,
			},
		},
	}
}

func mustFilter(text string) *store.Filter {
	f, err := store.ParseFilter([]byte(text))
	if err != nil {
		panic(err)
	}
	return f
}

// sameSubscription compares by value, a filter by its text.
func sameSubscription(a, b *store.Subscription) bool {
	x, y := *a, *b
	if (x.Filter == nil) != (y.Filter == nil) || x.Filter != nil && x.Filter.Text() != y.Filter.Text() {
		return false
	}
	x.Filter, y.Filter = nil, nil
	return reflect.DeepEqual(x, y)
}

// A member that the codec forgets is found here, whoever adds it.
func TestSubscriptionCodecKeepsEveryMember(t *testing.T) {
	t.Parallel()
	sl, want := testSealer(t, 1), fullSubscription()
	want.Role = store.RoleStatus
	everyMemberIsSet(t, reflect.ValueOf(*want), "Subscription")
	got, err := decodeSubscription(sl, want.ID[:], encodeSubscription(sl, want))
	if err != nil {
		t.Fatal(err)
	}
	if !sameSubscription(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	clear, err := decodeClear(want.ID[:], encodeSubscription(sl, want))
	if err != nil {
		t.Fatal(err)
	}
	want.DataCallbackURL, want.Authentication.Token, want.Authentication.Password, want.Authentication.Value = "", "", "", ""
	want.SigningSecrets, want.ValidationCallbackURL, want.Validation.Secret = nil, "", nil
	want.Authentication.ClientSecret, want.ClientCertificate.Key = "", nil
	if !sameSubscription(clear, want) {
		t.Errorf("the clear part: got  %+v\nwant %+v", clear, want)
	}
}

// everyMemberIsSet fails the test for each member that it would not look at.
func everyMemberIsSet(t *testing.T, v reflect.Value, path string) {
	t.Helper()
	if v.IsZero() {
		t.Errorf("%s is not set, so the test does not look at it", path)
	}
	if v.Kind() == reflect.Pointer && v.Type() != reflect.TypeFor[*store.Filter]() && !v.IsNil() {
		v = v.Elem()
	}
	if v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[time.Time]() {
		for i := range v.NumField() {
			everyMemberIsSet(t, v.Field(i), path+"."+v.Type().Field(i).Name)
		}
	}
}

// golden reads a subscription that an older version wrote.
func golden(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	value, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// A subscription that an older version wrote is read, with the members it did not know at zero, and written back as a value of
// this version.
func TestSubscriptionOfVersionOne(t *testing.T) {
	t.Parallel()
	want := withoutRole(fullSubscription())
	want.Filter, want.Discarding, want.Health = nil, false, store.Health{}
	want.ValidationCallbackURL, want.ValidationKind = "", store.ValidationConfirmation
	want.Validation, want.ClientCertificate = store.Validation{}, store.ClientCertificate{}
	a := &want.Authentication
	a.TokenURL, a.ClientID, a.Scopes, a.ClientSecret = "", "", "", ""
	want.SigningSecrets[0].Ed25519, want.MessageSignature = false, false
	want.Delivery = store.DeliveryPolicy{Timeout: time.Minute, RetrySchedule: "day", MaxConcurrency: 4}
	readAnew(t, golden(t, "subscription-v1.hex"), want)
}

func TestSubscriptionOfVersionTwo(t *testing.T) {
	t.Parallel()
	want := withoutRole(fullSubscription())
	want.ValidationKind, want.Validation.Origin, want.Validation.AllowedRate = store.ValidationConfirmation, "", 0
	readAnew(t, golden(t, "subscription-v2.hex"), want)
}

func TestSubscriptionOfVersionThree(t *testing.T) {
	t.Parallel()
	readAnew(t, golden(t, "subscription-v3.hex"), withoutRole(fullSubscription()))
}

// withoutRole takes away what came with version 4.
func withoutRole(s *store.Subscription) *store.Subscription {
	s.Role, s.ImplementationID, s.Notification, s.Health.Suspended = store.RoleNone, "", nil, ""
	return s
}

func readAnew(t *testing.T, value []byte, want *store.Subscription) {
	t.Helper()
	sl, version := testSealer(t, 1), value[0]
	got, err := decodeSubscription(sl, want.ID[:], value)
	if err != nil {
		t.Fatal(err)
	}
	if !sameSubscription(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	anew := encodeSubscription(sl, got)
	if version >= subscriptionVersion || anew[0] != subscriptionVersion {
		t.Errorf("version %d became %d", value[0], anew[0])
	}
	if got, err = decodeSubscription(sl, want.ID[:], anew); err != nil || !sameSubscription(got, want) {
		t.Errorf("written anew: %+v, %v", got, err)
	}
	// What an old value has at its end is not taken for what a new one has there, nor the other way round.
	if value[0] = subscriptionVersion; !damaged(sl, want.ID, value) {
		t.Errorf("a value of version %d is read as one of this version", version)
	}
	if anew[0] = version; !damaged(sl, want.ID, anew) {
		t.Errorf("a value of this version is read as one of version %d", version)
	}
}

func damaged(sl *sealer, id store.SubscriptionID, value []byte) bool {
	_, err := decodeSubscription(sl, id[:], value)
	return err != nil
}

func TestRatesThatAreNone(t *testing.T) {
	t.Parallel()
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, math.Copysign(0, -1)} {
		r := reader{b: binary.BigEndian.AppendUint64(nil, math.Float64bits(v))}
		if got := r.float(); got != 0 || r.end() == nil {
			t.Errorf("%v is read as %v", v, got)
		}
	}
	r := reader{b: binary.BigEndian.AppendUint64(nil, math.Float64bits(0.25))}
	if got := r.float(); got != 0.25 || r.end() != nil {
		t.Errorf("0.25 is read as %v, %v", got, r.end())
	}
}

func TestTimeCodec(t *testing.T) {
	t.Parallel()
	for _, x := range []time.Time{
		{},
		time.Unix(0, 0).UTC(), at, at.In(time.FixedZone("", 3600)), time.Unix(-1, 999999999), time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC),
	} {
		r := reader{b: appendTime(nil, x)}
		got := r.time()
		if err := r.end(); err != nil || !got.Equal(x) || got.IsZero() != x.IsZero() || got.Location() != time.UTC {
			t.Errorf("%v came back as %v, %v", x, got, err)
		}
	}
}

// everyValue returns one value of each kind with what reads it.
func everyValue(t testing.TB) map[string]struct {
	value  []byte
	newest byte
	decode func([]byte) error
} {
	sl, sub := testSealer(t, 1), fullSubscription()
	token := store.Token{ID: "t", AccountID: "acme", Name: "n", Scopes: store.Scopes(), Hash: store.TokenHash{1}, CreatedAt: at, ExpiresAt: at}
	return map[string]struct {
		value  []byte
		newest byte
		decode func([]byte) error
	}{
		"account": {encodeAccount(&store.Account{Name: "n", Suspended: true, CreatedAt: at}), recordVersion, func(b []byte) error {
			_, err := decodeAccount([]byte("acme"), b)
			return err
		}},
		"deleted account": {encodeGone(at), recordVersion, func(b []byte) error { _, err := decodeGone([]byte("acme"), b); return err }},
		"token":           {encodeToken(&token), recordVersion, func(b []byte) error { _, err := decodeToken([]byte("t"), b); return err }},
		"resource": {encodeResource(&store.Resource{Name: "n"}), recordVersion, func(b []byte) error {
			_, err := decodeResource([]byte("a\x00b"), b)
			return err
		}},
		"subscription": {encodeSubscription(sl, sub), subscriptionVersion, func(b []byte) error {
			_, err := decodeSubscription(sl, sub.ID[:], b)
			return err
		}},
		"implementation": {encodeImplementation(sl, fullImplementation()), recordVersion, func(b []byte) error {
			_, err := decodeImplementation(sl, "acme", []byte("app"), b)
			return err
		}},
		"device": {encodeDevice(sl, fullDevice()), recordVersion, func(b []byte) error {
			_, err := decodeDevice(sl, "", "", fullDevice().ID[:], b)
			return err
		}},
	}
}

func TestDamagedValuesAreRefused(t *testing.T) {
	t.Parallel()
	for name, x := range everyValue(t) {
		if err := x.decode(x.value); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		newer := bytes.Clone(x.value)
		newer[0] = x.newest + 1
		if err := x.decode(newer); !errors.Is(err, ErrNewer) {
			t.Errorf("%s of a newer version: %v", name, err)
		}
		newer[0] = 0
		if x.decode(newer) == nil {
			t.Errorf("%s of version 0 is read", name)
		}
		for n := range x.value {
			if x.decode(x.value[:n]) == nil {
				t.Errorf("%s cut to %d of %d bytes is read", name, n, len(x.value))
			}
		}
		if x.decode(append(bytes.Clone(x.value), 0)) == nil {
			t.Errorf("%s with a byte more is read", name)
		}
	}
	sl, sub := testSealer(t, 1), fullSubscription()
	value := encodeSubscription(sl, sub)
	for i := range value {
		for bit := range 8 {
			damaged := bytes.Clone(value)
			damaged[i] ^= 1 << bit
			if _, err := decodeSubscription(sl, sub.ID[:], damaged); err == nil {
				t.Fatalf("a subscription with bit %d of byte %d changed is read", bit, i)
			}
		}
	}
	if _, err := decodeSubscription(sl, sub.ID[:15], value); err == nil {
		t.Error("a subscription under a key of 15 bytes is read")
	}
	if _, err := decodeResource([]byte("no separator"), encodeResource(&store.Resource{})); err == nil {
		t.Error("a resource under a key without separator is read")
	}
}

func TestSealedFieldsStayWhereTheyAre(t *testing.T) {
	t.Parallel()
	sl := testSealer(t, 1)
	home := place{bucket: "subscription", id: []byte("id"), field: "secrets", clear: []byte("clear")}
	sealed := sl.seal(nil, home, []byte("text"))
	if text, err := sl.open(home, sealed); err != nil || string(text) != "text" {
		t.Fatalf("at home: %q, %v", text, err)
	}
	for name, other := range map[string]place{
		"bucket": {bucket: "implementation", id: []byte("id"), field: "secrets", clear: []byte("clear")},
		"record": {bucket: "subscription", id: []byte("ie"), field: "secrets", clear: []byte("clear")},
		"field":  {bucket: "subscription", id: []byte("id"), field: "secretz", clear: []byte("clear")},
		"clear":  {bucket: "subscription", id: []byte("id"), field: "secrets", clear: []byte("clean")},
		"moved":  {bucket: "subscriptio", id: []byte("nid"), field: "secrets", clear: []byte("clear")},
		"shift":  {bucket: "subscription", id: []byte("id"), field: "secretsc", clear: []byte("lear")},
	} {
		if _, err := sl.open(other, sealed); !errors.Is(err, errSealed) {
			t.Errorf("%s: opens elsewhere: %v", name, err)
		}
	}
	if _, err := testSealer(t, 2).open(home, sealed); !errors.Is(err, errSealed) || !errors.Is(err, boltkit.ErrDamaged) {
		t.Errorf("opens with another key: %v", err)
	}
	for n := range sealed {
		if _, err := sl.open(home, sealed[:n]); !errors.Is(err, errSealed) {
			t.Fatalf("opens when cut to %d bytes: %v", n, err)
		}
	}
	if bytes.Equal(sealed, sl.seal(nil, home, []byte("text"))) {
		t.Error("the same text sealed twice is the same: the nonce is not random")
	}
}

// again is the property of each codec: what is read can be written and read to the same.
func again[T any](t *testing.T, value []byte, decode func([]byte) (T, error), encode func(T) []byte) {
	t.Helper()
	againSame(t, value, decode, encode, func(x, y T) bool { return reflect.DeepEqual(x, y) })
}

func againSame[T any](t *testing.T, value []byte, decode func([]byte) (T, error), encode func(T) []byte, same func(x, y T) bool) {
	t.Helper()
	x, err := decode(value)
	if err != nil {
		return
	}
	y, err := decode(encode(x))
	if err != nil || !same(x, y) {
		t.Errorf("read    %+v\nreread  %+v, %v", x, y, err)
	}
}

func FuzzAccount(f *testing.F) {
	f.Add(everyValue(f)["account"].value)
	f.Fuzz(func(t *testing.T, b []byte) {
		again(t, b, func(b []byte) (store.Account, error) { return decodeAccount([]byte("a"), b) },
			func(a store.Account) []byte { return encodeAccount(&a) })
	})
}

func FuzzDeletedAccount(f *testing.F) {
	f.Add(everyValue(f)["deleted account"].value)
	f.Fuzz(func(t *testing.T, b []byte) {
		again(t, b, func(b []byte) (time.Time, error) { return decodeGone([]byte("a"), b) }, encodeGone)
	})
}

func FuzzToken(f *testing.F) {
	f.Add(everyValue(f)["token"].value)
	f.Fuzz(func(t *testing.T, b []byte) {
		again(t, b, func(b []byte) (store.Token, error) { return decodeToken([]byte("t"), b) },
			func(x store.Token) []byte { return encodeToken(&x) })
	})
}

func FuzzResource(f *testing.F) {
	f.Add([]byte("a\x00b"), everyValue(f)["resource"].value)
	f.Fuzz(func(t *testing.T, key, b []byte) {
		again(t, b, func(b []byte) (store.Resource, error) { return decodeResource(key, b) },
			func(x store.Resource) []byte {
				if !bytes.Equal(resourceKey(x.ResourceKey), key) {
					t.Errorf("key %q became %q", key, resourceKey(x.ResourceKey))
				}
				return encodeResource(&x)
			})
	})
}

func FuzzSubscription(f *testing.F) {
	sl, sub := testSealer(f, 1), fullSubscription()
	f.Add(sub.ID[:], encodeSubscription(sl, sub))
	f.Add(sub.ID[:], encodeSubscription(sl, &store.Subscription{ID: sub.ID}))
	f.Add(sub.ID[:], golden(f, "subscription-v1.hex"))
	f.Add(sub.ID[:], golden(f, "subscription-v2.hex"))
	f.Add(sub.ID[:], golden(f, "subscription-v3.hex"))
	f.Fuzz(func(t *testing.T, key, b []byte) {
		if _, err := decodeSubscription(sl, key, b); err == nil && !bytes.Equal(key, sub.ID[:]) {
			t.Error("opened what was not sealed")
		}
		// Most garbage ends at the seal; the clear part is read before it.
		againSame(t, b, func(b []byte) (*store.Subscription, error) { return decodeClear(key, b) },
			func(s *store.Subscription) []byte { return encodeSubscription(sl, s) }, sameSubscription)
	})
}

func FuzzSubscriptionSecrets(f *testing.F) {
	f.Add(secretPart(fullSubscription()))
	f.Fuzz(func(t *testing.T, b []byte) {
		again(t, b, func(b []byte) (*store.Subscription, error) {
			s := &store.Subscription{}
			return s, decodeSecrets(s, b, subscriptionVersion)
		}, secretPart)
	})
}
