package standin

import (
	"encoding/hex"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The limits of APNs.
const (
	apnsMaxPayload     = 4096
	apnsMaxVoIPPayload = 5120
	apnsMaxCollapseID  = 64
)

// apnsSuffixes are the push types, and what each adds to the topic.
var apnsSuffixes = map[string]string{
	"alert": "", "background": "", "voip": ".voip", "complication": ".complication", "fileprovider": ".pushkit.fileprovider", "mdm": "",
	"liveactivity": ".push-type.liveactivity", "location": ".location-query", "pushtotalk": ".voip-ptt", "widgets": ".push-type.widgets", "controls": ".push-type.controls",
}

var apnsUUID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// apnsKnown are the headers a request may have.
var apnsKnown = []string{
	"Authorization", "Apns-Topic", "Apns-Push-Type", "Apns-Id", "Apns-Expiration", "Apns-Priority", "Apns-Collapse-Id", "Content-Length",
	"Content-Type", "User-Agent", "Accept-Encoding", "Accept",
}

// apnsWrong is what is wrong with a request: how it is answered, and in words; the zero value for nothing.
type apnsWrong struct {
	status        int
	reason, fault string
}

func apnsBad(reason, fault string) apnsWrong { return apnsWrong{http.StatusBadRequest, reason, fault} }

// apnsTarget reads the device token out of a request's path.
func apnsTarget(r *http.Request) (string, apnsWrong) {
	token, ok := strings.CutPrefix(r.URL.Path, "/3/device/")
	switch {
	case r.URL.Path == "/3/device", ok && token == "":
		return "", apnsBad("MissingDeviceToken", "the path has no device token")
	case !ok || strings.Contains(token, "/") || r.URL.RawQuery != "":
		return "", apnsWrong{http.StatusNotFound, "BadPath", "the path is not /3/device/ and a device token"}
	case r.Method != http.MethodPost:
		return "", apnsWrong{http.StatusMethodNotAllowed, "MethodNotAllowed", "the method is " + r.Method + " and not POST"}
	}
	return token, apnsWrong{}
}

// apnsHeaders checks the headers but the authorization.
func (a *APNs) apnsHeaders(h http.Header, token string) apnsWrong {
	for name, values := range h {
		if len(values) > 1 {
			return apnsBad("DuplicateHeaders", "the header "+strings.ToLower(name)+" stands there twice")
		}
		if strings.HasPrefix(name, "Apns-") && !slices.Contains(apnsKnown, name) {
			return apnsBad("BadMessageId", "there is no header "+strings.ToLower(name))
		}
	}
	kind, given := h.Get("Apns-Push-Type"), h.Get("Apns-Topic")
	suffix, known := apnsSuffixes[kind]
	switch {
	case !known:
		return apnsBad("InvalidPushType", "apns-push-type is "+strconv.Quote(kind))
	case given == "":
		return apnsBad("MissingTopic", "there is no apns-topic")
	case !strings.HasSuffix(given, suffix):
		return apnsBad("BadTopic", "the apns-topic of a push of type "+kind+" ends with "+suffix)
	case a.options.Topic != "" && given != a.options.Topic+suffix:
		return apnsBad("TopicDisallowed", "apns-topic is "+strconv.Quote(given))
	}
	// APNs itself does without each of these.
	if id := h.Get("Apns-Id"); id != "" && !apnsUUID.MatchString(id) {
		return apnsBad("BadMessageId", "apns-id is not a UUID in lower case")
	}
	if text := h.Get("Apns-Expiration"); text != "" {
		if n, err := strconv.ParseInt(text, 10, 64); err != nil || n < 0 {
			return apnsBad("BadExpirationDate", "apns-expiration is not a number of seconds")
		}
	}
	priority := h.Get("Apns-Priority")
	if priority == "" {
		priority = "10"
	}
	if priority != "10" && priority != "5" && priority != "1" {
		return apnsBad("BadPriority", "apns-priority is "+strconv.Quote(priority))
	}
	if kind == "background" && priority != "5" {
		return apnsBad("BadPriority", "the apns-priority of a background push is not 5")
	}
	if len(h.Get("Apns-Collapse-Id")) > apnsMaxCollapseID {
		return apnsBad("BadCollapseId", "apns-collapse-id has more than 64 bytes")
	}
	if h.Get("Content-Encoding") != "" {
		return apnsBad("PayloadEmpty", "the payload is compressed")
	}
	if b, err := hex.DecodeString(token); err != nil || len(b) == 0 {
		return apnsBad("BadDeviceToken", "the device token is not hexadecimal")
	}
	return apnsWrong{}
}

// apnsPayload checks the payload of a push of that type.
func apnsPayload(kind string, payload []byte) apnsWrong {
	limit := apnsMaxPayload
	if kind == "voip" {
		limit = apnsMaxVoIPPayload
	}
	if len(payload) == 0 {
		return apnsBad("PayloadEmpty", "there is no payload")
	}
	if len(payload) > limit {
		return apnsWrong{http.StatusRequestEntityTooLarge, "PayloadTooLarge", "the payload is larger than " + strconv.Itoa(limit) + " bytes"}
	}
	var p struct {
		APS map[string]json.RawMessage `json:"aps"`
	}
	if err := json.Unmarshal(payload, &p); err != nil || p.APS == nil {
		return apnsBad("PayloadEmpty", "the payload is not a JSON object with the object aps")
	}
	if kind == "background" && (len(p.APS) != 1 || string(p.APS["content-available"]) != "1") {
		return apnsBad("InvalidPushType", "the aps of a background push has more or less than content-available 1")
	}
	return apnsWrong{}
}
