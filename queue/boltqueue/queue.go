package boltqueue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	bolt "go.etcd.io/bbolt"

	"herald/queue"
	"herald/store/boltkit"
)

// FileName is the file within Options.Dir.
const FileName = "queue.db"

const (
	schemaName = "herald queue"
	// SchemaVersion is the version of the file's format.
	SchemaVersion = 5
	// viewBudget is how long one read transaction may work before it makes way.
	viewBudget = 20 * time.Millisecond
)

// Options configure a Queue. Zero values have the defaults stated.
type Options struct {
	// Dir is the directory of the file; it must exist. Path, when set, is the file itself.
	Dir, Path string
	// Retention says how long things are kept; see DefaultRetention for its zero members.
	Retention queue.Retention
	// Registerer takes the metrics; nil leaves them unregistered.
	Registerer prometheus.Registerer
	// Logger gets what people should know; nil discards it.
	Logger *slog.Logger
	// MaxSize bounds the file, in bytes; 0 is no bound but the disk.
	MaxSize int64
	// MinFree is how much room the disk must have for events to be accepted, in bytes; default 16 MiB,
	// negative switches the check off.
	MinFree int64
	// MaxWaiting and MaxWaitingBytes bound what waits to be committed by Accept: events (default 16384) and bytes
	// (default 64 MiB). More is refused with queue.ErrBusy.
	MaxWaiting      int
	MaxWaitingBytes int64
	// MaxUnsettled is how many settlements may wait to be committed before Settle waits; default 65536.
	MaxUnsettled int
	// CacheBytes bounds the events held in memory between acceptance and first attempt; default 32 MiB.
	CacheBytes int64
	// Expired is told of deliveries that became dead because their event was over age: of which lane, for what type of
	// event, and how many. It is called with the queue's lock held: it must be quick and must not call the queue. Nil:
	// nobody is told.
	Expired func(lane queue.Lane, eventType string, deliveries int)
	// NoPace commits at once what is submitted, without the waits that make commits larger.
	NoPace bool
	// WriteAt stands between the queue and its file; it is for tests (boltkit.Options).
	WriteAt func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error)
}

// DefaultRetention is used for members of Options.Retention and Configure that are zero, but MaxBytes.
func DefaultRetention() queue.Retention {
	return queue.Retention{Events: 7 * 24 * time.Hour, Attempts: 7 * 24 * time.Hour, Dead: 30 * 24 * time.Hour}
}

// Queue is the engine. Open makes one.
type Queue struct {
	o       Options
	db      *boltkit.DB
	commits *boltkit.Committer[work]
	metrics *metrics
	log     *slog.Logger

	started chan struct{} // closed when Run works
	stopped chan struct{} // closed when Run ends
	running atomic.Bool
	ran     atomic.Bool
	claimed atomic.Bool // a Claim is under way

	waiting      atomic.Int64 // events in Accept
	waitingBytes atomic.Int64

	work signal // wakes Claim
	feed signal // wakes the loader
	tend signal // wakes retention

	mu            sync.Mutex
	segments      []*segment // ascending
	lanes         map[queue.Lane]*lane
	numbers       map[uint32]*lane
	lastLane      uint32
	laneEpoch     uint64 // counts lanes forgotten
	seq           uint64 // of the newest committed event
	lastMs        int64  // its acceptance; never goes back
	distributed   uint64 // the newest event whose lanes all know of it
	ready         laneRing
	timers        timerHeap
	hungry        []*lane
	leases        map[leaseKey]lease
	windows       int // references in all windows, and parked
	round         uint64
	turn          uint64 // counts pushes of lanes with an order
	events        int64
	pending       int64
	retrying      int64
	leasedRetries int64
	dead          int64
	cacheBytes    int64
	sweptMs       int64 // when stale events were looked for last
	unsettled     int
	settledUp     *sync.Cond // unsettled fell, or the queue stopped
	retention     queue.Retention
	converting    []*lane // dropped lanes whose retries are still on disk
	oldest        oldestDue
	extras        bool           // there may be deliveries of events that do not name their lanes
	replaying     map[*lane]bool // those with running replays

	space space

	// Used by the one Claim under way only.
	picks []pick
	parts []part

	// Used by the writer's goroutine only.
	stage   *stage
	spare   [][]byte
	builder blockBuilder
}

// Open opens the queue in its file, or makes a new one, and rebuilds what it holds in memory: segments,
// lanes and the beginning of the work. It starts nothing; Run does.
//
// Errors: those of boltkit.Open; damaged records.
func Open(o Options) (*Queue, error) {
	if o.Path == "" {
		if o.Dir == "" {
			return nil, errors.New("open queue: Dir or Path is required")
		}
		o.Path = filepath.Join(o.Dir, FileName)
	}
	setDefault(&o.MinFree, 16<<20)
	setDefault(&o.MaxWaiting, 16384)
	setDefault(&o.MaxWaitingBytes, 64<<20)
	setDefault(&o.MaxUnsettled, 65536)
	setDefault(&o.CacheBytes, 32<<20)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	q := &Queue{
		o: o, log: o.Logger,
		started: make(chan struct{}), stopped: make(chan struct{}),
		work: make(signal, 1), feed: make(signal, 1), tend: make(signal, 1),
		lanes: map[queue.Lane]*lane{}, numbers: map[uint32]*lane{}, leases: map[leaseKey]lease{}, replaying: map[*lane]bool{},
		retention: fillRetention(o.Retention),
	}
	q.settledUp = sync.NewCond(&q.mu)
	db, err := boltkit.Open(boltkit.Options{
		Path: o.Path, Name: schemaName, Version: SchemaVersion, Init: createBuckets, Migrate: migrate,
		MaxSize: o.MaxSize, InitialMmapSize: boltkit.AddressSpace, Logger: o.Logger, WriteAt: o.WriteAt,
	})
	if err != nil {
		return nil, err
	}
	q.db = db
	if err := q.recoverSafely(); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", o.Path, err), db.Close())
	}
	q.commits = boltkit.NewCommitter(boltkit.CommitterOptions[work]{
		DB: db, Apply: q.apply, Settled: q.settled, Cost: cost, Keep: mustKeep, Pace: !o.NoPace,
	})
	q.metrics = newMetrics(q)
	if o.Registerer != nil {
		if err := q.metrics.register(o.Registerer); err != nil {
			return nil, errors.Join(fmt.Errorf("open %s: %w", o.Path, err), db.Close())
		}
	}
	return q, nil
}

func setDefault[T int | int64](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

func fillRetention(r queue.Retention) queue.Retention {
	d := DefaultRetention()
	for _, m := range [][2]*time.Duration{{&r.Events, &d.Events}, {&r.Attempts, &d.Attempts}, {&r.Dead, &d.Dead}} {
		if *m[0] <= 0 {
			*m[0] = *m[1]
		}
	}
	return r
}

func createBuckets(tx *bolt.Tx) error {
	for _, name := range buckets() {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return nil
}

// migrate brings a file of an older version up to this one. Version 2 has batches, version 3 has replays, version 4 deliveries
// that are planned, version 5 events with a trace; every record of an older version is one of a newer.
func migrate(tx *bolt.Tx, from int) error {
	if from < 2 {
		if _, err := tx.CreateBucket(bucketBatch); err != nil {
			return err
		}
	}
	if from < 3 {
		if _, err := tx.CreateBucket(bucketReplay); err != nil {
			return err
		}
	}
	return nil
}

// Run implements queue.Queue. It may be called once.
func (q *Queue) Run(ctx context.Context) error {
	if q.ran.Swap(true) {
		return queue.ErrClosed
	}
	q.running.Store(true)
	close(q.started)
	var helpers sync.WaitGroup
	inner, stop := context.WithCancel(ctx)
	helpers.Go(func() { q.load(inner) })
	helpers.Go(func() { q.retain(inner) })
	err := q.commits.Run(ctx)
	q.running.Store(false)
	stop()
	close(q.stopped)
	q.mu.Lock()
	q.settledUp.Broadcast()
	q.mu.Unlock()
	helpers.Wait()
	return err
}

// Started is closed when Run works: from then on the other methods do, too.
func (q *Queue) Started() <-chan struct{} { return q.started }

// Clean says whether the file was closed cleanly before it was opened.
func (q *Queue) Clean() bool { return q.db.Clean() }

// Copy writes the file as it is at one moment to w, a local file, while the queue works; see boltkit.DB.Copy.
func (q *Queue) Copy(ctx context.Context, w io.Writer) (int64, error) { return q.db.Copy(ctx, w) }

// Close closes the file. Run must have returned, or never have been called.
func (q *Queue) Close() error {
	if q.running.Load() {
		return errors.New("close queue: it still runs")
	}
	if q.o.Registerer != nil {
		q.metrics.unregister(q.o.Registerer)
	}
	return q.db.Close()
}

// Configure implements queue.Queue.
func (q *Queue) Configure(r queue.Retention) {
	q.mu.Lock()
	q.retention = fillRetention(r)
	q.mu.Unlock()
	q.tend.rouse()
}

// view reads from the file while the queue runs.
func (q *Queue) view(fn func(*bolt.Tx) error) error {
	if !q.running.Load() {
		return queue.ErrClosed
	}
	return q.db.View(fn)
}

// Healthy implements queue.Queue.
func (q *Queue) Healthy() error {
	if !q.running.Load() {
		return queue.ErrClosed
	}
	// Before what may wait for the disk.
	if err := q.db.Hanging(); err != nil {
		return err
	}
	q.space.mu.Lock()
	q.space.look(q)
	q.space.mu.Unlock()
	err := q.space.healthy()
	if q.waiting.Load() >= int64(q.o.MaxWaiting) || q.waitingBytes.Load() >= q.o.MaxWaitingBytes {
		err = errors.Join(err, errors.New("as many events as may wait to be committed do so already"))
	}
	return err
}

// Lanes implements queue.Queue.
func (q *Queue) Lanes(ctx context.Context) ([]queue.Lane, error) {
	if !q.running.Load() {
		return nil, queue.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	var list []queue.Lane
	for _, l := range q.numbers {
		if !l.dropped {
			list = append(list, l.id)
		}
	}
	return list, nil
}
