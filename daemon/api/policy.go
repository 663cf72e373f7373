package api

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"herald/queue"
	"herald/store"
)

// deliveryPolicy is a subscription's own policy as a read shows it: what was set, and nothing of the
// configuration.
type deliveryPolicy struct {
	TimeoutSeconds float64           `json:"timeoutSeconds,omitzero"`
	RetrySchedule  jsontext.Value    `json:"retrySchedule,omitempty"`
	MaxConcurrency int               `json:"maxConcurrency,omitzero"`
	RateLimit      float64           `json:"rateLimit,omitzero"`
	RateBurst      int               `json:"rateBurst,omitzero"`
	Ordering       string            `json:"ordering,omitempty"`
	OrderingKey    string            `json:"orderingKey,omitempty"`
	DisableAfter   *disableAfterView `json:"disableAfter,omitzero"` // {} says: never
	OnDisabled     string            `json:"onDisabled,omitempty"`
}

type disableAfterView struct {
	Duration string `json:"duration,omitempty"`
	Failures int    `json:"failures,omitzero"`
}

// viewPolicy shows the policy, nil for one that sets nothing.
func viewPolicy(d *store.DeliveryPolicy) *deliveryPolicy {
	if *d == (store.DeliveryPolicy{}) {
		return nil
	}
	v := &deliveryPolicy{
		TimeoutSeconds: d.Timeout.Seconds(), RetrySchedule: viewSchedule(d.RetrySchedule), MaxConcurrency: d.MaxConcurrency,
		RateLimit: d.RateLimit, RateBurst: d.RateBurst, Ordering: string(d.Ordering), OrderingKey: d.OrderingKey,
		OnDisabled: string(d.OnDisabled),
	}
	if d.DisableAfter.Set {
		v.DisableAfter = &disableAfterView{viewDuration(d.DisableAfter.Duration), d.DisableAfter.Failures}
	}
	return v
}

// viewSchedule is a schedule in the form it was given: a name, or a list of waits.
func viewSchedule(text string) jsontext.Value {
	if text == "" {
		return nil
	}
	if slices.Contains(queue.ScheduleNames(), text) {
		return jsontext.Value(`"` + text + `"`)
	}
	// A stored schedule consists of durations, which need no escaping.
	return jsontext.Value(`["` + strings.ReplaceAll(text, ",", `","`) + `"]`)
}

// viewDuration is a duration in hours, minutes and seconds, without parts of zero; "" for none. Days, which
// are taken, are not written: not every reader of Go's durations knows them.
func viewDuration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

const (
	minTimeout     = 100 * time.Millisecond
	maxTimeout     = 5 * time.Minute
	maxConcurrency = 1000
	// minRate is a record in less than three hours: slower than any receiver, and far from what no time can
	// be reckoned with.
	minRate  = 0.0001
	maxRate  = 100_000
	maxBurst = 100_000

	day                = 24 * time.Hour
	minDisableDuration = time.Minute
	maxDisableDuration = 365 * day
	maxDisableFailures = 1_000_000
)

// delivery reads the policy. What is absent in the object stays as it is, which is the configuration's for all
// calls but PATCH.
func (p *subscriptionInput) delivery() {
	n, is := p.get("delivery", "an object", jsontext.KindBeginObject)
	if is == null {
		p.next.Delivery = store.DeliveryPolicy{}
	}
	if is != given {
		return
	}
	f := object(n, "/delivery", p.faults)
	d := &p.next.Delivery
	if v, is := f.seconds("timeoutSeconds", minTimeout, maxTimeout); is == given || is == null {
		d.Timeout = v
	}
	if s, is := schedule(f); is == given || is == null {
		d.RetrySchedule = s
	}
	if v, is := f.integer("maxConcurrency", 1, maxConcurrency); is == given || is == null {
		d.MaxConcurrency = v
	}
	rateLimit(f, d)
	ordering(f, d)
	p.disableAfter(f, d)
	if s, is := f.choice("onDisabled", string(store.OnDisabledHold), string(store.OnDisabledDiscard)); is == given || is == null {
		d.OnDisabled = store.OnDisabled(s)
	}
	f.end("")
}

// rateLimit reads the rate limit and its burst. A burst belongs to a limit of the subscription's own: nobody can tell
// what it would do to one that is the operator's to change.
func rateLimit(f *fields, d *store.DeliveryPolicy) {
	limit, is := f.number("rateLimit", minRate, maxRate)
	if is == given || is == null {
		d.RateLimit = limit
	}
	if v, is := f.integer("rateBurst", 1, maxBurst); is == given || is == null {
		d.RateBurst = v
	}
	if is != wrong && d.RateBurst > 0 && d.RateLimit == 0 {
		f.fault("rateBurst", "needs a rateLimit beside it; without one of its own the subscription has the configured limit and its burst")
	}
}

// ordering reads the order and its key, which has a meaning in one of the orders only.
func ordering(f *fields, d *store.DeliveryPolicy) {
	s, is := f.choice("ordering", string(store.OrderNone), string(store.OrderKey), string(store.OrderStrict))
	if is == given || is == null {
		d.Ordering = store.Ordering(s)
	}
	switch s, is := f.text("orderingKey"); is {
	case null:
		d.OrderingKey = ""
	case given:
		if _, err := store.ParsePath(s); err != nil {
			f.fault("orderingKey", "%s", err.Error())
			return
		}
		d.OrderingKey = s
	case absent, wrong:
	}
	if is != wrong && d.OrderingKey != "" && d.Ordering != store.OrderKey {
		f.fault("orderingKey", `is only for "ordering":"key"; with another order, or the configured one, it has to be left out or null`)
	}
}

// disableAfter reads when failing disables. An empty object is never, in a PATCH too, where nobody means
// "change nothing" by it; otherwise a PATCH leaves what it does not name (RFC 7396).
func (p *subscriptionInput) disableAfter(f *fields, d *store.DeliveryPolicy) {
	n, is := f.get("disableAfter", `an object such as {"duration":"120h","failures":50}`, jsontext.KindBeginObject)
	if is == null {
		d.DisableAfter = store.DisableAfter{}
	}
	if is != given {
		return
	}
	a := object(n, f.path+"/disableAfter", p.faults)
	next := store.DisableAfter{Set: true}
	if p.how == patching && len(n.members) > 0 {
		next.Duration, next.Failures = d.DisableAfter.Duration, d.DisableAfter.Failures
	}
	if v, is := a.duration("duration", minDisableDuration, maxDisableDuration); is == given || is == null {
		next.Duration = v
	}
	if v, is := a.integer("failures", 1, maxDisableFailures); is == given || is == null {
		next.Failures = v
	}
	a.end("")
	d.DisableAfter = next
}

// filter reads the conditions on the data. A PATCH replaces them as a whole: a null within them is a value to
// compare with, not a member to remove.
func (p *subscriptionInput) filter() {
	n, is := p.get("filter", `an object of conditions on the data, such as {"customer.country":"NL"}`, jsontext.KindBeginObject)
	if is == null {
		p.next.Filter = nil
	}
	if is != given {
		return
	}
	filter, err := store.ParseFilter([]byte(n.text))
	if err != nil {
		filterFaults(p.fields, err)
		return
	}
	p.next.Filter = filter
}

// batch checks the number of records against the method.
func (p *subscriptionInput) batch() {
	if p.next.NumberOfRecords > 1 && p.next.Method == http.MethodGet {
		p.fault("numberOfRecords", "must be 1 with the method GET, which has no body to carry several; it is %d", p.next.NumberOfRecords)
	}
}

// effective is what the operator's policy makes of a subscription's own: what is not set is as configured.
func effective(own, configured *store.DeliveryPolicy) store.DeliveryPolicy {
	d := *own
	if d.MaxConcurrency == 0 {
		d.MaxConcurrency = configured.MaxConcurrency
	}
	if !d.DisableAfter.Set {
		d.DisableAfter = configured.DisableAfter
	}
	if d.OnDisabled == "" {
		d.OnDisabled = configured.OnDisabled
	}
	return d
}

// maxWaitText bounds the spelling of one wait, which is kept as it was given.
const maxWaitText = 32

// schedule reads a retry schedule: a name, or a list of waits. Its text form is the list with commas.
func schedule(f *fields) (string, presence) {
	const name = "retrySchedule"
	names := strings.Join(queue.ScheduleNames(), ", ")
	n, is := f.get(name, "one of "+names+`, or an array of waits such as ["5s","5m"]`, jsontext.KindString, jsontext.KindBeginArray)
	if is != given {
		return "", is
	}
	if n.kind == jsontext.KindString {
		if !slices.Contains(queue.ScheduleNames(), n.text) {
			f.fault(name, `must be one of %s, or an array of waits such as ["5s","5m"]`, names)
			return "", wrong
		}
		return n.text, given
	}
	if len(n.items) == 0 || len(n.items) > queue.MaxRetries {
		f.fault(name, "must have 1 to %d waits", queue.MaxRetries)
		return "", wrong
	}
	waits := make([]string, len(n.items))
	for i := range n.items {
		at := name + "/" + strconv.Itoa(i)
		item := &n.items[i]
		d, err := time.ParseDuration(item.text)
		switch {
		case item.kind != jsontext.KindString || err != nil || len(item.text) > maxWaitText:
			f.element(at, "must be a wait as text, such as 5s, 10m or 2h")
			is = wrong
		case d < queue.MinWait || d > queue.MaxWait:
			f.element(at, "must be between %s and %s", queue.MinWait, queue.MaxWait)
			is = wrong
		}
		waits[i] = item.text
	}
	if is != given {
		return "", is
	}
	text := strings.Join(waits, ",")
	if _, err := queue.ParseSchedule(text); err != nil {
		f.fault(name, "%s", err.Error())
		return "", wrong
	}
	return text, given
}
