package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"herald/queue"
	"herald/store"
)

// everyPolicy is the delivery policy of everything.
func everyPolicy() store.DeliveryPolicy {
	return store.DeliveryPolicy{
		Timeout: 2500 * time.Millisecond, RetrySchedule: "5s,1h30m", MaxConcurrency: 7, RateLimit: 0.5, RateBurst: 3,
		Ordering: store.OrderKey, OrderingKey: "customer.id",
		DisableAfter: store.DisableAfter{Set: true, Duration: 36 * time.Hour, Failures: 9}, OnDisabled: store.OnDisabledDiscard,
	}
}

// wrongPolicy are the members of wrongMembers that say how deliveries are made.
func wrongPolicy() map[string]struct {
	member, field string
	words         []string
} {
	type w = struct {
		member, field string
		words         []string
	}
	return map[string]w{
		"records by GET":         {`"method":"GET","numberOfRecords":2`, "numberOfRecords", []string{"must be 1 with the method GET"}},
		"no rate":                {`"delivery":{"rateLimit":0}`, "/delivery/rateLimit", []string{"between 0.0001 and 100000"}},
		"negative rate":          {`"delivery":{"rateLimit":-1}`, "/delivery/rateLimit", nil},
		"tiny rate":              {`"delivery":{"rateLimit":1e-300}`, "/delivery/rateLimit", []string{"0.0001"}},
		"high rate":              {`"delivery":{"rateLimit":100000.5}`, "/delivery/rateLimit", []string{"100000"}},
		"infinite rate":          {`"delivery":{"rateLimit":1e999}`, "/delivery/rateLimit", nil},
		"rate of a text":         {`"delivery":{"rateLimit":"5"}`, "/delivery/rateLimit", []string{"a number, not a string"}},
		"burst alone":            {`"delivery":{"rateBurst":5}`, "/delivery/rateBurst", []string{"needs a rateLimit"}},
		"burst of nothing":       {`"delivery":{"rateLimit":null,"rateBurst":5}`, "/delivery/rateBurst", []string{"needs a rateLimit"}},
		"no burst":               {`"delivery":{"rateLimit":1,"rateBurst":0}`, "/delivery/rateBurst", []string{"between 1 and 100000"}},
		"high burst":             {`"delivery":{"rateLimit":1,"rateBurst":100001}`, "/delivery/rateBurst", nil},
		"half a burst":           {`"delivery":{"rateLimit":1,"rateBurst":1.5}`, "/delivery/rateBurst", []string{"whole number"}},
		"unknown order":          {`"delivery":{"ordering":"fifo"}`, "/delivery/ordering", []string{"none, key or strict"}},
		"order in capitals":      {`"delivery":{"ordering":"Key"}`, "/delivery/ordering", nil},
		"order of a boolean":     {`"delivery":{"ordering":true}`, "/delivery/ordering", []string{"a string, not a boolean"}},
		"key without order":      {`"delivery":{"orderingKey":"customer.id"}`, "/delivery/orderingKey", []string{`"ordering":"key"`}},
		"key of another order":   {`"delivery":{"ordering":"strict","orderingKey":"customer.id"}`, "/delivery/orderingKey", []string{`"ordering":"key"`}},
		"empty key":              {`"delivery":{"ordering":"key","orderingKey":""}`, "/delivery/orderingKey", nil},
		"key with an empty name": {`"delivery":{"ordering":"key","orderingKey":"a..b"}`, "/delivery/orderingKey", nil},
		"key that is no pointer": {`"delivery":{"ordering":"key","orderingKey":"/a~b"}`, "/delivery/orderingKey", []string{"RFC 6901"}},
		"long key":               {`"delivery":{"ordering":"key","orderingKey":"` + strings.Repeat("x", 257) + `"}`, "/delivery/orderingKey", []string{"256"}},
		"key of a number":        {`"delivery":{"ordering":"key","orderingKey":1}`, "/delivery/orderingKey", nil},
		"disabling of a text":    {`"delivery":{"disableAfter":"5d"}`, "/delivery/disableAfter", []string{`{"duration":"120h","failures":50}`}},
		"disabling with a stranger": {
			`"delivery":{"disableAfter":{"hours":5}}`, "/delivery/disableAfter/hours", []string{"duration, failures"},
		},
		"duration of a number":     {`"delivery":{"disableAfter":{"duration":5}}`, "/delivery/disableAfter/duration", []string{"a string, not a number"}},
		"duration without a unit":  {`"delivery":{"disableAfter":{"duration":"5"}}`, "/delivery/disableAfter/duration", []string{"with its unit", "5d"}},
		"empty duration":           {`"delivery":{"disableAfter":{"duration":""}}`, "/delivery/disableAfter/duration", nil},
		"short duration":           {`"delivery":{"disableAfter":{"duration":"59s"}}`, "/delivery/disableAfter/duration", []string{"between 1m and 365d"}},
		"long duration":            {`"delivery":{"disableAfter":{"duration":"365d1s"}}`, "/delivery/disableAfter/duration", []string{"365d"}},
		"negative duration":        {`"delivery":{"disableAfter":{"duration":"-5h"}}`, "/delivery/disableAfter/duration", nil},
		"duration less":            {`"delivery":{"disableAfter":{"duration":"5d-1h"}}`, "/delivery/disableAfter/duration", nil},
		"duration with a plus":     {`"delivery":{"disableAfter":{"duration":"5d+1h"}}`, "/delivery/disableAfter/duration", nil},
		"duration of many days":    {`"delivery":{"disableAfter":{"duration":"99999999999d"}}`, "/delivery/disableAfter/duration", nil},
		"duration that overflows":  {`"delivery":{"disableAfter":{"duration":"9999999h"}}`, "/delivery/disableAfter/duration", nil},
		"duration of days at last": {`"delivery":{"disableAfter":{"duration":"1h5d"}}`, "/delivery/disableAfter/duration", nil},
		"no failures":              {`"delivery":{"disableAfter":{"failures":0}}`, "/delivery/disableAfter/failures", []string{"between 1 and 1000000"}},
		"many failures":            {`"delivery":{"disableAfter":{"failures":1000001}}`, "/delivery/disableAfter/failures", nil},
		"on disabled":              {`"delivery":{"onDisabled":"drop"}`, "/delivery/onDisabled", []string{"hold or discard"}},
		"on disabled of a number":  {`"delivery":{"onDisabled":0}`, "/delivery/onDisabled", nil},
		"filter of a text":         {`"filter":"country = NL"`, "filter", []string{"object of conditions"}},
		"filter of an array":       {`"filter":[{"a":1}]`, "filter", []string{"not an array"}},
		"filter of nothing":        {`"filter":{}`, "filter", []string{"null"}},
		"filter that is long":      {`"filter":{"a":"` + strings.Repeat("x", 17<<10) + `"}`, "filter", []string{"16384"}},
		"filter with an operator":  {`"filter":{"order.total":{"$above":5}}`, "/filter/order.total/$above", nil},
		"filter of nested names":   {`"FILTER":{"order":{"total":{"$gt":"much"}}}`, "/filter/order/total/$gt", []string{"RFC 3339"}},
		"filter with an array":     {`"filter":{"a/b":[1,2]}`, "/filter/a~1b", []string{"$in"}},
		"filter in a branch":       {`"filter":{"$or":[{"a":1},{"b":{"$in":[]}}]}`, "/filter/$or/1/b/$in", nil},
	}
}

func TestPolicyValuesAtTheirLimits(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]store.DeliveryPolicy{
		`{"rateLimit":0.0001}`:                                  {RateLimit: 0.0001},
		`{"rateLimit":1e5,"rateBurst":100000}`:                  {RateLimit: 100000, RateBurst: 100000},
		`{"rateLimit":0.25,"rateBurst":1}`:                      {RateLimit: 0.25, RateBurst: 1},
		`{"ordering":"none"}`:                                   {Ordering: store.OrderNone},
		`{"ordering":"strict","orderingKey":null}`:              {Ordering: store.OrderStrict},
		`{"ordering":"key"}`:                                    {Ordering: store.OrderKey},
		`{"ordering":"key","orderingKey":"/items/0/id"}`:        {Ordering: store.OrderKey, OrderingKey: "/items/0/id"},
		`{"disableAfter":{}}`:                                   {DisableAfter: store.DisableAfter{Set: true}},
		`{"disableAfter":{"duration":"1m"}}`:                    {DisableAfter: store.DisableAfter{Set: true, Duration: time.Minute}},
		`{"disableAfter":{"duration":"365d"}}`:                  {DisableAfter: store.DisableAfter{Set: true, Duration: 8760 * time.Hour}},
		`{"disableAfter":{"duration":"8760h","failures":1}}`:    {DisableAfter: store.DisableAfter{Set: true, Duration: 8760 * time.Hour, Failures: 1}},
		`{"disableAfter":{"duration":null,"failures":1000000}}`: {DisableAfter: store.DisableAfter{Set: true, Failures: 1_000_000}},
		`{"onDisabled":"hold"}`:                                 {OnDisabled: store.OnDisabledHold},
		`{"onDisabled":"discard"}`:                              {OnDisabled: store.OnDisabledDiscard},
		`{"rateLimit":null,"rateBurst":null,"ordering":null,"orderingKey":null,"disableAfter":null,"onDisabled":null}`: {},
	} {
		b := newBed(t)
		_, path := b.subscribe(`{"dataCallbackURL":"https://r.example/x","delivery":` + body + `}`)
		if got := b.stored().Delivery; got != want {
			t.Errorf("%s is stored as %+v", body, got)
		}
		read := b.request(http.MethodGet, path, "sub", "").Body.String()
		for _, method := range []string{http.MethodPut, http.MethodPatch} {
			if w := b.request(method, path, "sub", read); w.Code != 200 || w.Body.String() != read || b.stored().Delivery != want {
				t.Errorf("%s: %s came back by %s as %d %s", body, read, method, w.Code, w.Body)
			}
		}
	}
	for n, code := range map[int]int{1: 200, 2: 200, 1000: 200, 1001: 400} {
		b := newBed(t)
		if w := b.request(http.MethodPost, "/subscriptions", "sub", fmt.Sprintf(`{"dataCallbackURL":"https://r.example/x","numberOfRecords":%d}`, n)); w.Code != code {
			t.Errorf("%d records: %d %s", n, w.Code, w.Body)
		}
	}
	for text, want := range map[string]string{
		"1m": "1m", "90m": "1h30m", "5d": "120h", "1d12h": "36h", "1h0m5s": "1h0m5s", "100000ms": "1m40s", "61.5s": "1m1.5s",
	} {
		b := newBed(t)
		v, _ := b.subscribe(`{"dataCallbackURL":"https://r.example/x","delivery":{"disableAfter":{"duration":"` + text + `"}}}`)
		if got := fmt.Sprint(v["delivery"]); got != "map[disableAfter:map[duration:"+want+"]]" {
			t.Errorf("%s is shown as %s", text, got)
		}
	}
}

// A patch leaves what it does not name, null goes back to the configured, and what would be left without a
// meaning is refused.
func TestPolicyPatches(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, path := b.subscribe(everything)
	want := everyPolicy()
	patch := func(body string, change func()) {
		t.Helper()
		wantJSON[jsonObject](t, b.request(http.MethodPatch, path, "sub", `{"delivery":`+body+`}`), 200)
		change()
		if got := b.stored().Delivery; got != want {
			t.Errorf("%s made of it\n%+v, want\n%+v", body, got, want)
		}
	}
	refuse := func(body, field string) {
		t.Helper()
		p := wantProblem(t, b.request(http.MethodPatch, path, "sub", body), 400)
		if firstField(p) != field || b.stored().Delivery != want {
			t.Errorf("%s: %+v", body, p)
		}
	}
	patch(`{"disableAfter":{"failures":3}}`, func() { want.DisableAfter.Failures = 3 })
	patch(`{"disableAfter":{"duration":null}}`, func() { want.DisableAfter.Duration = 0 })
	patch(`{"disableAfter":{"duration":"2h"}}`, func() { want.DisableAfter.Duration = 2 * time.Hour })
	patch(`{"disableAfter":{}}`, func() { want.DisableAfter = store.DisableAfter{Set: true} })
	patch(`{"disableAfter":null}`, func() { want.DisableAfter = store.DisableAfter{} })
	patch(`{"disableAfter":{"failures":4}}`, func() { want.DisableAfter = store.DisableAfter{Set: true, Failures: 4} })
	refuse(`{"delivery":{"rateLimit":null}}`, "/delivery/rateBurst")
	patch(`{"rateBurst":null}`, func() { want.RateBurst = 0 })
	patch(`{"rateLimit":null}`, func() { want.RateLimit = 0 })
	refuse(`{"delivery":{"ordering":"strict"}}`, "/delivery/orderingKey")
	refuse(`{"delivery":{"ordering":null}}`, "/delivery/orderingKey")
	patch(`{"ordering":"strict","orderingKey":null}`, func() { want.Ordering, want.OrderingKey = store.OrderStrict, "" })
	patch(`{"onDisabled":null}`, func() { want.OnDisabled = "" })
	refuse(`{"method":"GET","authentication":null}`, "numberOfRecords")
	wantJSON[jsonObject](t, b.request(http.MethodPatch, path, "sub", `{"method":"GET","authentication":null,"numberOfRecords":1}`), 200)
	refuse(`{"numberOfRecords":2}`, "numberOfRecords")

	// A filter is replaced as a whole: null within it is a value.
	wantJSON[jsonObject](t, b.request(http.MethodPatch, path, "sub", `{"filter":{ "total" : null }}`), 200)
	if got := b.stored().Filter.Text(); got != `{"total":null}` {
		t.Errorf("the filter became %s", got)
	}
	wantJSON[jsonObject](t, b.request(http.MethodPatch, path, "sub", `{"events":["a"]}`), 200)
	if b.stored().Filter == nil {
		t.Error("a patch of something else took the filter away")
	}
	wantJSON[jsonObject](t, b.request(http.MethodPatch, path, "sub", `{"filter":null}`), 200)
	if b.stored().Filter != nil {
		t.Error("null left the filter")
	}
	b.request(http.MethodPatch, path, "sub", `{"filter":{"a":1}}`)
	if v := wantJSON[jsonObject](t, b.request(http.MethodPut, path, "sub", minimal), 200); b.stored().Filter != nil || v["filter"] != nil || b.stored().NumberOfRecords != 1 {
		t.Errorf("a replacement left %+v", b.stored())
	}
	// What is wrong is told once, and not again of what depends on it.
	for body, field := range map[string]string{
		`{"delivery":{"rateLimit":"5","rateBurst":5}}`: "/delivery/rateLimit", `{"delivery":{"ordering":"fifo","orderingKey":"a"}}`: "/delivery/ordering",
	} {
		if p := wantProblem(t, b.request(http.MethodPatch, path, "sub", body), 400); len(p.Errors) != 1 || firstField(p) != field {
			t.Errorf("%s: %+v", body, p.Errors)
		}
	}
	// All that is wrong with a filter is told at once, each at its place.
	p := wantProblem(t, b.request(http.MethodPatch, path, "sub", `{"filter":{"a":{"$gt":true},"b":[],"$or":[]},"numberOfRecords":0}`), 400, "4 fields")
	if len(p.Errors) != 4 {
		t.Errorf("%+v", p.Errors)
	}
}

// set changes the only subscription behind the API's back.
func (b *bed) set(change func(*store.Subscription)) {
	b.t.Helper()
	if _, err := b.store.UpdateSubscription(b.t.Context(), b.stored().ID, func(s *store.Subscription) error { change(s); return nil }); err != nil {
		b.t.Fatal(err)
	}
}

// What is known of a receiver is forgotten with the receiver, and with the call to enable; nothing else
// touches it.
func TestHealthIsForgottenWithTheReceiver(t *testing.T) {
	t.Parallel()
	ill := store.Health{
		FailingSince: testNow, Failures: 9, OpenedAt: testNow, Probes: 2, ProbeAt: testNow.Add(time.Minute), Warned: 50,
		Notice: "herald.subscription.warning", NoticeAt: testNow,
	}
	kept := store.Health{Notice: ill.Notice, NoticeAt: ill.NoticeAt}
	const auth = `"authentication":{"type":"basic","username":"u"}`
	for name, x := range map[string]struct {
		method, suffix, body string
		forgets              bool
	}{
		"new URL":             {http.MethodPatch, "", `{"dataCallbackURL":"https://other.example/"}`, true},
		"new method":          {http.MethodPatch, "", `{"method":"POST"}`, true},
		"new password":        {http.MethodPatch, "", `{"authentication":{"password":"n3w"}}`, true},
		"no authentication":   {http.MethodPatch, "", `{"authentication":null}`, true},
		"replaced by another": {http.MethodPut, "", minimal, true},
		"enabled":             {http.MethodPost, "/enable", "", true},
		"same URL":            {http.MethodPatch, "", `{"dataCallbackURL":"http://r.example:8080/x",` + auth + `}`, false},
		"replaced by itself":  {http.MethodPut, "", `{"dataCallbackURL":"http://r.example:8080/x","method":"PUT",` + auth + `}`, false},
		"new policy":          {http.MethodPatch, "", `{"delivery":null,"events":["a"],"filter":null,"signingSecret":null}`, false},
		"paused":              {http.MethodPost, "/pause", "", false},
		"new secret":          {http.MethodPost, "/secret", "", false},
	} {
		b := newBed(t)
		_, path := b.subscribe(everything)
		b.set(func(s *store.Subscription) { s.Health = ill })
		wantJSON[jsonObject](t, b.request(x.method, path+x.suffix, "sub", x.body), 200)
		want := ill
		if x.forgets {
			want = kept
		}
		if got := b.stored().Health; got != want {
			t.Errorf("%s: health %+v", name, got)
		}
	}
}

func TestEnablingIsTold(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, path := b.subscribe(minimal)
	enable := func() { wantJSON[jsonObject](t, b.request(http.MethodPost, path+"/enable", "sub", ""), 200) }
	enable()
	if len(b.told) != 0 {
		t.Errorf("told of what was active: %v", b.told)
	}
	b.request(http.MethodPost, path+"/pause", "sub", "")
	enable()
	enable()
	b.set(func(s *store.Subscription) { s.State, s.StateReason = store.StateDisabled, store.ReasonFailing })
	enable()
	if one := fmt.Sprint("herald.subscription.enabled ", b.stored().ID, " active"); len(b.told) != 2 || b.told[0] != one || b.told[1] != one {
		t.Errorf("told %v", b.told)
	}
	b.set(func(s *store.Subscription) {
		s.State, s.ValidationCallbackURL = store.StatePending, "https://r.example/v"
	})
	wantProblem(t, b.request(http.MethodPost, path+"/enable", "sub", ""), 409)
	if len(b.told) != 2 || len(b.queue.discarded) != 0 {
		t.Errorf("told %v, discarded %v", b.told, b.queue.discarded)
	}
}

func TestDiscarding(t *testing.T) {
	t.Parallel()
	disable := func(b *bed, discarding bool) {
		b.set(func(s *store.Subscription) {
			s.State, s.StateReason, s.Discarding = store.StateDisabled, store.ReasonFailing, discarding
		})
	}
	// The policy decides while it is disabled, the configured one when there is no other.
	for _, x := range []struct {
		configured store.OnDisabled
		before     bool
		body       string
		after      bool
	}{
		{"", false, `{"delivery":{"onDisabled":"discard"}}`, true},
		{"", true, `{"delivery":{"onDisabled":"hold"}}`, false},
		{"", true, `{"delivery":{"onDisabled":"discard"}}`, true},
		{store.OnDisabledDiscard, false, `{"delivery":{"onDisabled":"discard"}}`, true},
		{store.OnDisabledDiscard, true, `{"delivery":{"onDisabled":"hold"}}`, false},
		{store.OnDisabledDiscard, true, `{"delivery":{"maxConcurrency":2}}`, true},
		{store.OnDisabledDiscard, false, `{"delivery":{"maxConcurrency":2}}`, false}, // disabled before it was configured
		{"", true, `{"dataCallbackURL":"https://other.example/"}`, true},
	} {
		b := newBed(t, Settings{Policy: store.DeliveryPolicy{OnDisabled: x.configured}})
		_, path := b.subscribe(minimal)
		disable(b, x.before)
		wantJSON[jsonObject](t, b.request(http.MethodPatch, path, "sub", x.body), 200)
		if s := b.stored(); s.Discarding != x.after || s.State != store.StateDisabled {
			t.Errorf("%+v: discarding %v, state %s", x, s.Discarding, s.State)
		}
		if gave := len(b.queue.discarded) > 0; gave != (x.before && !x.after) {
			t.Errorf("%+v: what waited was given up: %v", x, gave)
		}
	}
	// One of its own goes back to the configured; PUT too.
	b := newBed(t, Settings{Policy: store.DeliveryPolicy{OnDisabled: store.OnDisabledDiscard}})
	_, path := b.subscribe(`{"dataCallbackURL":"https://r.example/x","delivery":{"onDisabled":"hold"}}`)
	disable(b, false)
	wantJSON[jsonObject](t, b.request(http.MethodPut, path, "sub", minimal), 200)
	if !b.stored().Discarding {
		t.Error("the configured policy does not hold")
	}
	// An active one does not discard, whatever the policy is.
	b = newBed(t)
	_, path = b.subscribe(minimal)
	wantJSON[jsonObject](t, b.request(http.MethodPatch, path, "sub", `{"delivery":{"onDisabled":"discard"}}`), 200)
	if b.stored().Discarding {
		t.Error("an active subscription discards")
	}
	// What came before it is enabled never flows, and it is not enabled when that cannot be made sure.
	disable(b, true)
	id := b.stored().ID
	b.queue.deliveries = append(b.queue.deliveries,
		&queue.Delivery{ID: queue.DeliveryID{Seq: 1, Lane: queue.Lane(id)}, AccountID: "acme", State: queue.StatePending})
	b.queue.setFail(errors.New("disk on fire"))
	wantProblem(t, b.request(http.MethodPost, path+"/enable", "sub", ""), 503)
	wantProblem(t, b.request(http.MethodPatch, path, "sub", `{"delivery":{"onDisabled":"hold"}}`), 503)
	if s := b.stored(); s.State != store.StateDisabled || !s.Discarding || len(b.told) != 0 {
		t.Errorf("%+v, told %v", s, b.told)
	}
	b.queue.setFail(queue.ErrGone)
	wantJSON[jsonObject](t, b.request(http.MethodPatch, path, "sub", `{"delivery":{"onDisabled":"hold"}}`), 200)
	b.queue.setFail(nil)
	disable(b, true)
	wantJSON[jsonObject](t, b.request(http.MethodPost, path+"/enable", "sub", ""), 200)
	d := b.queue.deliveries[0]
	if s := b.stored(); s.State != store.StateActive || s.Discarding || d.State != queue.StateDiscarded || d.Reason != queue.ReasonDisabled || len(b.told) != 1 {
		t.Errorf("%+v, delivery %+v, told %v", s, d, b.told)
	}
}
