package client

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Problem is the error of a call the daemon refused or could not do: its application/problem+json
// document (RFC 9457, with statusCode for the status). Every call returns it as *Problem; test with
// errors.As.
type Problem struct {
	// Title is what kind of problem it is.
	Title string `json:"title"`
	// StatusCode is the HTTP status, from 300.
	StatusCode int `json:"statusCode"`
	// Detail says what was wrong and what would be right.
	Detail string `json:"detail"`
	// Instance is the path of the request.
	Instance string `json:"instance"`
	// Errors lists the wrong fields where there are several.
	Errors []FieldError `json:"errors,omitempty"`
	// RetryAfter is how long the daemon asks to wait before the same call is made again; 0 when it
	// does not say. It comes with the statuses 429 and 503.
	RetryAfter time.Duration `json:"-"`
}

// FieldError is one wrong field of a request.
type FieldError struct {
	// Field is the member, as a name or a path to it.
	Field string `json:"field"`
	// Detail says what was wrong with it and what would be right.
	Detail string `json:"detail"`
}

// Error returns the detail with the status, and the wrong fields, on one line.
func (p *Problem) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s", p.StatusCode, p.Title)
	if p.Detail != "" {
		b.WriteString(": " + p.Detail)
	}
	var fields []string
	for _, e := range p.Errors {
		if !strings.Contains(p.Detail, e.Detail) { // else the detail has told it already
			fields = append(fields, e.Field+": "+e.Detail)
		}
	}
	if len(fields) > 0 {
		b.WriteString(" (" + strings.Join(fields, "; ") + ")")
	}
	return b.String()
}

// problem reads the body of a failed call. What is not a problem document comes from something
// between us and the daemon, or from no daemon at all; the status is kept and the detail says so.
func problem(res *http.Response) *Problem {
	var p Problem
	contentType := res.Header.Get("Content-Type")
	body, err := io.ReadAll(io.LimitReader(res.Body, maxProblem))
	readable := err == nil && isJSON(contentType) && json.Unmarshal(body, &p) == nil && p.Title != ""
	if !readable {
		p = Problem{Detail: "the answer is no problem document: this may not be Herald, or a proxy answered in its place"}
		if location := res.Header.Get("Location"); location != "" && res.StatusCode < 400 {
			p.Detail = "the answer is a redirect, which is not followed"
		}
	}
	p.StatusCode = res.StatusCode
	if p.Title == "" {
		p.Title = http.StatusText(res.StatusCode)
	}
	if p.Instance == "" && res.Request != nil {
		p.Instance = res.Request.URL.Path
	}
	p.RetryAfter = retryAfter(res.Header.Get("Retry-After"), time.Now())
	return &p
}

// longestRetryAfter bounds what is believed, so that a caller who simply waits is not put to sleep
// for good.
const longestRetryAfter = time.Hour

// retryAfter reads both forms of RFC 9110 section 10.2.3: seconds, or a date.
func retryAfter(text string, now time.Time) time.Duration {
	var d time.Duration
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), longestRetryAfter)
}
