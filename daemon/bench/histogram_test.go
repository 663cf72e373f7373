package bench

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestHistogramBucketsCoverEveryValue(t *testing.T) {
	t.Parallel()
	values := []uint64{0, 1, subBuckets - 1, subBuckets, subBuckets + 1, 1e6, 1e9, math.MaxInt64}
	for shift := range 63 {
		values = append(values, 1<<shift, 1<<shift+1, 1<<shift-1)
	}
	slices.Sort(values)
	last := -1
	for _, v := range values {
		i := bucketOf(v)
		if i < last || i >= histBuckets {
			t.Fatalf("bucket of %d is %d after %d", v, i, last)
		}
		last = i
		m := bucketMiddle(i)
		if bucketOf(m) != i {
			t.Errorf("the middle %d of bucket %d is in bucket %d", m, i, bucketOf(m))
		}
		if off := math.Abs(float64(m) - float64(v)); off > float64(v)*0.004 {
			t.Errorf("%d stands for %d: off by %.2f %%", m, v, 100*off/float64(v))
		}
	}
}

func TestHistogramQuantiles(t *testing.T) {
	t.Parallel()
	for name, draw := range map[string]func(*rand.Rand) time.Duration{
		"uniform":     func(r *rand.Rand) time.Duration { return time.Duration(r.Int64N(int64(time.Second))) },
		"exponential": func(r *rand.Rand) time.Duration { return time.Duration(r.ExpFloat64() * float64(time.Millisecond)) },
		"two humps": func(r *rand.Rand) time.Duration {
			if r.IntN(50) == 0 {
				return time.Second + time.Duration(r.Int64N(1e6))
			}
			return time.Duration(100 + r.Int64N(100))
		},
		"constant": func(*rand.Rand) time.Duration { return 1234567 },
	} {
		var h histogram
		r := rand.New(rand.NewPCG(1, 2))
		all := make([]time.Duration, 10001)
		for i := range all {
			all[i] = draw(r)
			h.add(all[i])
		}
		slices.Sort(all)
		for _, q := range []float64{0, 0.001, 0.5, 0.9, 0.99, 0.999, 1} {
			got, want := h.quantile(q), quantileOf(all, q)
			if math.Abs(float64(got-want)) > float64(want)*0.004 {
				t.Errorf("%s: quantile %v is %v, want %v", name, q, got, want)
			}
		}
		if h.quantile(1) != all[len(all)-1] {
			t.Errorf("%s: the maximum is not exact", name)
		}
	}
}

func TestHistogramEdges(t *testing.T) {
	t.Parallel()
	var h histogram
	if l := h.latency(); l != (Latency{}) {
		t.Errorf("empty: %+v", l)
	}
	h.add(-time.Second)
	if h.quantile(0.5) != 0 || h.count.Load() != 1 {
		t.Error("a negative duration is not zero")
	}
	var one histogram
	one.add(12345 * time.Microsecond)
	if l := one.latency(); l.P50 != 12.345 || l.P99 != 12.345 || l.Max != 12.345 || l.Mean != 12.345 {
		t.Errorf("one value: %+v", l)
	}
}

func TestHistogramConcurrently(t *testing.T) {
	t.Parallel()
	var h histogram
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 1000 {
				h.add(time.Duration(g*1000 + i + 1))
			}
		})
	}
	wg.Wait()
	if h.count.Load() != 8000 || h.sum.Load() != 8000*8001/2 || h.low.Load() != 2 || h.high.Load() != 8000 {
		t.Errorf("count %d, sum %d, low %d, high %d", h.count.Load(), h.sum.Load(), h.low.Load(), h.high.Load())
	}
}
