package standin

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// schema is a discovery document, as far as the bodies of requests go.
type schema struct {
	Schemas map[string]*typ `json:"schemas"`
}

// typ is a type of a discovery document.
type typ struct {
	Ref                  string          `json:"$ref"`
	Type                 string          `json:"type"`
	Format               string          `json:"format"`
	Enum                 []string        `json:"enum"`
	Properties           map[string]*typ `json:"properties"`
	AdditionalProperties *typ            `json:"additionalProperties"`
	Items                *typ            `json:"items"`
}

func parseSchema(document []byte) (*schema, error) {
	var s schema
	if err := json.Unmarshal(document, &s); err != nil {
		return nil, fmt.Errorf("read the discovery document: %w", err)
	}
	if s.Schemas["SendMessageRequest"] == nil {
		return nil, errors.New("the discovery document knows no SendMessageRequest")
	}
	return &s, nil
}

// check says what is wrong with the body of a request for a message: against the document, and against what it has in words only. The body is valid JSON, and has no
// member twice.
func (s *schema) check(body []byte) []string {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return []string{err.Error()}
	}
	var wrong []string
	s.walk(&typ{Ref: "SendMessageRequest"}, v, "", &wrong)
	if len(wrong) > 0 {
		return wrong // the rest relies on the types
	}
	message, _ := v.(map[string]any)["message"].(map[string]any)
	return checkMessage(message)
}

// walk holds a value against its type.
func (s *schema) walk(t *typ, v any, at string, wrong *[]string) {
	fault := func(format string, args ...any) {
		*wrong = append(*wrong, strings.TrimPrefix(at, ".")+": "+fmt.Sprintf(format, args...))
	}
	if t.Ref != "" {
		of := s.Schemas[t.Ref]
		if of == nil {
			fault("the document has no type %s", t.Ref)
			return
		}
		t = of
	}
	switch t.Type {
	case "any":
	case "object":
		o, ok := v.(map[string]any)
		if !ok {
			fault("is not an object")
			return
		}
		for _, name := range slices.Sorted(maps.Keys(o)) {
			of := t.Properties[name]
			if of == nil {
				of = t.AdditionalProperties
			}
			if of == nil {
				fault("has no member %q", name)
				continue
			}
			s.walk(of, o[name], at+"."+name, wrong)
		}
	case "array":
		list, ok := v.([]any)
		if !ok {
			fault("is not an array")
		}
		for i, e := range list {
			s.walk(t.Items, e, at+"["+strconv.Itoa(i)+"]", wrong)
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			fault("is not a boolean")
		}
	case "integer", "number":
		n, ok := v.(json.Number)
		if !ok {
			fault("is not a number")
		} else if f, err := n.Float64(); err != nil || t.Format == "int32" && (f != math.Trunc(f) || f > math.MaxInt32 || f < math.MinInt32) {
			fault("is no %s", t.Format)
		}
	case "string":
		text, ok := v.(string)
		if !ok {
			fault("is not a string")
			return
		}
		if len(t.Enum) > 0 && !slices.Contains(t.Enum, text) {
			fault("is %q, not one of %s", text, strings.Join(t.Enum, ", "))
		}
		if !wellFormed(t.Format, text) {
			fault("is %q, no %s", text, t.Format)
		}
	default:
		fault("has the type %q, which is not understood here", t.Type)
	}
}

var duration = regexp.MustCompile(`^-?[0-9]+(\.[0-9]{1,9})?s$`)

func wellFormed(format, text string) bool {
	switch format {
	case "", "google-fieldmask":
		return true
	case "google-duration":
		return duration.MatchString(text)
	case "google-datetime":
		_, err := time.Parse(time.RFC3339Nano, text)
		return err == nil
	case "byte":
		_, err := base64.StdEncoding.DecodeString(text)
		return err == nil
	case "int64", "uint64":
		_, err := strconv.ParseInt(text, 10, 64)
		return err == nil
	}
	return false
}

// checkMessage holds a message against the rules that the document has in words: it relies on the types.
func checkMessage(m map[string]any) []string {
	var wrong []string
	fault := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	object := func(o map[string]any, name string) map[string]any {
		v, _ := o[name].(map[string]any)
		return v
	}
	if m["name"] != nil {
		fault("message.name: is output only")
	}
	if m["android"] != nil && m["androidV2"] != nil {
		fault("message: has android and androidV2, which exclude each other")
	}
	for key := range object(m, "data") {
		if key == "from" || key == "message_type" || strings.HasPrefix(key, "google.") || strings.HasPrefix(key, "gcm.notification.") {
			fault("message.data: the key %q is reserved", key)
		}
	}
	if ttl, ok := object(m, "android")["ttl"].(string); ok {
		if life, err := time.ParseDuration(ttl); err != nil || life < 0 || life > 28*24*time.Hour {
			fault("message.android.ttl: is %s, not between 0 and four weeks", ttl)
		}
	}
	apns := object(m, "apns")
	headers := object(apns, "headers")
	aps := object(object(apns, "payload"), "aps")
	if priority, ok := headers["apns-priority"]; ok && priority != "5" && priority != "10" && priority != "1" {
		fault("message.apns.headers: apns-priority is %v, not 10, 5 or 1", priority)
	}
	if apns != nil && m["notification"] == nil && aps["alert"] == nil && aps["badge"] == nil && aps["sound"] == nil && headers["apns-priority"] == "10" {
		fault("message.apns.headers: apns-priority of a message of data alone is 10, not 5")
	}
	if text, ok := headers["apns-expiration"].(string); ok {
		if _, err := strconv.ParseUint(text, 10, 63); err != nil {
			fault("message.apns.headers: apns-expiration is %q, no number of seconds", text)
		}
	}
	if id, ok := headers["apns-collapse-id"].(string); ok && len(id) > 64 {
		fault("message.apns.headers: apns-collapse-id has more than 64 bytes")
	}
	webpush := object(m, "webpush")
	if link, ok := object(webpush, "fcmOptions")["link"].(string); ok && !strings.HasPrefix(link, "https://") {
		fault("message.webpush.fcmOptions.link: is no https URL")
	}
	if ttl, ok := object(webpush, "headers")["TTL"].(string); ok {
		if _, err := strconv.ParseUint(ttl, 10, 31); err != nil {
			fault("message.webpush.headers: TTL is %q, no number of seconds", ttl)
		}
	}
	if size := payload(m); size > 4096 {
		fault("message: has %d bytes of notification and data, more than 4096", size)
	}
	return wrong
}

// payload is how many bytes a message has for a device: names and values of notification and data.
func payload(m map[string]any) int {
	size := 0
	for _, name := range []string{"notification", "data"} {
		o, _ := m[name].(map[string]any)
		for key, v := range o {
			text, _ := v.(string)
			size += len(key) + len(text)
		}
	}
	if apns, ok := m["apns"].(map[string]any); ok && apns["payload"] != nil {
		b, _ := json.Marshal(apns["payload"]) // it came as JSON
		size += len(b)
	}
	return size
}
