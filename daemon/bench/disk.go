package bench

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"time"
)

// The disk is probed with what the storage engine does: 4 KiB appended and made durable. Back to back
// shows what it can do when busy, spaced what a lone event pays.
const (
	probeBlock   = 4096
	probeCount   = 300
	probeLimit   = 2 * time.Second // for each of the two, on a slow disk
	probeSpacing = 10 * time.Millisecond
	probeSpaced  = 100
)

// probeDisk measures the disk of a directory, with so many probes back to back and spaced. The file is removed before
// it returns.
func probeDisk(ctx context.Context, dir string, count, spaced int) (_ *Disk, err error) {
	f, err := os.CreateTemp(dir, "probe-")
	if err != nil {
		return nil, fmt.Errorf("probe the disk: %w", err)
	}
	defer func() {
		_ = f.Close()
		if e := os.Remove(f.Name()); err == nil {
			err = e
		}
	}()
	busy, err := probe(ctx, f, count, 0)
	if err != nil {
		return nil, fmt.Errorf("probe the disk: %w", err)
	}
	idle, err := probe(ctx, f, spaced, probeSpacing)
	if err != nil {
		return nil, fmt.Errorf("probe the disk: %w", err)
	}
	return &Disk{
		BusyP50: millis(quantileOf(busy, 0.5)), BusyP99: millis(quantileOf(busy, 0.99)),
		SpacedP50: millis(quantileOf(idle, 0.5)), SpacedP99: millis(quantileOf(idle, 0.99)),
	}, nil
}

// probe appends and syncs up to count blocks, one in each interval, and returns the times, sorted.
func probe(ctx context.Context, f *os.File, count int, interval time.Duration) ([]time.Duration, error) {
	block := make([]byte, probeBlock)
	times := make([]time.Duration, 0, count)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for begin := time.Now(); len(times) < count && (len(times) == 0 || time.Since(begin) < probeLimit); {
		if interval > 0 {
			timer.Reset(interval)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		t := time.Now()
		if _, err := f.Write(block); err != nil {
			return nil, err
		}
		if err := dataSync(f); err != nil {
			return nil, err
		}
		times = append(times, time.Since(t))
	}
	slices.Sort(times)
	return times, nil
}

// quantileOf is the nearest-rank quantile of sorted times: exact.
func quantileOf(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}
