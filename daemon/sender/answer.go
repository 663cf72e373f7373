package sender

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// MaxRetryAfter bounds what is believed of Retry-After, so that no number of seconds overflows. How long is really waited is the caller's
	// business.
	MaxRetryAfter = 24 * time.Hour
	// bodyPatience is how long the body of an answer may take once its headers are in.
	bodyPatience = time.Second
)

// RetryAfter reads Retry-After (RFC 9110, section 10.2.3): seconds or a date, up to MaxRetryAfter. What is neither, or lies in the past, is 0.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if text == "" {
		return 0
	}
	if strings.Trim(text, "0123456789") == "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || seconds > int64(MaxRetryAfter/time.Second) { // digits only: it is too large
			return MaxRetryAfter
		}
		return time.Duration(seconds) * time.Second
	}
	date, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return min(max(date.Sub(now), 0), MaxRetryAfter)
}

// StatusText is the code with its registered name, such as "404 Not Found". The words of whoever answered are not repeated.
func StatusText(code int) string {
	text := strconv.Itoa(code)
	if name := http.StatusText(code); name != "" {
		text += " " + name
	}
	return text
}

// ReadBody reads and closes the body of an answer whose verdict is mostly in the status: up to limit bytes, and for no longer than a second. What
// breaks off has told what it had to tell. A body that ended is what lets its stream go.
func ReadBody(resp *http.Response, limit int64) []byte {
	defer func() { _ = resp.Body.Close() }()
	if resp.Body == http.NoBody || resp.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	// Closing is what makes a Read return that waits for the server.
	patience := time.AfterFunc(bodyPatience, func() { _ = resp.Body.Close() })
	defer patience.Stop()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, limit))
	return body
}
