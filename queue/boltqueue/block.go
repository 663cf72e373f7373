package boltqueue

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"herald/queue"
)

// A block holds the events of one commit within one segment. Its header comes first, so that a scan for a
// lane's work or an account's events reads a small part of it.

// blockBuilder collects the events of a block. It is used again for the next.
type blockBuilder struct {
	first    uint64
	ordinal  uint32 // of the first delivery within the segment
	next     uint32 // ordinal of the next delivery
	ms       int64
	accounts []string
	lists    [][]uint32
	single   map[uint32]int // lists of one lane
	many     map[uint64]int // other lists, by hash
	events   []builtEvent
}

type builtEvent struct {
	event   *queue.Event
	account int
	list    int // index + 1; 0 is the empty list
	size    int
}

func (b *blockBuilder) reset(first uint64, ordinal uint32, ms int64) {
	b.first, b.ordinal, b.next, b.ms = first, ordinal, ordinal, ms
	clear(b.accounts)
	clear(b.lists)
	clear(b.events)
	b.accounts, b.lists, b.events = b.accounts[:0], b.lists[:0], b.events[:0]
	if b.single == nil {
		b.single, b.many = map[uint32]int{}, map[uint64]int{}
	}
	clear(b.single)
	clear(b.many)
}

// add appends an event with its lanes' numbers, ascending, and returns the ordinal of its first delivery.
func (b *blockBuilder) add(ev *queue.Event, lanes []uint32) uint32 {
	account := len(b.accounts)
	for i, a := range b.accounts {
		if a == ev.AccountID {
			account = i
			break
		}
	}
	if account == len(b.accounts) {
		b.accounts = append(b.accounts, ev.AccountID)
	}
	b.events = append(b.events, builtEvent{ev, account, b.list(lanes), recordSize(ev)})
	ordinal := b.next
	b.next += uint32(len(lanes))
	return ordinal
}

// list finds or adds a target list.
func (b *blockBuilder) list(lanes []uint32) int {
	switch len(lanes) {
	case 0:
		return 0
	case 1:
		at, ok := b.single[lanes[0]]
		if !ok {
			b.lists = append(b.lists, lanes)
			at = len(b.lists)
			b.single[lanes[0]] = at
		}
		return at
	}
	hash := uint64(14695981039346656037)
	for _, n := range lanes {
		hash = (hash ^ uint64(n)) * 1099511628211
	}
	if at, ok := b.many[hash]; ok && equalLists(b.lists[at-1], lanes) {
		return at
	}
	b.lists = append(b.lists, lanes)
	b.many[hash] = len(b.lists)
	return len(b.lists)
}

func equalLists(a, b []uint32) bool {
	if len(a) != len(b) {
		return false
	}
	if &a[0] == &b[0] {
		return true
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// appendTo encodes the block.
func (b *blockBuilder) appendTo(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, recordVersion, 0, 0, 0, 0)
	dst = binary.AppendUvarint(dst, uint64(b.ms))
	dst = binary.AppendUvarint(dst, uint64(b.ordinal))
	dst = binary.AppendUvarint(dst, uint64(len(b.accounts)))
	for _, a := range b.accounts {
		dst = appendText(dst, a)
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.lists)))
	for _, l := range b.lists {
		dst = binary.AppendUvarint(dst, uint64(len(l)))
		last := uint32(0)
		for _, n := range l {
			dst = binary.AppendUvarint(dst, uint64(n-last))
			last = n
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.events)))
	for i := range b.events {
		e := &b.events[i]
		dst = binary.AppendUvarint(dst, uint64(e.account))
		dst = binary.AppendUvarint(dst, uint64(e.list))
		dst = binary.AppendUvarint(dst, uint64(e.size))
	}
	big.PutUint32(dst[start+1:], uint32(len(dst)-start-5))
	for i := range b.events {
		dst = appendRecord(dst, b.events[i].event)
	}
	return dst
}

// size is an upper bound of what appendTo needs.
func (b *blockBuilder) size() int {
	n := 64
	for _, a := range b.accounts {
		n += len(a) + 5
	}
	for _, l := range b.lists {
		n += 5*len(l) + 5
	}
	for i := range b.events {
		n += b.events[i].size + 20
	}
	return n
}

// These are added to the nanoseconds of an event that has attributes, or was published in a trace, which follow them. The
// records of all others are as they were before there were either.
const (
	withAttributes = uint64(time.Second)
	withTrace      = 2 * withAttributes
)

// fraction is what stands for the nanoseconds in the record of an event.
func fraction(ev *queue.Event) uint64 {
	n := uint64(ev.Time.Nanosecond())
	if len(ev.Attributes) > 0 {
		n += withAttributes
	}
	if ev.Trace != nil {
		n += withTrace
	}
	return n
}

// An event's record: id, type, resource, time, attributes and trace if it has them; the data is the rest.
func appendRecord(dst []byte, ev *queue.Event) []byte {
	dst = appendText(dst, ev.ID)
	dst = appendText(dst, ev.Type)
	dst = appendText(dst, ev.Resource)
	dst = binary.AppendVarint(dst, ev.Time.Unix())
	dst = binary.AppendUvarint(dst, fraction(ev))
	if len(ev.Attributes) > 0 {
		dst = binary.AppendUvarint(dst, uint64(len(ev.Attributes)))
		dst = append(dst, ev.Attributes...)
	}
	if ev.Trace != nil {
		dst = appendText(appendText(dst, ev.Trace.Parent), ev.Trace.State)
	}
	return append(dst, ev.Data...)
}

func recordSize(ev *queue.Event) int {
	var b [binary.MaxVarintLen64]byte
	n := 0
	for _, l := range [3]int{len(ev.ID), len(ev.Type), len(ev.Resource)} {
		n += binary.PutUvarint(b[:], uint64(l)) + l
	}
	n += binary.PutVarint(b[:], ev.Time.Unix()) + binary.PutUvarint(b[:], fraction(ev))
	if l := len(ev.Attributes); l > 0 {
		n += binary.PutUvarint(b[:], uint64(l)) + l
	}
	if t := ev.Trace; t != nil {
		n += binary.PutUvarint(b[:], uint64(len(t.Parent))) + len(t.Parent) + binary.PutUvarint(b[:], uint64(len(t.State))) + len(t.State)
	}
	return n + len(ev.Data)
}

func decodeRecord(b []byte, seq uint64, account string, ms int64) (*queue.Event, error) {
	d := decoder{b: b}
	ev := &queue.Event{Seq: seq, AccountID: account, AcceptedAt: timeOf(ms)}
	ev.ID = d.text()
	ev.Type = d.text()
	ev.Resource = d.text()
	seconds := d.varint()
	nanos := d.number(withTrace + 2*withAttributes - 1)
	traced := nanos >= withTrace
	nanos %= withTrace
	if nanos >= withAttributes {
		nanos -= withAttributes
		ev.Attributes = append([]byte(nil), d.bytes(d.count())...)
	}
	if traced {
		ev.Trace = &queue.Trace{Parent: d.text(), State: d.text()}
	}
	ev.Time = time.Unix(seconds, int64(nanos)).UTC()
	ev.Data = append(make([]byte, 0, len(d.b)), d.b...)
	return ev, d.err
}

// traceCost is about what the trace of an event takes, in bytes.
func traceCost(t *queue.Trace) int {
	if t == nil {
		return 0
	}
	return len(t.Parent) + len(t.State)
}

func timeOf(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// maxBlockEvents bounds what a reader believes of a block; a segment has fewer.
const maxBlockEvents = 1 << 16

// block is a decoded header. It is valid as long as the value it was read from, and used again.
type block struct {
	first    uint64
	ms       int64
	accounts [][]byte
	lists    []listRef
	events   []eventRef
	records  []byte
	lanes    []uint32 // the decoded lists, one after the other
	header   []byte
}

type listRef struct {
	at, n  int // bytes within header; entries
	start  int // entries within lanes, when decoded
	loaded bool
}

type eventRef struct {
	account int
	list    int // index + 1
	at, end int // bytes within records
	ordinal uint32
	lanes   int
}

// read decodes the header of a block whose first event is first.
func (b *block) read(first uint64, value []byte) error {
	if err := b.decode(first, value); err != nil {
		return fmt.Errorf("block %d: %w", first, err)
	}
	return nil
}

func (b *block) decode(first uint64, value []byte) error {
	*b = block{first: first, accounts: b.accounts[:0], lists: b.lists[:0], events: b.events[:0], lanes: b.lanes[:0]}
	d := decoder{b: value}
	d.version()
	raw := d.bytes(4)
	if d.err != nil {
		return d.err
	}
	b.header = d.bytes(int(big.Uint32(raw)))
	b.records = d.b
	if d.err != nil {
		return d.err
	}
	d = decoder{b: b.header}
	b.ms = int64(d.number(math.MaxInt64))
	ordinal := d.number(math.MaxUint32)
	for range d.count() {
		b.accounts = append(b.accounts, d.bytes(d.count()))
	}
	for range d.count() {
		n := d.count()
		b.lists = append(b.lists, listRef{at: len(b.header) - len(d.b), n: n})
		for range n {
			d.uvarint()
		}
	}
	n := d.count()
	if n > maxBlockEvents {
		d.fail("too many events")
	}
	at := 0
	for range n {
		if d.err != nil {
			break
		}
		e := eventRef{account: int(d.uvarint()), list: int(d.number(uint64(len(b.lists)))), at: at, ordinal: uint32(ordinal)}
		size := d.number(uint64(len(b.records) - at))
		if e.account < 0 || e.account >= len(b.accounts) {
			d.fail("account out of range")
			break
		}
		at += int(size)
		e.end = at
		if e.list > 0 {
			e.lanes = b.lists[e.list-1].n
		}
		if ordinal += uint64(e.lanes); ordinal > math.MaxUint32 {
			d.fail("too many deliveries")
		}
		b.events = append(b.events, e)
	}
	if at != len(b.records) {
		d.fail("records do not fill the block")
	}
	return d.end()
}

// size is that of the event's record, in bytes.
func (e *eventRef) size() uint32 { return uint32(e.end - e.at) }

// index returns the position of an event, or -1.
func (b *block) index(seq uint64) int {
	if seq < b.first || seq-b.first >= uint64(len(b.events)) {
		return -1
	}
	return int(seq - b.first)
}

// targets returns the lanes of event i, ascending; the slice is valid until the next read.
func (b *block) targets(i int) ([]uint32, error) {
	at := b.events[i].list
	if at == 0 {
		return nil, nil
	}
	l := &b.lists[at-1]
	if !l.loaded {
		d := decoder{b: b.header[l.at:]}
		l.start = len(b.lanes)
		last := uint64(0)
		for range l.n {
			delta := d.uvarint()
			last += delta
			if delta == 0 || last > math.MaxUint32 {
				return nil, fmt.Errorf("block %d: %w: lanes out of order", b.first, errDamaged)
			}
			b.lanes = append(b.lanes, uint32(last))
		}
		l.loaded = true
	}
	return b.lanes[l.start : l.start+l.n], nil
}

// leftOut says whether the type of event i begins with what is not wanted; "" leaves out none.
func (b *block) leftOut(i int, without string) (bool, error) {
	if without == "" {
		return false, nil
	}
	e := &b.events[i]
	d := decoder{b: b.records[e.at:e.end]}
	d.bytes(d.count()) // the id
	kind := d.bytes(d.count())
	if d.err != nil {
		return false, fmt.Errorf("block %d: event %d: %w", b.first, b.first+uint64(i), d.err)
	}
	return bytes.HasPrefix(kind, []byte(without)), nil
}

// event decodes event i, copied out of the transaction.
func (b *block) event(i int) (*queue.Event, error) {
	e := &b.events[i]
	ev, err := decodeRecord(b.records[e.at:e.end], b.first+uint64(i), string(b.accounts[e.account]), b.ms)
	if err != nil {
		return nil, fmt.Errorf("block %d: event %d: %w", b.first, b.first+uint64(i), err)
	}
	return ev, nil
}
