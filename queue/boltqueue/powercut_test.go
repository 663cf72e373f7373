package boltqueue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// A commit is: writes of data pages, a sync, the write of a meta page, a sync. The hook records the writes in
// order, so for any moment the file can be built that a power cut then might leave: everything before the last
// sync, and any part of what was written since, each page whole, torn at sectors, or not at all.

const (
	diskPage   = 4096
	diskSector = 512
)

// write is one write to the file.
type write struct {
	off  int64
	data []byte
}

func (w write) meta() bool { return w.off < 2*diskPage }

// recording is a run of the engine: what it wrote, and what had to be true from which write on.
type recording struct {
	mu     sync.Mutex // guards writes while the engine runs
	base   []byte
	writes []write
	facts  []fact
	size   int64
}

// fact is what was durable when so many writes had been made.
type fact struct {
	writes int
	state  map[string]string
}

// record runs the engine under a random load.
func record(t *testing.T, seed uint64, steps int) *recording {
	rec := &recording{}
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	synctest.Test(t, func(t *testing.T) {
		var recorded atomic.Bool
		options := Options{Path: path, Retention: queue.Retention{Events: 3 * time.Hour, Attempts: 1000 * time.Hour, Dead: 4 * time.Hour}}
		options.WriteAt = func(b []byte, off int64, writeThrough func([]byte, int64) (int, error)) (int, error) {
			if recorded.Load() {
				rec.mu.Lock()
				rec.writes = append(rec.writes, write{off, bytes.Clone(b)})
				rec.mu.Unlock()
			}
			return writeThrough(b, off)
		}
		var q *Queue
		var cancel context.CancelFunc
		done := make(chan error, 1)
		start := func() {
			var err error
			if q, err = Open(options); err != nil {
				t.Fatal(err)
			}
			if !recorded.Load() {
				if rec.base, err = os.ReadFile(path); err != nil {
					t.Fatal(err)
				}
				rec.base = bytes.TrimRight(rec.base, "\x00")
				recorded.Store(true)
			}
			var ctx context.Context
			ctx, cancel = context.WithCancel(context.Background())
			go func(q *Queue) { done <- q.Run(ctx) }(q)
			<-q.Started()
		}
		stop := func() {
			cancel()
			if err := errors.Join(<-done, q.Close()); err != nil {
				t.Error(err)
			}
		}
		note := func() {
			time.Sleep(20 * time.Millisecond)
			synctest.Wait()
			state, err := diskState(q)
			if err != nil {
				t.Fatal(err)
			}
			rec.mu.Lock()
			rec.facts = append(rec.facts, fact{len(rec.writes), state})
			rec.mu.Unlock()
		}
		start()
		defer stop()
		note()
		load := load{t: t, rnd: rand.New(rand.NewPCG(seed, 3))}
		for range steps {
			switch load.rnd.IntN(12) {
			case 0:
				stop()
				start()
			case 1:
				time.Sleep(time.Duration(load.rnd.IntN(60)) * time.Minute)
			default:
				load.step(q)
			}
			note()
		}
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		rec.size = fi.Size()
	})
	return rec
}

// shaped gives each lane batches and an order of its own.
func shaped(l queue.Lane) queue.Room {
	return queue.Room{
		Pushes: 100, Records: 1 + int(l[1])%4*3, Order: queue.Order(l[1] % 3),
		Key: func(ev *queue.Event) uint64 { return uint64(ev.Data[0] % 3) }, KeyID: "first byte",
	}
}

// load does random things to an engine.
type load struct {
	t      *testing.T
	rnd    *rand.Rand
	n      int
	leased []queue.Claim
}

func (l *load) step(q *Queue) {
	ctx := l.t.Context()
	rnd := l.rnd
	lane := func() queue.Lane { return queue.Lane{1: byte(1 + rnd.IntN(8))} }
	switch rnd.IntN(9) {
	case 0, 1, 2:
		subs := make([]queue.Submission, 1+rnd.IntN(20))
		for i := range subs {
			l.n++
			s := &subs[i]
			s.Event = queue.Event{AccountID: "a", Type: "t.x", Time: time.Now(), Data: bytes.Repeat([]byte{byte(l.n)}, 20+rnd.IntN(2000))}
			if l.n%3 == 0 {
				s.ID = fmt.Sprint("id-", l.n)
			}
			for n := range 8 {
				if rnd.IntN(4) == 0 {
					s.Lanes = append(s.Lanes, queue.Lane{1: byte(1 + n)})
				}
			}
		}
		if _, err := q.Accept(ctx, subs); err != nil {
			l.t.Error(err)
		}
	case 3, 4, 5, 6:
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		got, err := q.Claim(short, 1+rnd.IntN(80), shaped, nil)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			l.t.Error(err)
		}
		l.leased = append(l.leased, got...)
		var ss []queue.Settlement
		for _, c := range l.leased {
			s := queue.Settlement{Lane: c.Lane, Deliveries: c.Deliveries, State: queue.StateDelivered, Attempt: &queue.Attempt{StartedAt: time.Now(), Class: queue.ClassDelivered, Status: 200}}
			switch rnd.IntN(5) {
			case 0:
				s.State, s.Due = queue.StateRetrying, time.Now().Add(time.Duration(rnd.IntN(7200))*time.Second)
				s.Attempt.Class, s.Attempt.Error = queue.ClassRetry, strings.Repeat("e", rnd.IntN(300))
				s.Dissolve = rnd.IntN(4) == 0
			case 1:
				s.State, s.Reason = queue.StateDead, queue.ReasonExhausted
				s.Attempt.Class, s.Attempt.Response = queue.ClassRejected, make([]byte, rnd.IntN(3000))
			}
			ss = append(ss, s)
		}
		l.leased = l.leased[:0]
		q.Settle(ss...)
	case 7:
		switch rnd.IntN(4) {
		case 0:
			if err := q.DropLane(ctx, lane()); err != nil {
				l.t.Error(err)
			}
			if err := q.Discard(ctx, lane(), queue.ReasonDisabled); err != nil {
				l.t.Error(err)
			}
		case 1:
			if _, err := q.RetryDead(ctx, lane(), queue.DeadSelection{}); err != nil && !errors.Is(err, queue.ErrGone) {
				l.t.Error(err)
			}
		default:
			list, err := q.Deliveries(ctx, queue.DeliveryFilter{Limit: 50})
			if err != nil {
				l.t.Error(err)
			}
			if len(list) > 0 {
				if err := q.Retry(ctx, "", list[rnd.IntN(len(list))].ID); err != nil && !errors.Is(err, queue.ErrGone) {
					l.t.Error(err)
				}
			}
		}
	case 8:
		if rnd.IntN(3) == 0 {
			time.Sleep(time.Hour)
		}
	}
}

// diskState says how everything stands on disk: events with their content, deliveries with their state, the
// attempts counted and the attempts in the log.
func diskState(q *Queue) (map[string]string, error) {
	state := map[string]string{}
	lanes := map[uint32]laneRecord{}
	err := q.db.View(func(tx *bolt.Tx) error {
		err := tx.Bucket(bucketLane).ForEach(func(k, v []byte) error {
			r, err := decodeLane(v)
			lanes[big.Uint32(k)] = r
			return err
		})
		if err != nil {
			return err
		}
		logged := map[string]int{}
		att := tx.Bucket(bucketAtt)
		err = att.ForEachBucket(func(name []byte) error {
			b := att.Bucket(name)
			return b.ForEach(func(k, v []byte) error {
				return readEntries(packedValue(b, k, v), func(uint64, uint32) bool { return true }, func(e entry) {
					logged[fmt.Sprint("d", e.seq, "/", e.lane)]++
				})
			})
		})
		if err != nil {
			return err
		}
		name := func(seq uint64, ev *queue.Event) {
			h := fnv.New64a()
			fmt.Fprint(h, ev.ID, ev.AccountID, ev.Type, ev.Time, ev.AcceptedAt)
			h.Write(ev.Data)
			state[fmt.Sprint("e", seq)] = strconv.FormatUint(h.Sum64(), 16)
		}
		delivery := func(seq uint64, lane uint32, f fate) {
			key := fmt.Sprint("d", seq, "/", lane)
			text := "pending"
			if f.state != 0 {
				text = string(f.state.state())
			}
			r := lanes[lane]
			if (r.dropped || seq <= r.floor) && f.state == 0 || (r.dropped || r.converting && seq <= r.floor) && f.state == fateRetrying {
				text = string(queue.StateDiscarded)
			}
			state[key] = fmt.Sprint(text, " ", f.attempts, " ", logged[key])
		}
		root := tx.Bucket(bucketEvent)
		bits := newBitReader(tx)
		var b block
		err = root.ForEachBucket(func(segment []byte) error {
			bucket := root.Bucket(segment)
			return bucket.ForEach(func(k, v []byte) error {
				if err := b.read(big.Uint64(k), packedValue(bucket, k, v)); err != nil {
					return err
				}
				for i := range b.events {
					seq := b.first + uint64(i)
					ev, err := b.event(i)
					if err != nil {
						return err
					}
					name(seq, ev)
					targets, err := b.targets(i)
					if err != nil {
						return err
					}
					for j, n := range targets {
						f, err := standing(tx.Bucket(bucketFate), bits, big.Uint64(segment), b.events[i].ordinal+uint32(j), seq, n)
						if err != nil {
							return err
						}
						delivery(seq, n, f)
					}
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
		return tx.Bucket(bucketKeep).ForEach(func(k, _ []byte) error {
			seq := big.Uint64(k)
			if state[fmt.Sprint("e", seq)] != "" {
				return nil
			}
			ev, err := kept(tx, seq)
			if err != nil {
				return err
			}
			name(seq, ev)
			c := tx.Bucket(bucketFate).Cursor()
			for k, v := c.Seek(key64(seq)); len(k) == 12 && big.Uint64(k) == seq; k, v = c.Next() {
				f, err := decodeFate(v)
				if err != nil {
					return err
				}
				delivery(seq, big.Uint32(k[8:]), f)
			}
			return nil
		})
	})
	return state, err
}

// image builds the file of a power cut after some writes, and returns the fact that must hold. Without the
// barrier the sync between data and meta pages does nothing.
func (rec *recording) image(rnd *rand.Rand, barrier bool, path string) (int, error) {
	at := rnd.IntN(len(rec.writes) + 1)
	// safe is how many writes have certainly reached the disk.
	safe, acknowledged := 0, at
	for i := range at {
		switch {
		case !rec.writes[i].meta():
		case i+1 < at:
			safe = i + 1 // another write followed, so the sync after this one had returned
		case rnd.IntN(2) == 0:
			safe = i + 1
		default: // the cut came before that sync: nobody was told
			acknowledged = i
			if barrier {
				safe = i
			}
		}
	}
	file := bytes.Clone(rec.base)
	put := func(w write, from, to int) {
		if end := int(w.off) + to; end > len(file) {
			file = append(file, make([]byte, end-len(file))...)
		}
		copy(file[int(w.off)+from:], w.data[from:to])
	}
	for i, w := range rec.writes[:at] {
		mode := rnd.IntN(3)
		switch {
		case i < safe || mode == 0:
			put(w, 0, len(w.data))
		case mode == 1:
			for s := 0; s < len(w.data); s += diskSector {
				if rnd.IntN(2) == 0 {
					put(w, s, min(s+diskSector, len(w.data)))
				}
			}
		}
	}
	last := 0
	for i, f := range rec.facts {
		if f.writes <= acknowledged {
			last = i
		}
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		return 0, err
	}
	return last, os.Truncate(path, max(rec.size, int64(len(file))))
}

// verify opens the file and compares it with what must be there.
func (rec *recording) verify(path string, last int) error {
	q, err := Open(Options{Path: path})
	if err != nil {
		return err
	}
	defer func() { q.db.Close() }()
	c := checker{q: q, ctx: context.Background()}
	if err := errors.Join(q.db.View(c.run), q.db.Check(context.Background())); err != nil {
		return err
	}
	have, err := diskState(q)
	if err != nil {
		return err
	}
	before := rec.facts[last].state
	after := rec.facts[min(last+1, len(rec.facts)-1)].state
	for key, want := range before {
		got, next := have[key], after[key]
		// A step takes a delivery from one state to another, but retention, which ends one first.
		if got == want || got == next || strings.HasPrefix(key, "d") && strings.HasPrefix(got, "dead ") && (next == "" || strings.HasPrefix(next, "dead ")) {
			continue
		}
		return fmt.Errorf("%s is %q; it was %q and then became %q", key, got, want, next)
	}
	for key, got := range have {
		if _, ok := before[key]; !ok && after[key] == "" && !strings.HasPrefix(got, "discarded") && !strings.HasPrefix(got, "pending") {
			return fmt.Errorf("%s is %q; it never was", key, got)
		}
	}
	return nil
}

func TestPowerCut(t *testing.T) {
	t.Parallel()
	runs, images := 8, 260
	if testing.Short() {
		runs, images = 2, 100
	}
	var mu sync.Mutex
	kinds := map[string]bool{}
	t.Cleanup(func() {
		for _, state := range []string{"pending", "retrying", "delivered", "dead", "discarded"} {
			if !kinds[state] && !testing.Short() {
				t.Errorf("no delivery was ever %s: the load is too small to show anything", state)
			}
		}
	})
	for seed := range uint64(runs) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rec := record(t, seed, 60)
			img := filepath.Join(t.TempDir(), "image.db")
			rnd := rand.New(rand.NewPCG(seed, 9))
			mu.Lock()
			for _, f := range rec.facts {
				for _, v := range f.state {
					kinds[strings.Fields(v)[0]] = true
				}
			}
			mu.Unlock()
			for range images {
				last, err := rec.image(rnd, true, img)
				if err != nil {
					t.Fatal(err)
				}
				if err := rec.verify(img, last); err != nil {
					t.Fatalf("after fact %d of %d: %v", last, len(rec.facts), err)
				}
			}
		})
	}
}

// TestPowerCutFindsAMissingSync makes sure that the test above can fail: without the sync between data and meta pages
// it has to find damage. A damaged file may make bbolt panic in a goroutine, so each is opened in a process of its own.
func TestPowerCutFindsAMissingSync(t *testing.T) {
	t.Parallel()
	const seed, steps = 1, 40
	if img := os.Getenv("HERALD_TEST_IMAGE"); img != "" {
		q, err := Open(Options{Path: img})
		if err != nil {
			t.Fatal(err)
		}
		defer q.db.Close()
		c := checker{q: q, ctx: t.Context()}
		if err := errors.Join(q.db.View(c.run), q.db.Check(t.Context())); err != nil {
			t.Fatal(err)
		}
		return
	}
	rec := record(t, seed, steps)
	rnd := rand.New(rand.NewPCG(seed, 9))
	img := filepath.Join(t.TempDir(), "image.db")
	for n := range 400 {
		if _, err := rec.image(rnd, false, img); err != nil {
			t.Fatal(err)
		}
		limit, cancel := context.WithTimeout(t.Context(), 20*time.Second) // it may also make bbolt go round for ever
		child := exec.CommandContext(limit, os.Args[0], "-test.run=^TestPowerCutFindsAMissingSync$")
		child.Env = append(os.Environ(), "HERALD_TEST_IMAGE="+img)
		out, err := child.CombinedOutput()
		cancel()
		if err != nil {
			t.Logf("image %d is bad, as it must be: %.200s", n+1, out)
			return
		}
	}
	t.Fatal("a missing sync was not noticed")
}
