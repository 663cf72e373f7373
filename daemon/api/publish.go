package api

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"herald/queue"
	"herald/store"
)

const (
	// maxEvents bounds the events of one request.
	maxEvents = 10_000
	// maxLanes bounds the deliveries that one request may ask for, as far as they do not share their
	// selection: 64 MiB of memory. A batch of different events that all have very many subscribers is
	// sent in parts.
	maxLanes = 4 << 20
	// reservedPrefix begins the types of Herald's own events.
	reservedPrefix = store.OwnPrefix
	// keyHeader makes a request repeatable whose events have no ids.
	keyHeader = "Idempotency-Key"
	maxKey    = 255
)

// batch is the events of one request while they are read.
type batch struct {
	c      *call
	body   []byte
	lines  bool // NDJSON: faults name the line
	single bool
	key    string
	trace  *queue.Trace // what the request's headers say
	now    time.Time

	subs   []queue.Submission
	keyed  []int // the submissions whose id comes from the key
	faults faults
	over   faults // payloads that are too large
	memo   map[selection]choice
	total  int
}

// selection is what decides the lanes of an event within an account, but for filters on its data.
type selection struct{ eventType, resource string }

// choice is the lanes of the last event of a selection.
type choice struct {
	lanes  []queue.Lane
	byData bool // the data had a say, so the next event may have others
}

// publish takes one event, an array of them or one a line, all or none. Its answer is given after
// the queue has synced them to disk.
func (a *API) publish(c *call) error {
	form, media, err := c.readEvents()
	if err != nil {
		return err
	}
	b := batch{c: c, body: c.body.Bytes(), lines: media == typeNDJSON, trace: c.trace(), now: a.now().UTC()}
	if b.key, err = c.idempotencyKey(); err != nil {
		return err
	}
	if form == formOwn {
		err = b.read()
	} else {
		err = b.readCloud(form)
	}
	if err != nil {
		return err
	}
	// A payload over the limit is told as 413 only when nothing else is wrong: the one a client cannot
	// mend by spelling comes last.
	if p := b.faults.problem(badRequest); p != nil {
		return p
	}
	if p := b.over.problem(tooLarge); p != nil {
		return p
	}
	b.deriveIDs()
	if err := b.chooseLanes(); err != nil {
		return err
	}
	receipts, err := a.queue.Accept(c.r.Context(), b.subs)
	if err != nil {
		return b.refused(err)
	}
	duplicates := 0
	for i := range receipts {
		if receipts[i].Duplicate {
			duplicates++
		}
	}
	a.metrics.duplicates.Add(float64(duplicates))
	a.metrics.accepted.Add(float64(len(receipts) - duplicates))
	c.raw(http.StatusAccepted, b.receipt(receipts))
	return nil
}

// trace is the one that the request is part of (W3C Trace Context), or nil.
func (c *call) trace() *queue.Trace {
	return queue.ParseTrace(c.r.Header["Traceparent"], c.r.Header["Tracestate"])
}

// receipt is the answer: one id for one event, else an array of them in the order of the events.
func (b *batch) receipt(receipts []queue.Receipt) []byte {
	out := b.c.out[:0]
	if !b.single {
		out = append(out, '[')
	}
	for i := range receipts {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, `{"id":`...)
		out = appendString(out, receipts[i].ID)
		out = append(out, '}')
	}
	if !b.single {
		out = append(out, ']')
	}
	b.c.out = out
	return out
}

// refused says which event of the request it was that the queue did not take.
func (b *batch) refused(err error) error {
	if errors.Is(err, queue.ErrFull) {
		// The queue knows what it is that is full: the disk, or what the operator allows it to hold.
		if why := b.c.api.queue.Healthy(); why != nil {
			p := notDurable("events", why)
			p.reason = reasonFull
			return p
		}
	}
	e, ok := errors.AsType[*queue.ConflictError](err)
	if !ok {
		return err
	}
	var fs faults
	if slices.Contains(b.keyed, e.Index) {
		fs.add(keyHeader, "was used before for another request; use a new one, or repeat that request unchanged")
	} else {
		fs.add(b.name(e.Index, "id"), "%sthe id %s was used before for another content; give this event another id, or repeat it unchanged",
			b.prefix(b.lineOf(e.Index)), show(e.ID))
	}
	return fs.problem(conflict)
}

// idempotencyKey reads the header that makes a repeat of the request harmless.
func (c *call) idempotencyKey() (string, error) {
	values := c.r.Header[keyHeader]
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	if len(values) > 1 || key == "" || len(key) > maxKey || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", newProblem(badRequest, "the %s header must be there once, with 1 to %d printable ASCII characters", keyHeader, maxKey)
	}
	return key, nil
}

// read reads the events of the body.
func (b *batch) read() error {
	d := b.c.decoder
	d.Reset(&b.c.body)
	if b.lines {
		return b.readLines(d)
	}
	switch d.PeekKind() {
	case jsontext.KindBeginObject:
		b.single = true
		b.subs = make([]queue.Submission, 0, 1)
		if err := b.readEvent(d, 0); err != nil {
			return explain(b.body, err)
		}
	case jsontext.KindBeginArray:
		if err := b.readArray(d, (*batch).readElement); err != nil {
			return explain(b.body, err)
		}
	default:
		if len(bytes.TrimSpace(b.body)) == 0 {
			return newProblem(badRequest, "the body is empty; an event, or an array of events, is needed")
		}
		v, err := d.ReadValue()
		if err != nil {
			return explain(b.body, err)
		}
		return newProblem(badRequest, "the body must be an event or an array of events, not %s", kindName(v.Kind()))
	}
	return atEnd(d, b.body)
}

// readElement reads an event of an array.
func (b *batch) readElement(d *jsontext.Decoder) error { return b.readEvent(d, 0) }

// readArray reads an array of events, each with one.
func (b *batch) readArray(d *jsontext.Decoder, one func(*batch, *jsontext.Decoder) error) error {
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() != jsontext.KindEndArray {
		if err := one(b, d); err != nil {
			return err
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	if len(b.subs) == 0 {
		return newProblem(badRequest, "the array is empty; at least one event is needed")
	}
	return nil
}

// readLines reads one event a line; lines without anything are passed over.
func (b *batch) readLines(d *jsontext.Decoder) error {
	line := 1
	for at := 0; ; {
		rest := bytes.TrimLeft(b.body[at:], " \t\r\n")
		start := len(b.body) - len(rest)
		breaks := bytes.Count(b.body[at:start], []byte("\n"))
		line += breaks
		if len(rest) == 0 {
			break
		}
		if len(b.subs) > 0 && breaks == 0 {
			return newProblem(badRequest, "line %d: the line goes on after its event; each line holds one", line)
		}
		if err := b.readEvent(d, line); err != nil {
			return b.inLine(line, explain(b.body, err))
		}
		at = int(d.InputOffset())
		if bytes.IndexByte(b.body[start:at], '\n') >= 0 {
			return newProblem(badRequest, "line %d: the event goes on over the end of the line; in NDJSON each event stands on one line", line)
		}
	}
	if len(b.subs) == 0 {
		return emptyLines()
	}
	return nil
}

// name is the field of an event in an answer.
func (b *batch) name(index int, member string) string {
	if b.single {
		return clip(member, 100)
	}
	p := "/" + strconv.Itoa(index)
	if member == "" {
		return p
	}
	return p + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(clip(member, 100))
}

// prefix names the line of an event, where events are lines.
func (b *batch) prefix(line int) string {
	if !b.lines {
		return ""
	}
	return "line " + strconv.Itoa(line) + ": "
}

// inLine makes sure that a problem names the line: a body of one line has positions only.
func (b *batch) inLine(line int, err error) error {
	if p, ok := errors.AsType[*problem](err); ok && !strings.Contains(p.detail, "line ") {
		p.detail = b.prefix(line) + p.detail
	}
	return err
}

// lineOf finds the line of an event that was read before.
func (b *batch) lineOf(index int) int {
	line := 0
	for text := range bytes.SplitSeq(b.body, []byte("\n")) {
		line++
		if len(bytes.TrimSpace(text)) > 0 {
			if index == 0 {
				return line
			}
			index--
		}
	}
	return line
}

// The members of an event, as bits of what has been seen.
const (
	hasID = 1 << iota
	hasType
	hasResource
	hasTime
	hasData
)

// eventReader is the state of one event being read.
type eventReader struct {
	*batch
	index, line int
	seen        uint8
	headers     bool // its members but data are headers of the request
	s           queue.Submission
	// same are those of its attributes that a repeat has to have too.
	same []byte
}

func (e *eventReader) fault(member, format string, args ...any) {
	if e.headers && member != "data" {
		member = "ce-" + member
	}
	e.faults.add(e.name(e.index, member), e.prefix(e.line)+format, args...)
}

// readEvent reads one event. What is wrong with its members is noted; an error means that the body
// cannot be read on. This is the path of every event, so a name or a value costs no more than looking
// at its bytes.
func (b *batch) readEvent(d *jsontext.Decoder, line int) error {
	e := eventReader{batch: b, index: len(b.subs), line: line}
	if e.index == maxEvents {
		return newProblem(badRequest, "the request has more than %d events; send it in parts", maxEvents)
	}
	if k := d.PeekKind(); k != jsontext.KindBeginObject {
		v, err := d.ReadValue()
		if err != nil {
			return err
		}
		e.fault("", "must be an event, not %s", kindName(v.Kind()))
		b.subs = append(b.subs, queue.Submission{})
		return nil
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() != jsontext.KindEndObject {
		name, err := d.ReadValue()
		if err != nil {
			return err
		}
		if err := e.member(d, memberOf(name), name); err != nil {
			return err
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	e.finish()
	b.subs = append(b.subs, e.s)
	return nil
}

// memberOf returns which member a name is, spelt in any case; 0 for none.
func memberOf(quoted jsontext.Value) uint8 {
	switch string(quoted) {
	case `"id"`:
		return hasID
	case `"type"`:
		return hasType
	case `"resource"`:
		return hasResource
	case `"time"`:
		return hasTime
	case `"data"`:
		return hasData
	}
	switch fold(unquote(quoted)) {
	case "id":
		return hasID
	case "type":
		return hasType
	case "resource":
		return hasResource
	case "time":
		return hasTime
	case "data":
		return hasData
	}
	return 0
}

// unquote returns the text of a JSON string the decoder has found to be valid.
func unquote(v jsontext.Value) string {
	if bytes.IndexByte(v, '\\') < 0 {
		return string(v[1 : len(v)-1])
	}
	b, err := jsontext.AppendUnquote(nil, v)
	if err != nil { // it was valid before
		return ""
	}
	return string(b)
}

// member reads one member's value.
func (e *eventReader) member(d *jsontext.Decoder, bit uint8, quoted jsontext.Value) error {
	name := ""
	if bit == 0 || e.seen&bit != 0 {
		name = unquote(quoted) // before the next read, which may void it
	}
	v, err := d.ReadValue()
	if err != nil {
		return err
	}
	switch {
	case bit == 0:
		e.fault(name, "is not known; an event has id, type, resource, time and data")
		return nil
	case e.seen&bit != 0:
		e.fault(name, "is there twice; names are the same in upper and lower case")
		return nil
	}
	e.seen |= bit
	if bit == hasData {
		e.data(v)
		return nil
	}
	if v.Kind() == jsontext.KindNull && bit != hasType {
		e.seen &^= bit // as if it were not there, but it may not come again
		return nil
	}
	if v.Kind() != jsontext.KindString {
		e.fault(memberName(bit), "must be a string, not %s", kindName(v.Kind()))
		return nil
	}
	e.text(bit, unquote(v))
	return nil
}

func memberName(bit uint8) string {
	switch bit {
	case hasID:
		return "id"
	case hasType:
		return "type"
	case hasResource:
		return "resource"
	case hasTime:
		return "time"
	default:
		return "data"
	}
}

// text judges and keeps the value of a member that is a string.
func (e *eventReader) text(bit uint8, s string) {
	var err error
	switch bit {
	case hasID:
		err = checkEventID(s)
		e.s.ID = s
	case hasType:
		if err = store.CheckEventType(s); err == nil && len(s) >= len(reservedPrefix) && strings.EqualFold(s[:len(reservedPrefix)], reservedPrefix) {
			err = textError("must not begin with " + reservedPrefix + ", which is for Herald's own events")
		}
		e.s.Type = s
	case hasResource:
		_, err = store.ParseResource(s)
		e.s.Resource = s
	case hasTime:
		e.s.Time, err = parseTime(s)
	}
	if err != nil {
		e.fault(memberName(bit), "%s", err.Error())
	}
}

// checkEventID says what is wrong with an id a publisher chose.
func checkEventID(s string) error {
	if s == "" || len(s) > queue.MaxIDLength {
		return textError("must have 1 to " + strconv.Itoa(queue.MaxIDLength) + " characters")
	}
	if s == "/" {
		return textError("must not be a single '/', which no path can name")
	}
	return checkVisible(s)
}

// data judges and keeps the payload, exactly as it came.
func (e *eventReader) data(v jsontext.Value) {
	switch limit := e.c.settings.PayloadBytes; {
	case v.Kind() != jsontext.KindBeginObject:
		e.fault("data", "must be an object, not %s", kindName(v.Kind()))
	case int64(len(v)) > limit:
		e.over.add(e.name(e.index, "data"), "%sis larger than the limit of %d bytes", e.prefix(e.line), limit)
	case deeperThan(v, maxDepth):
		e.fault("data", "is nested deeper than %d levels", maxDepth)
	default:
		// A copy of its own, because the body's buffer is used again, and because an event that waits
		// in memory should hold on to no more than itself.
		e.s.Data = bytes.Clone(v)
	}
}

// finish judges the event as a whole and computes what stands for its content.
func (e *eventReader) finish() {
	if e.seen&hasType == 0 {
		e.fault("type", "is needed: what happened, such as task.create")
	}
	if e.seen&hasData == 0 {
		e.fault("data", "is needed: a JSON object, which may be empty")
	}
	e.s.AccountID = e.c.account.ID
	if e.s.Trace == nil {
		e.s.Trace = e.trace
	}
	if e.s.ID != "" || e.key != "" {
		e.s.Digest = e.sum()
	}
	if e.seen&hasTime == 0 {
		e.s.Time = e.now
	}
}

// sum stands for the event as it was submitted. A time that was left out counts as the zero time, which
// none that is given can be, so that the repeat of an event without one is the same event.
func (e *eventReader) sum() (sum [16]byte) {
	h := e.c.digest
	h.Reset()
	buf := e.c.out[:0]
	buf = binary.BigEndian.AppendUint64(buf, uint64(e.s.Time.Unix()))
	buf = binary.BigEndian.AppendUint32(buf, uint32(e.s.Time.Nanosecond()))
	for _, s := range [...]string{e.s.Type, e.s.Resource} {
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(s)))
		buf = append(buf, s...)
	}
	// Hashes document that Write returns no error.
	_, _ = h.Write(buf)
	_, _ = h.Write(e.same) // an object as well, so that what follows is told from it
	_, _ = h.Write(e.s.Data)
	e.c.out = h.Sum(buf[:0])
	copy(sum[:], e.c.out)
	return sum
}

// deriveIDs gives the events without an id one that follows from the key, so that a repeat of the
// request is a repeat of each event. What stands for their content is the whole request, because it is
// the whole request that a key may not be used for twice with a difference.
func (b *batch) deriveIDs() {
	if b.key == "" || !slices.ContainsFunc(b.subs, func(s queue.Submission) bool { return s.ID == "" }) {
		return
	}
	whole := b.sumRequest()
	h := b.c.digest
	for i := range b.subs {
		s := &b.subs[i]
		if s.ID != "" {
			continue
		}
		h.Reset()
		buf := append(b.c.out[:0], s.AccountID...)
		buf = append(buf, 0)
		buf = append(buf, b.key...)
		buf = append(buf, 0)
		buf = binary.BigEndian.AppendUint32(buf, uint32(i))
		_, _ = h.Write(buf)
		b.c.out = h.Sum(buf[:0])
		s.ID = "evt_" + lowerHex32(b.c.out[:16])
		s.Digest = whole
		b.keyed = append(b.keyed, i)
	}
}

// sumRequest stands for the request as it was submitted: one event or a list of them (how the list was spelt
// does not matter), and each event's id and content in their order. An event without an id has the
// length 0 there, which no id has.
func (b *batch) sumRequest() (sum [16]byte) {
	h := b.c.digest
	h.Reset()
	buf := append(b.c.out[:0], 0)
	if b.single {
		buf[0] = 1
	}
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(b.subs)))
	for i := range b.subs {
		s := &b.subs[i]
		buf = append(buf, byte(len(s.ID))) // at most queue.MaxIDLength
		buf = append(buf, s.ID...)
		buf = append(buf, s.Digest[:]...)
		_, _ = h.Write(buf)
		buf = buf[:0]
	}
	b.c.out = h.Sum(buf[:0])
	copy(sum[:], b.c.out)
	return sum
}

// chooseLanes finds who gets each event. Events of one kind share their lanes, so that a batch costs
// memory by its kinds and not by its length; where filters choose, those that follow each other with
// the same lanes do.
func (b *batch) chooseLanes() error {
	if len(b.subs) == 1 {
		c := choice{}
		b.choose(&b.subs[0], &c)
		b.subs[0].Lanes = c.lanes
		return nil
	}
	b.memo = make(map[selection]choice)
	for i := range b.subs {
		s := &b.subs[i]
		k := selection{s.Type, s.Resource}
		c, ok := b.memo[k]
		if !ok || c.byData {
			if err := b.c.r.Context().Err(); err != nil {
				return err // very many filters take a while
			}
			if b.choose(s, &c) {
				if b.total += len(c.lanes); b.total > maxLanes {
					return newProblem(tooLarge, "the events of this request have more than %d deliveries; send it in parts", maxLanes)
				}
			}
			b.memo[k] = c
		}
		s.Lanes = c.lanes
	}
	return nil
}

// choose finds the lanes of one event; last is the choice before of the same selection, whose memory serves
// when the lanes are the same. It says whether it took memory.
func (b *batch) choose(s *queue.Submission, last *choice) (fresh bool) {
	c := b.c
	c.lanes, last.byData = c.api.store.Select(s.AccountID, s.Type, s.Resource, s.Data, c.lanes[:0])
	if slices.EqualFunc(last.lanes, c.lanes, func(l queue.Lane, id store.SubscriptionID) bool { return l == queue.Lane(id) }) {
		return false
	}
	last.lanes = nil
	if len(c.lanes) == 0 {
		return false
	}
	last.lanes = make([]queue.Lane, len(c.lanes))
	for i, id := range c.lanes {
		last.lanes[i] = queue.Lane(id)
	}
	return true
}
