package boltqueue

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	bolt "go.etcd.io/bbolt"

	"herald/queue"
)

// The ids publishers choose are found by a hash of account and id. The entries are grouped in slices of
// time, each a bucket of its own, which is dropped whole when no event of it is left; a look-up asks the
// few slices, newest first, because an id may have been used again after its event was gone.

// idemKey stands for an account's id.
type idemKey [16]byte

func keyOfID(account, id string) idemKey {
	h := sha256.New()
	h.Write([]byte(account))
	h.Write([]byte{0})
	h.Write([]byte(id))
	var sum [sha256.Size]byte
	return idemKey(h.Sum(sum[:0]))
}

// claimedID is the event an id names, and what it was submitted with.
type claimedID struct {
	seq    uint64
	digest [16]byte
}

func (c claimedID) encode() []byte {
	return append(binary.AppendUvarint([]byte{recordVersion}, c.seq), c.digest[:]...)
}

func decodeClaimedID(b []byte) (claimedID, error) {
	d := decoder{b: b}
	d.version()
	c := claimedID{seq: d.number(math.MaxUint64)}
	copy(c.digest[:], d.bytes(len(c.digest)))
	return c, d.end()
}

// sliceWidth is how much time a slice spans.
func sliceWidth(r queue.Retention) int64 { return max(r.Events/8, time.Hour).Milliseconds() }

// ids looks after publishers' ids within one transaction.
type ids struct {
	q      *Queue
	tx     *bolt.Tx
	st     *stage
	reader eventReader
	slices []*bolt.Bucket // newest first
	now    *bolt.Bucket   // the one new entries go to
	opened bool
}

func (q *Queue) openIDs(tx *bolt.Tx, st *stage) *ids {
	return &ids{q: q, tx: tx, st: st, reader: eventReader{tx: tx}}
}

func (x *ids) open() error {
	if x.opened {
		return nil
	}
	x.opened = true
	root := x.tx.Bucket(bucketIdem)
	c := root.Cursor()
	for k, _ := c.Last(); k != nil; k, _ = c.Prev() {
		b := root.Bucket(k)
		if b == nil {
			return fmt.Errorf("ids: %w: slice %x", errDamaged, k)
		}
		x.slices = append(x.slices, b)
	}
	return nil
}

// find returns what an account's id names, if it is retained.
func (x *ids) find(key idemKey) (claimedID, bool, error) {
	if c, ok := x.st.claims[key]; ok {
		return c, true, nil
	}
	if err := x.open(); err != nil {
		return claimedID{}, false, err
	}
	for _, b := range x.slices {
		v := b.Get(key[:])
		if v == nil {
			continue
		}
		c, err := decodeClaimedID(v)
		if err != nil {
			return claimedID{}, false, fmt.Errorf("id %x: %w", key, err)
		}
		if x.q.retains(c.seq) {
			return c, true, nil
		}
		break
	}
	if v := x.tx.Bucket(bucketKeepID).Get(key[:]); v != nil {
		c, err := decodeClaimedID(v)
		return c, err == nil, err
	}
	return claimedID{}, false, nil
}

// retains says whether the segment of a committed event is still there.
func (q *Queue) retains(seq uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.segmentOf(seq) != nil
}

// screen compares the submissions of one call with what is retained, with the rest of the commit, and
// with each other. It marks duplicates in the receipts; a *queue.ConflictError is about the caller.
func (x *ids) screen(a *acceptance) error {
	var within map[idemKey][16]byte
	for i := range a.subs {
		s := &a.subs[i]
		if s.ID == "" {
			continue
		}
		// An id the queue gave has no digest, so nothing submitted under it is the same.
		if seq, ok := seqOfID(s.ID); ok && x.q.retains(seq) {
			ev, err := x.reader.event(x.q.segmentFirst(seq), seq)
			if err != nil {
				return err
			}
			if ev != nil && ev.ID == s.ID && ev.AccountID == s.AccountID && !x.chosen(s) {
				return &queue.ConflictError{Index: i, ID: s.ID}
			}
		}
		key := keyOfID(s.AccountID, s.ID)
		digest, known := within[key]
		if !known {
			c, found, err := x.find(key)
			if err != nil {
				return err
			}
			digest, known = c.digest, found
		}
		switch {
		case !known:
			if within == nil {
				within = map[idemKey][16]byte{}
			}
			within[key] = s.Digest
		case digest != s.Digest:
			return &queue.ConflictError{Index: i, ID: s.ID}
		default:
			a.receipts[i].Duplicate = true
		}
	}
	return nil
}

// chosen says whether a publisher chose this very id, though it looks as if the queue had given it.
func (x *ids) chosen(s *queue.Submission) bool {
	_, found, err := x.find(keyOfID(s.AccountID, s.ID))
	return found && err == nil
}

// claim records a publisher's id for a new event.
func (x *ids) claim(account, id string, digest [16]byte, seq uint64) error {
	key, c := keyOfID(account, id), claimedID{seq, digest}
	if x.st.claims == nil {
		x.st.claims = map[idemKey]claimedID{}
	}
	x.st.claims[key] = c
	if x.now == nil {
		x.q.mu.Lock()
		width := sliceWidth(x.q.retention)
		x.q.mu.Unlock()
		b, err := x.tx.Bucket(bucketIdem).CreateBucketIfNotExists(key64(uint64(x.st.nowMs - x.st.nowMs%width)))
		if err != nil {
			return err
		}
		x.now = b
	}
	// The bucket's own counter keeps the newest event in it.
	if err := x.now.SetSequence(max(seq, x.now.Sequence())); err != nil {
		return err
	}
	return x.now.Put(key[:], c.encode())
}
