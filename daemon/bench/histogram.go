package bench

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// A histogram's buckets are exact up to subBuckets nanoseconds; above that each power of two is
// cut into subBuckets equal parts, so that a bucket is at most 1/128 of its value wide.
const (
	subBits     = 7
	subBuckets  = 1 << subBits
	histBuckets = (64 - subBits) * subBuckets
)

// histogram counts durations in a fixed amount of memory, whatever their number. Count, minimum,
// maximum and mean are exact; a quantile is off by at most 0.4 % of its value, because the middle of a
// bucket stands for all of it. All methods may be called concurrently; the zero value is empty and ready.
type histogram struct {
	buckets [histBuckets]atomic.Uint64
	count   atomic.Uint64
	sum     atomic.Int64
	low     atomic.Int64 // smallest value plus one, so that zero means none yet
	high    atomic.Int64
}

// bucketOf returns the bucket of a value in nanoseconds.
func bucketOf(v uint64) int {
	if v < subBuckets {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return (shift+1)*subBuckets + int(v>>shift) - subBuckets
}

// bucketMiddle returns the value that stands for a bucket.
func bucketMiddle(i int) uint64 {
	if i < subBuckets {
		return uint64(i)
	}
	shift := i/subBuckets - 1
	low := uint64(subBuckets+i%subBuckets) << shift
	return low + uint64(1)<<shift/2
}

// add counts one duration; a negative one, which only a clock error could make, counts as zero.
func (h *histogram) add(d time.Duration) {
	v := max(int64(d), 0)
	h.buckets[bucketOf(uint64(v))].Add(1)
	h.count.Add(1)
	h.sum.Add(v)
	for old := h.low.Load(); (old == 0 || v+1 < old) && !h.low.CompareAndSwap(old, v+1); {
		old = h.low.Load()
	}
	for old := h.high.Load(); v > old && !h.high.CompareAndSwap(old, v); {
		old = h.high.Load()
	}
}

// quantile returns the nearest-rank quantile q of 0 to 1, or 0 when nothing was counted.
func (h *histogram) quantile(q float64) time.Duration {
	n := h.count.Load()
	if n == 0 {
		return 0
	}
	rank := max(uint64(math.Ceil(q*float64(n))), 1)
	if rank >= n {
		return time.Duration(h.high.Load())
	}
	var seen uint64
	for i := range h.buckets {
		if seen += h.buckets[i].Load(); seen >= rank {
			v := int64(min(bucketMiddle(i), math.MaxInt64))
			return time.Duration(min(max(v, h.low.Load()-1), h.high.Load()))
		}
	}
	return time.Duration(h.high.Load())
}

// latency returns the figures of a report.
func (h *histogram) latency() Latency {
	l := Latency{
		Count: h.count.Load(),
		P50:   millis(h.quantile(0.5)),
		P90:   millis(h.quantile(0.9)),
		P99:   millis(h.quantile(0.99)),
		Max:   millis(time.Duration(h.high.Load())),
	}
	if l.Count > 0 {
		l.Mean = millis(time.Duration(h.sum.Load() / int64(l.Count)))
	}
	return l
}

// millis turns a duration into the unit of a report.
func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
