package queue

import "strings"

// Trace is the context of a distributed trace (W3C Trace Context, https://www.w3.org/TR/trace-context/) that an event was published
// in. Herald makes no spans of its own, so it is passed on as it came. It must not be changed.
type Trace struct {
	// Parent is a valid value of the header traceparent.
	Parent string
	// State is a valid value of the header tracestate; "" for none.
	State string
}

// The lengths of a trace's texts. The specification wants only prohibitively long ones refused, and tracestate passed on up to 512
// characters at least; each event keeps its own copy, so there is no more. A longer tracestate is left out as a whole: what
// belongs to an unchanged traceparent must not be changed either, so nothing may be cut off it (sections 3.2.4, 3.3 and 3.4).
const (
	maxTraceParent = 256
	maxTraceState  = 512
	// traceParentLength is that of version 00, and the least of any other.
	traceParentLength = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
)

// ParseTrace reads the values of the headers traceparent and tracestate. A traceparent that is not there exactly once, or not valid, means that
// there is no trace, and a tracestate that is not valid is left out, because the specification has both ignored and nobody told.
func ParseTrace(parents, states []string) *Trace {
	if len(parents) != 1 || !validTraceParent(parents[0]) {
		return nil
	}
	t := &Trace{Parent: parents[0]}
	// Several fields are one list (RFC 9110, section 5.3).
	if s := strings.Trim(strings.Join(states, ","), " \t"); validTraceState(s) {
		t.State = s
	}
	return t
}

// validTraceParent judges a traceparent (sections 3.2.2 and 3.2.4). One of a later version begins like one of this, and what follows is passed on
// unseen.
func validTraceParent(s string) bool {
	if len(s) < traceParentLength || len(s) > maxTraceParent {
		return false
	}
	version, trace, parent, flags := s[:2], s[3:35], s[36:52], s[53:55]
	for _, field := range [...]string{version, trace, parent, flags} {
		if strings.Trim(field, "0123456789abcdef") != "" {
			return false
		}
	}
	if s[2] != '-' || s[35] != '-' || s[52] != '-' || version == "ff" || strings.Trim(trace, "0") == "" || strings.Trim(parent, "0") == "" {
		return false
	}
	if len(s) == traceParentLength {
		return true
	}
	return version != "00" && s[traceParentLength] == '-' && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// maxTraceMembers bounds the list of a tracestate.
const maxTraceMembers = 32

// validTraceState judges a tracestate (section 3.3), whose members may be empty as long as there is one that is not. A key may look as in the
// second level of the specification, which takes what the first does.
func validTraceState(s string) bool {
	if len(s) > maxTraceState || strings.Count(s, ",") >= maxTraceMembers {
		return false
	}
	some := false
	for member := range strings.SplitSeq(s, ",") {
		if member = strings.Trim(member, " \t"); member == "" {
			continue
		}
		key, value, ok := strings.Cut(member, "=")
		if !ok || !validTraceKey(key) || !validTraceValue(value) {
			return false
		}
		some = true
	}
	return some
}

func validTraceKey(s string) bool {
	return s != "" && len(s) <= 256 && strings.IndexByte("_-*/@", s[0]) < 0 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-*/@") == ""
}

func validTraceValue(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == '=' {
			return false
		}
	}
	return s != "" && len(s) <= 256
}

// ID is the id of the whole trace, by which tools find it; "" for no trace.
func (t *Trace) ID() string {
	if t == nil {
		return ""
	}
	return t.Parent[3:35]
}

// Trace is what may be said of the trace of a push: what all of its records have in common.
func (p *Push) Trace() *Trace {
	if len(p.Events) == 0 {
		return nil
	}
	t := p.Events[0].Trace
	for _, e := range p.Events[1:] {
		switch {
		case t == nil || e.Trace == nil || t.Parent != e.Trace.Parent:
			return nil
		case t.State != e.Trace.State:
			t = &Trace{Parent: t.Parent}
		}
	}
	return t
}
