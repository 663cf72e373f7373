package boltqueue

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"herald/queue"
)

func sampleBlock() []byte {
	var b blockBuilder
	b.reset(100, 7, 1_700_000_000_000)
	for i := range 5 {
		ev := &queue.Event{ID: strings.Repeat("i", i+1), AccountID: []string{"a", "b"}[i%2], Type: "t.x", Resource: "r/1", Time: time.Unix(int64(i), 5).UTC(), Data: bytes.Repeat([]byte("d"), i*100)}
		if i%2 == 0 {
			ev.Attributes, ev.Time = sampleAttributes(i), time.Unix(int64(i), 999_999_999).UTC()
		}
		ev.Trace = sampleTrace(i)
		b.add(ev, [][]uint32{{1}, {1, 2, 900}, {1, 2, 900}, nil, {4_000_000_000}}[i])
	}
	return b.appendTo(nil)
}

func sampleAttributes(i int) []byte { return bytes.Repeat([]byte("a"), 1+i*100) }

// sampleTrace: none, a traceparent alone, both.
func sampleTrace(i int) *queue.Trace {
	return []*queue.Trace{nil, {Parent: "p"}, {Parent: "pp", State: "s"}}[i%3]
}

func TestBlock(t *testing.T) {
	t.Parallel()
	var b block
	value := sampleBlock()
	if err := b.read(100, value); err != nil {
		t.Fatal(err)
	}
	if len(b.lists) != 3 || len(b.accounts) != 2 || len(b.events) != 5 || b.ms != 1_700_000_000_000 {
		t.Fatalf("%d lists, %d accounts, %d events, time %d", len(b.lists), len(b.accounts), len(b.events), b.ms)
	}
	want := [][]uint32{{1}, {1, 2, 900}, {1, 2, 900}, nil, {4_000_000_000}}
	ordinal := uint32(7)
	for _, i := range []int{4, 0, 2, 1, 3} { // in any order
		targets, err := b.targets(i)
		if err != nil || !slices.Equal(targets, want[i]) {
			t.Errorf("event %d: lanes %v, %v", i, targets, err)
		}
	}
	for i := range want {
		if b.events[i].ordinal != ordinal {
			t.Errorf("event %d: ordinal %d, want %d", i, b.events[i].ordinal, ordinal)
		}
		ordinal += uint32(len(want[i]))
		ev, err := b.event(i)
		nanos, attributes := int64(5), []byte(nil)
		if i%2 == 0 {
			nanos, attributes = 999_999_999, sampleAttributes(i)
		}
		if err != nil || ev.ID != strings.Repeat("i", i+1) || len(ev.Data) != i*100 || ev.Resource != "r/1" || !ev.Time.Equal(time.Unix(int64(i), nanos)) ||
			!bytes.Equal(ev.Attributes, attributes) || !reflect.DeepEqual(ev.Trace, sampleTrace(i)) {
			t.Errorf("event %d: %+v, %v", i, ev, err)
		}
	}
	for n := range value {
		if b.read(100, value[:n]) == nil {
			t.Fatalf("a block cut to %d bytes was taken", n)
		}
	}
	value[0]++
	if b.read(100, value) == nil {
		t.Error("a block of another version was taken")
	}
}

func FuzzBlock(f *testing.F) {
	f.Add(sampleBlock())
	f.Add([]byte{})
	f.Add([]byte{recordVersion, 0, 0, 0, 1, 0xff})
	f.Fuzz(func(t *testing.T, value []byte) {
		var b block
		if b.read(1, value) != nil {
			return
		}
		for i := range b.events {
			targets, err := b.targets(i)
			if err == nil && !slices.IsSorted(targets) {
				t.Errorf("lanes out of order: %v", targets)
			}
			if _, err := b.event(i); err != nil {
				continue
			}
		}
	})
}

func sampleEntries() []entry {
	return []entry{
		{5, 1, queue.Attempt{Number: 1, StartedAt: timeOf(1_700_000_000_000), Duration: 5 * time.Millisecond, Class: queue.ClassDelivered, Status: 200}},
		{5, 9, queue.Attempt{Number: 3, StartedAt: timeOf(1_600_000_000_000), Class: queue.ClassRetry, Error: "x", Response: []byte("yz")}},
		{6, 9, queue.Attempt{Number: 1, StartedAt: timeOf(1_600_000_000_000), Class: queue.ClassRetry, Error: "x", Response: []byte("yz")}}, // as in a batch
		{7, 9, queue.Attempt{Number: 1, StartedAt: timeOf(1_600_000_000_000), Class: queue.ClassRetry, Error: "x", Response: []byte("yz")}},
		{900, 2, queue.Attempt{Number: 2, StartedAt: timeOf(1_700_000_000_001), Class: "", Status: 599, Error: strings.Repeat("e", queue.MaxErrorText), Response: make([]byte, queue.MaxResponse)}},
	}
}

func TestAttemptLog(t *testing.T) {
	t.Parallel()
	value := appendEntries(nil, sampleEntries())
	var got []entry
	all := func(uint64, uint32) bool { return true }
	if err := readEntries(value, all, func(e entry) { got = append(got, e) }); err != nil || !reflect.DeepEqual(got, sampleEntries()) {
		t.Fatalf("%+v, %v", got, err)
	}
	for n := range value {
		if readEntries(value[:n], all, func(entry) {}) == nil {
			t.Fatalf("a log cut to %d bytes was taken", n)
		}
	}
	for _, c := range queue.Classes() {
		if classCodes[classCode(c)] != c {
			t.Errorf("class %s has no code", c)
		}
	}
}

func FuzzAttempts(f *testing.F) {
	f.Add(appendEntries(nil, sampleEntries()))
	f.Fuzz(func(_ *testing.T, value []byte) {
		_ = readEntries(value, func(uint64, uint32) bool { return true }, func(entry) {})
	})
}

func FuzzFate(f *testing.F) {
	f.Add(fate{state: fateRetrying, attempts: 3, retries: 2, at: 1_700_000_000_000}.encode())
	f.Add(fate{state: fateDead, attempts: 1, at: 5, reason: queue.ReasonExhausted}.encode())
	f.Add(fate{state: fateRetrying, attempts: 3, retries: 2, at: 1_700_000_000_000, batch: 1 << 40}.encode())
	f.Add(fate{state: fateRetrying, byHand: true, attempts: 3, at: 1_700_000_000_000, reason: queue.ReasonExhausted}.encode())
	f.Add(fate{state: fateRetrying, byHand: true, planned: true, at: 1_700_000_000_000}.encode())
	for _, v := range replayedFates() {
		f.Add(v.encode())
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		v, err := decodeFate(value)
		if err != nil {
			return
		}
		if again, err := decodeFate(v.encode()); err != nil || again != v {
			t.Errorf("%+v became %+v, %v", v, again, err)
		}
	})
}

// replayedFates are those that replays make.
func replayedFates() []fate {
	return []fate{
		{state: fateRetrying, replay: true, byHand: true, was: fateDead, attempts: 3, at: 5, reason: queue.ReasonExhausted},
		{state: fateRetrying, replay: true, byHand: true, was: fateDead, attempts: 3, at: 5, batch: 7, reason: queue.ReasonExhausted},
		{state: fateRetrying, replay: true, byHand: true, extra: true, at: 5},
		{state: fateRetrying, replay: true, byHand: true, was: fateRetrying, wasAt: 1 << 40, at: 5},
		{state: fateRetrying, replay: true, attempts: 1, retries: 1, at: 5, extra: true},
		{state: fateRetrying, replay: true, attempts: 1, retries: 1, at: 5, batch: 7},
		{state: fateRetrying, byHand: true, attempts: 1, at: 5, extra: true},
		{state: fateDelivered, attempts: 1, at: 5, extra: true},
	}
}

func TestReplayedFates(t *testing.T) {
	t.Parallel()
	for _, want := range replayedFates() {
		value := want.encode()
		if got, err := decodeFate(value); err != nil || got != want || isExtra(value) != want.extra {
			t.Errorf("%+v became %+v, %v", want, got, err)
		}
		// The reason is the rest, so only what is before it can be missing.
		for n := range len(value) - len(want.reason) {
			if _, err := decodeFate(value[:n]); err == nil {
				t.Errorf("%+v cut to %d bytes was taken", want, n)
			}
		}
	}
}

func TestPlannedFate(t *testing.T) {
	t.Parallel()
	want := fate{state: fateRetrying, byHand: true, planned: true, at: 1_700_000_000_000}
	value := want.encode()
	if got, err := decodeFate(value); err != nil || got != want {
		t.Errorf("%+v became %+v, %v", want, got, err)
	}
	for name, change := range map[string]func(v []byte) []byte{
		"attempts":   func(v []byte) []byte { v[2] = 1; return v },
		"retries":    func(v []byte) []byte { v[3] = 1; return v },
		"a reason":   func(v []byte) []byte { return append(v, 'x') },
		"a replay":   func(v []byte) []byte { v[1] |= flagReplay; return v },
		"no bit":     func(v []byte) []byte { v[1] |= flagExtra; return v },
		"no time":    func(v []byte) []byte { return v[:4] },
		"next state": func(v []byte) []byte { v[1]++; return v },
	} {
		if got, err := decodeFate(change(want.encode())); err == nil {
			t.Errorf("one with %s was taken: %+v", name, got)
		}
	}
}

func sampleReplay() *replay {
	return &replay{Replay: queue.Replay{
		ID: queue.ReplayID{1, 2}, Lane: queue.Lane{3}, AccountID: "acme", Since: timeOf(-5), Until: timeOf(1_700_000_000_000), Failed: true, Rate: 0.5,
		State: queue.ReplayCancelled, CreatedAt: timeOf(7), EndedAt: timeOf(8), Reached: timeOf(9), Deliveries: 10,
	}, to: 1 << 40, next: 12}
}

func FuzzReplay(f *testing.F) {
	key := keyReplay(4, queue.ReplayID{1, 2})
	f.Add(sampleReplay().encode())
	f.Add((&replay{Replay: queue.Replay{State: queue.ReplayRunning}}).encode())
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := decodeReplay(queue.Lane{3}, key, value)
		if err != nil {
			return
		}
		again, err := decodeReplay(queue.Lane{3}, key, r.encode())
		if err != nil || *again != *r {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
	})
}

func TestReplayRecord(t *testing.T) {
	t.Parallel()
	want := sampleReplay()
	value := want.encode()
	if got, err := decodeReplay(want.Lane, keyReplay(4, want.ID), value); err != nil || *got != *want {
		t.Errorf("%+v became %+v, %v", want, got, err)
	}
	for n := range value {
		if _, err := decodeReplay(want.Lane, keyReplay(4, want.ID), value[:n]); err == nil {
			t.Errorf("a replay cut to %d bytes was taken", n)
		}
	}
}

func FuzzExtent(f *testing.F) {
	e := extent{first: 9, next: 100, deliveries: 5, bytes: 1 << 20, minMs: 1_700_000_000_000, maxMs: 1_700_000_000_500, sealed: true}
	f.Add(e.encode())
	f.Fuzz(func(t *testing.T, value []byte) {
		v, err := decodeExtent(9, value)
		if err != nil {
			return
		}
		if again, err := decodeExtent(9, v.encode()); err != nil || again != v {
			t.Errorf("%+v became %+v, %v", v, again, err)
		}
	})
}

func FuzzLane(f *testing.F) {
	f.Add((&laneRecord{id: queue.Lane{1, 2, 3}, dropped: true}).encode())
	f.Add((&laneRecord{id: queue.Lane{1, 2, 3}, converting: true, floor: 1 << 50, reason: queue.ReasonDisabled}).encode())
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := decodeLane(value)
		if err != nil {
			return
		}
		if again, err := decodeLane(r.encode()); err != nil || again != r {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
	})
}

func FuzzBatch(f *testing.F) {
	f.Add(uint64(7), encodeBatch(7, []uint64{8, 9, 1 << 40}))
	f.Fuzz(func(t *testing.T, first uint64, value []byte) {
		rest, err := decodeBatch(first, value)
		if err != nil {
			return
		}
		if again, err := decodeBatch(first, encodeBatch(first, rest)); err != nil || !slices.Equal(again, rest) {
			t.Errorf("%v became %v, %v", rest, again, err)
		}
	})
}

func FuzzClaimedID(f *testing.F) {
	f.Add(claimedID{7, [16]byte{1, 2}}.encode())
	f.Fuzz(func(t *testing.T, value []byte) {
		c, err := decodeClaimedID(value)
		if err != nil {
			return
		}
		if again, err := decodeClaimedID(c.encode()); err != nil || again != c {
			t.Errorf("%+v became %+v, %v", c, again, err)
		}
	})
}

func FuzzKept(f *testing.F) {
	f.Add(encodeKept(&queue.Event{ID: "x", AccountID: "a", Type: "t.x", Data: []byte("{}")}, true, [16]byte{9}))
	f.Fuzz(func(_ *testing.T, value []byte) { _, _, _ = decodeKept(1, value) })
}

func FuzzKeys(f *testing.F) {
	f.Add([]byte("evt_00000000000000000000000000"))
	f.Add(keySeqLane(1, 2))
	f.Add(keyLaneTime(1, 2, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		if seq, ok := seqOfID(string(b)); ok && !strings.HasPrefix(generatedID(seq, 0), string(b[:16])) {
			t.Errorf("%s is not the id of event %d", b, seq)
		}
		if seq, lane, ok := parseSeqLane(b); ok && !bytes.Equal(keySeqLane(seq, lane), b) {
			t.Error("a key changed on its way")
		}
		if lane, ms, seq, ok := parseLaneTime(b); ok && !bytes.Equal(keyLaneTime(lane, ms, seq), b) {
			t.Error("a key changed on its way")
		}
	})
}

func TestGeneratedIDsSort(t *testing.T) {
	t.Parallel()
	last := ""
	for seq := uint64(1); seq < 1<<62; seq *= 3 {
		id := generatedID(seq, seq*7919)
		if got, ok := seqOfID(id); !ok || got != seq || len(id) != 30 {
			t.Fatalf("%s is the id of %d, read as %d", id, seq, got)
		}
		if id <= last {
			t.Fatalf("%s does not sort after %s", id, last)
		}
		last = id
	}
	for _, bad := range []string{"", "evt_", "evt_0", strings.ToUpper(last), last + "0", "dlv_" + last[4:], "evt_0000000000000000000000000!"} {
		if _, ok := seqOfID(bad); ok {
			t.Errorf("%q looks given", bad)
		}
	}
}
