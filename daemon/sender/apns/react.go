package apns

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"herald/daemon/sender"
	"herald/queue"
)

// How long a notification waits at least.
const (
	// deviceWait: after too many for one device, or too many provider tokens.
	deviceWait = time.Minute
	// troubleWait is what Apple asks for after its own errors.
	troubleWait = 15 * time.Minute
)

// The reasons that the sender itself acts on.
const (
	reasonExpiredToken  = "ExpiredProviderToken"
	reasonTooManyTokens = "TooManyProviderTokenUpdates"
	reasonUnrelatedKey  = "UnrelatedKeyIdInToken"
	reasonIdleTimeout   = "IdleTimeout"
	reasonShutdown      = "Shutdown"
)

// answer is what APNs says of a notification it did not take.
type answer struct {
	reason string
	// since is when the token died; zero when it is not told.
	since time.Time
}

// reaction is what follows from an answer.
type reaction struct {
	status   int
	class    queue.Class
	device   sender.DeviceFate
	wait     time.Duration
	innocent bool
	// why is Outcome.Reason, text says for people what is wrong.
	why, text string
}

// The reactions that several reasons have.
func ours(status int, text string) reaction {
	return reaction{status: status, class: queue.ClassRejected, innocent: true, text: text}
}

func credential(status int, text string) reaction {
	return reaction{status: status, class: queue.ClassMisconfigured, text: text}
}

func trouble(status int) reaction {
	return reaction{status: status, class: queue.ClassRetry, wait: troubleWait, text: "it is in trouble itself"}
}

func now(status int, text string) reaction {
	return reaction{status: status, class: queue.ClassRetry, text: text}
}

func dead(text string) reaction {
	return reaction{
		status: http.StatusGone, class: queue.ClassGone, device: sender.DeviceDead, innocent: true, why: sender.ReasonUnregistered, text: text,
	}
}

// malformed is of what Herald itself writes.
const malformed = "this is an error in what Herald sends"

// reactions are those to the reasons that Apple names, each with its status ("Handling notification responses from APNs").
var reactions = map[string]reaction{
	"BadDeviceToken": {
		status: http.StatusBadRequest, class: queue.ClassGone, device: sender.DeviceElsewhere, innocent: true, why: sender.ReasonUnregistered,
		text: "the device token is not one of this environment (sandbox or production)",
	},
	"DeviceTokenNotForTopic": {
		status: http.StatusBadRequest, class: queue.ClassRejected, device: sender.DeviceForeign, innocent: true, why: sender.ReasonUnregistered,
		text: "the device token belongs to another app than the topic names",
	},
	"BadCollapseId":      ours(http.StatusBadRequest, malformed),
	"BadExpirationDate":  ours(http.StatusBadRequest, malformed),
	"BadMessageId":       ours(http.StatusBadRequest, malformed),
	"BadPriority":        ours(http.StatusBadRequest, malformed),
	"InvalidPushType":    ours(http.StatusBadRequest, malformed),
	"PayloadEmpty":       ours(http.StatusBadRequest, malformed),
	"DuplicateHeaders":   ours(http.StatusBadRequest, malformed),
	"MissingDeviceToken": ours(http.StatusBadRequest, malformed),
	"BadTopic":           credential(http.StatusBadRequest, "the topic (bundle id) is not valid"),
	"MissingTopic":       credential(http.StatusBadRequest, "a topic (bundle id) is needed with these credentials"),
	"TopicDisallowed":    credential(http.StatusBadRequest, "pushing to this topic (bundle id) is not allowed"),
	reasonIdleTimeout:    now(http.StatusBadRequest, "the connection had been idle for too long"),

	reasonExpiredToken:           credential(http.StatusForbidden, "the provider token is too old although it is new: the clock of this machine is wrong"),
	"InvalidProviderToken":       credential(http.StatusForbidden, "key, key id and team id do not belong together, or the key was revoked"),
	"MissingProviderToken":       credential(http.StatusForbidden, "the certificate is not valid for the topic (bundle id)"),
	"BadCertificate":             credential(http.StatusForbidden, "the certificate is not valid, expired or revoked"),
	"BadCertificateEnvironment":  credential(http.StatusForbidden, "the certificate is for the other environment (sandbox or production)"),
	"BadEnvironmentKeyIdInToken": credential(http.StatusForbidden, "the key is for the other environment (sandbox or production)"),
	"BadEnvironmentKeyInToken":   credential(http.StatusForbidden, "the key is for the other environment (sandbox or production)"),
	reasonUnrelatedKey:           now(http.StatusForbidden, "another key was used on the connection before"),
	"Forbidden":                  ours(http.StatusForbidden, "the action is not allowed"),

	"BadPath":          ours(http.StatusNotFound, malformed),
	"MethodNotAllowed": ours(http.StatusMethodNotAllowed, malformed),
	"Unregistered":     dead("the device token is not active for the topic any more"),
	"ExpiredToken":     dead("the device token has expired"),
	"PayloadTooLarge":  tooLong,

	"TooManyRequests": {
		status: http.StatusTooManyRequests, class: queue.ClassRetry, device: sender.DeviceThrottled, wait: deviceWait, innocent: true,
		text: "too many notifications were sent to this device",
	},
	reasonTooManyTokens: {
		status: http.StatusTooManyRequests, class: queue.ClassRetry, wait: deviceWait, text: "the provider token changes too often",
	},

	"InternalServerError": trouble(http.StatusInternalServerError),
	"ServiceUnavailable":  trouble(http.StatusServiceUnavailable),
	reasonShutdown:        trouble(http.StatusServiceUnavailable),
}

var tooLong = reaction{
	status: http.StatusRequestEntityTooLarge, class: queue.ClassRejected, innocent: true, why: sender.ReasonTooLarge, text: "the payload is too large",
}

// react is the reaction to an answer. A reason that comes with another status than its own is not relied on: the status decides then, and
// with a reason that is not known.
func react(status int, reason string) reaction {
	r, known := reactions[reason]
	if known && (r.status == status || r.class == queue.ClassMisconfigured && status/100 == 4) {
		return r
	}
	switch {
	case status == http.StatusForbidden:
		return credential(status, "the credentials are not accepted")
	case status == http.StatusGone:
		return dead("the device token is not active any more")
	case status == http.StatusRequestEntityTooLarge:
		return tooLong
	case status == http.StatusTooManyRequests:
		return reaction{class: queue.ClassRetry, wait: deviceWait, text: "too many notifications were sent"}
	case status/100 == 4:
		return ours(status, "the request is not accepted")
	case status/100 == 5:
		return trouble(status)
	}
	return now(status, "this is no answer of APNs")
}

// parse reads the body of an answer; whatever it does not understand is left out.
func parse(body []byte) answer {
	var a struct {
		Reason    string          `json:"reason"`
		Timestamp json.RawMessage `json:"timestamp"`
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return answer{}
	}
	got := answer{reason: a.Reason}
	if ms, err := strconv.ParseInt(string(a.Timestamp), 10, 64); err == nil && ms > 0 && ms < maxTimestamp {
		got.since = time.UnixMilli(ms).UTC()
	}
	return got
}

// maxTimestamp is the year 10000.
const maxTimestamp = 253_402_300_800_000

// words are how an answer is told to the owner of the app.
func words(status int, reason string, r *reaction) string {
	text := "APNs answered " + strconv.Itoa(status)
	if _, known := reactions[reason]; known { // another could hold anything
		text += " " + reason
	}
	return text + ": " + r.text
}
