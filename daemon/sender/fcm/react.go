package fcm

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"time"
	"unicode"

	"herald/daemon/sender"
	"herald/queue"
)

const (
	// quotaWait is how long FCM wants to be left alone over its quota when it does not say.
	quotaWait = time.Minute
	// maxSaid is how much of FCM's own words is repeated, in bytes.
	maxSaid = 300
	// notAToken is how FCM says that a token never was one. Its code is that of all bad requests, so there is only the text to tell.
	notAToken = "registration token is not a valid fcm registration token"
)

// reply is what is understood of an answer (google.rpc.Status in the form of Google's APIs).
type reply struct {
	Name  string `json:"name"`
	Error struct {
		Message string   `json:"message"`
		Status  string   `json:"status"`
		Details []detail `json:"details"`
	} `json:"error"`
}

type detail struct {
	Type      string `json:"@type"`
	ErrorCode string `json:"errorCode"`
	// Violations are those of a google.rpc.QuotaFailure.
	Violations []struct {
		Subject     string `json:"subject"`
		Description string `json:"description"`
	} `json:"violations"`
}

// parse reads a body as far as it can be: an error page, or one that broke off, is an empty reply, and what is of another type than it should be is
// left out. The standard library's package does just that.
func parse(body []byte) reply {
	var r reply
	_ = json.Unmarshal(body, &r) // see above
	return r
}

// code is FCM's own code where there is one, else the status of the API, else what the HTTP status stands for; "" for one that stands for
// nothing that is known here.
func (r *reply) code(status int) string {
	for _, d := range r.Error.Details {
		switch d.ErrorCode {
		case "INVALID_ARGUMENT", "UNREGISTERED", "SENDER_ID_MISMATCH", "QUOTA_EXCEEDED", "UNAVAILABLE", "INTERNAL", "THIRD_PARTY_AUTH_ERROR":
			return d.ErrorCode
		}
	}
	switch r.Error.Status {
	case "INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND", "INTERNAL", "UNAVAILABLE":
		return r.Error.Status
	case "RESOURCE_EXHAUSTED":
		return "QUOTA_EXCEEDED"
	}
	switch status {
	case http.StatusBadRequest:
		return "INVALID_ARGUMENT"
	case http.StatusUnauthorized:
		return "UNAUTHENTICATED"
	case http.StatusForbidden:
		return "PERMISSION_DENIED"
	case http.StatusNotFound:
		return "NOT_FOUND"
	case http.StatusTooManyRequests:
		return "QUOTA_EXCEEDED"
	}
	return ""
}

// judge says what an answer means, and whether it is the access token that was refused.
func judge(status int, h http.Header, body []byte, project string, now time.Time) (_ sender.Result, refused bool) {
	a := parse(body)
	r := sender.Result{Outcome: queue.Outcome{Class: queue.ClassRetry, Status: status}}
	r.Error = "FCM answered " + sender.StatusText(status)
	switch {
	case status >= 200 && status <= 299 && a.Name == "" && len(bytes.TrimSpace(body)) > 0 && bytes.TrimSpace(body)[0] != '{':
		r.Error += ", and what came with it is no answer of FCM's"
		return r, false
	case status >= 200 && status <= 299:
		r.Class, r.Error = queue.ClassDelivered, ""
		r.MessageID, r.Device = a.Name, sender.DeviceSeen
		return r, false
	case status < 400:
		r.Error += "; redirects are not followed"
		return r, false
	}
	code := a.code(status)
	if code != "" {
		r.Error += " (" + code + ")"
	}
	if a.Error.Message != "" {
		r.Error += ": " + said(a.Error.Message)
	}
	if status >= 500 { // whatever it says of a token or of credentials, it is FCM that failed
		if status == http.StatusServiceUnavailable {
			r.RetryAfter = sender.RetryAfter(h, now)
		}
		return r, false
	}
	switch code {
	case "UNREGISTERED":
		gone(&r)
	case "INVALID_ARGUMENT":
		if a.deniesToken() {
			gone(&r)
			break
		}
		r.Class, r.Innocent = queue.ClassRejected, true
	case "SENDER_ID_MISMATCH":
		r.Class, r.Reason, r.Device, r.Innocent = queue.ClassRejected, sender.ReasonUnregistered, sender.DeviceForeign, true
		explain(&r, "the token belongs to another Firebase project than the service account's")
	case "QUOTA_EXCEEDED":
		wait := sender.RetryAfter(h, now)
		if wait == 0 {
			wait = quotaWait
		}
		if a.ofTarget(project) {
			r.Innocent, r.Wait, r.Device = true, wait, sender.DeviceThrottled
		} else {
			r.RetryAfter = wait
		}
	case "THIRD_PARTY_AUTH_ERROR":
		r.Class = queue.ClassMisconfigured
		explain(&r, "the Firebase project's own key for APNs or for web push is missing or wrong")
	case "UNAUTHENTICATED":
		r.Class, refused = queue.ClassMisconfigured, true
		explain(&r, "the access token of the service account is not taken")
	case "PERMISSION_DENIED":
		r.Class = queue.ClassMisconfigured
		explain(&r, "the service account may not send for the project "+project+", or its Firebase Cloud Messaging API is switched off")
	case "NOT_FOUND":
		r.Class = queue.ClassMisconfigured
		explain(&r, "there is no project "+project+" at this place; nothing is said of the token")
	case "INTERNAL", "UNAVAILABLE":
	default:
		switch status {
		case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, 499: // Google's for a call that was cancelled
		case http.StatusRequestEntityTooLarge:
			r.Class, r.Reason, r.Innocent = queue.ClassRejected, sender.ReasonTooLarge, true
		default:
			r.Class, r.Innocent = queue.ClassRejected, true
		}
	}
	r.Error = queue.ErrorText(r.Error)
	return r, refused
}

// gone: the device's token is dead.
func gone(r *sender.Result) {
	r.Class, r.Reason, r.Device, r.Innocent = queue.ClassGone, sender.ReasonUnregistered, sender.DeviceDead, true
}

// explain adds what the owner of the app can do with the answer.
func explain(r *sender.Result, text string) { r.Error += "; " + text }

// deniesToken tells a bad request whose fault is that the token is none from all others: FCM itself says so, and no google.rpc.BadRequest blames
// a member of the message.
func (r *reply) deniesToken() bool {
	own := false
	for _, d := range r.Error.Details {
		if strings.HasSuffix(d.Type, "google.rpc.BadRequest") {
			return false
		}
		own = own || strings.HasSuffix(d.Type, "google.firebase.fcm.v1.FcmError") && d.ErrorCode == "INVALID_ARGUMENT"
	}
	return own && strings.Contains(strings.ToLower(r.Error.Message), notAToken)
}

// ofTarget tells the quota of one device (or topic) from that of the project, whose name may hold any word.
func (r *reply) ofTarget(project string) bool {
	about := func(text string) bool {
		text = strings.ToLower(text)
		if project != "" {
			text = strings.ReplaceAll(text, strings.ToLower(project), "")
		}
		return strings.Contains(text, "device") || strings.Contains(text, "topic")
	}
	for _, d := range r.Error.Details {
		for _, v := range d.Violations {
			if about(v.Subject) || about(v.Description) {
				return true
			}
		}
	}
	return about(r.Error.Message)
}

// said is what a provider said, in one line that is not too long.
func said(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }), " ")
	if len(text) > maxSaid {
		text = strings.ToValidUTF8(text[:maxSaid], "") + "…"
	}
	return strings.TrimRight(text, ".")
}
