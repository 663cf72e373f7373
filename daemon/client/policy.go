package client

import "encoding/json"

// DeliveryPolicy overrides the configured policy; zero members do not.
type DeliveryPolicy struct {
	// TimeoutSeconds bounds one attempt, up to 300.
	TimeoutSeconds float64 `json:"timeoutSeconds,omitempty"`
	// RetrySchedule is the waits between attempts.
	RetrySchedule Schedule `json:"retrySchedule,omitzero"`
	// MaxConcurrency is how many pushes may be under way at once, 1 to 1000.
	MaxConcurrency int `json:"maxConcurrency,omitempty"`
	// RateLimit is how many records a second may go out, 0.0001 to 100000.
	RateLimit float64 `json:"rateLimit,omitempty"`
	// RateBurst is how many records may go out at once after a rest, 1 to 100000; it needs a RateLimit. 0 means
	// those of one second, at least 1.
	RateBurst int `json:"rateBurst,omitempty"`
	// Ordering is one of the Order constants.
	Ordering string `json:"ordering,omitempty"`
	// OrderingKey is the field of the data whose values are kept in order by OrderKey, such as customer.id; empty
	// means the event's resource.
	OrderingKey string `json:"orderingKey,omitempty"`
	// DisableAfter says when failing disables the subscription; nil means as configured, an empty one never.
	DisableAfter *DisableAfter `json:"disableAfter,omitempty"`
	// OnDisabled is OnDisabledHold or OnDisabledDiscard.
	OnDisabled string `json:"onDisabled,omitempty"`
}

// The orders of deliveries.
const (
	// OrderNone: as fast as it goes.
	OrderNone = "none"
	// OrderKey: in the order of acceptance for each value of OrderingKey.
	OrderKey = "key"
	// OrderStrict: in the order of acceptance, one push at a time.
	OrderStrict = "strict"
)

// What becomes of the deliveries of a disabled subscription.
const (
	// OnDisabledHold: they wait until it is enabled, as long as they are retained.
	OnDisabledHold = "hold"
	// OnDisabledDiscard: they are given up.
	OnDisabledDiscard = "discard"
)

// DisableAfter says when failing disables a subscription: whichever is set and comes first.
type DisableAfter struct {
	// Duration of failing without one success, 1m to 365d, such as "120h" or "5d"; the daemon answers it in
	// hours, minutes and seconds, as time.ParseDuration reads it. Empty is off.
	Duration string `json:"duration,omitempty"`
	// Failures is how many failed pushes in a row, 1 to 1000000; 0 is off.
	Failures int `json:"failures,omitempty"`
}

// Schedule is a retry schedule: a name ("standard", "day", "quick"), or a list of waits such as
// "5s", "5m". One of the two is set; both empty means the configured one.
type Schedule struct {
	Name  string
	Waits []string
}

// IsZero says whether no schedule is given.
func (s Schedule) IsZero() bool { return s.Name == "" && len(s.Waits) == 0 }

// MarshalJSON writes the name as a string, or the waits as an array.
func (s Schedule) MarshalJSON() ([]byte, error) {
	if s.Name != "" {
		return json.Marshal(s.Name)
	}
	return json.Marshal(s.Waits)
}

// UnmarshalJSON reads either form.
func (s *Schedule) UnmarshalJSON(b []byte) error {
	*s = Schedule{}
	if len(b) > 0 && b[0] == '[' {
		return json.Unmarshal(b, &s.Waits)
	}
	return json.Unmarshal(b, &s.Name)
}
