package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of the times in /proc/PID/stat: USER_HZ, 100 on every architecture Go runs on.
const clockTick = 10 * time.Millisecond

// usage is what the kernel has counted of a process since its start. Fields that the system does not tell
// are below zero.
type usage struct {
	CPU       time.Duration // user and system
	Written   int64         // bytes passed to write calls, sockets included
	DiskBytes int64         // bytes caused to be written to a block device
	RSS       int64         // resident now, bytes
	RSSAnon   int64         // of RSS, the process's own: heap, stacks
	RSSFile   int64         // of RSS, pages of mapped files, which the kernel takes back when it needs them
	PeakRSS   int64         // resident at most since the start, bytes
}

var unknownUsage = usage{CPU: -1, Written: -1, DiskBytes: -1, RSS: -1, RSSAnon: -1, RSSFile: -1, PeakRSS: -1}

// usageOf reads the counters of a process below root, which is /proc. What is not there or not readable
// stays unknown; what is there but not understood is an error.
func usageOf(root string, pid int) (usage, error) {
	u := unknownUsage
	dir := filepath.Join(root, strconv.Itoa(pid))
	for _, part := range []struct {
		name  string
		parse func([]byte, *usage) error
	}{{"stat", parseStat}, {"io", parseIO}, {"status", parseStatus}} {
		b, err := os.ReadFile(filepath.Join(dir, part.name))
		switch {
		case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
			continue
		case err != nil:
			return u, err
		}
		if err := part.parse(b, &u); err != nil {
			return u, fmt.Errorf("%s: %w", filepath.Join(dir, part.name), err)
		}
	}
	return u, nil
}

// machineBusy reads how long all processors together have been busy since the start of the system, time
// taken by the host included; below zero where root has no such file.
func machineBusy(root string) (time.Duration, error) {
	b, err := os.ReadFile(filepath.Join(root, "stat"))
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
		return -1, nil
	case err != nil:
		return -1, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return -1, errors.New("stat: no sum of the processors")
	}
	var ticks int64
	for i, s := range f[1:9] {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return -1, fmt.Errorf("stat: %w", err)
		}
		// The fourth and fifth of proc_stat(5) are idle and waiting for a disk; the guests' after the
		// eighth are part of the first two.
		if i != 3 && i != 4 {
			ticks += n
		}
	}
	return time.Duration(ticks) * clockTick, nil
}

// parseStat reads user and system time, fields 14 and 15 of proc_pid_stat(5). The command name, field 2,
// stands in parentheses and may itself hold blanks and parentheses.
func parseStat(b []byte, u *usage) error {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return errors.New("no command name")
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 13 {
		return errors.New("too few fields")
	}
	var ticks int64
	for _, s := range f[11:13] {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return fmt.Errorf("processor time: %w", err)
		}
		ticks += n
	}
	u.CPU = time.Duration(ticks) * clockTick
	return nil
}

// parseIO reads the two write counters of proc_pid_io(5).
func parseIO(b []byte, u *usage) error {
	return parseLines(b, map[string]func(int64){
		"wchar":       func(n int64) { u.Written = n },
		"write_bytes": func(n int64) { u.DiskBytes = n },
	})
}

// parseStatus reads the resident sizes of proc_pid_status(5), which are in KiB.
func parseStatus(b []byte, u *usage) error {
	return parseLines(b, map[string]func(int64){
		"VmRSS":   func(n int64) { u.RSS = n << 10 },
		"RssAnon": func(n int64) { u.RSSAnon = n << 10 },
		"RssFile": func(n int64) { u.RSSFile = n << 10 },
		"VmHWM":   func(n int64) { u.PeakRSS = n << 10 },
	})
}

// parseLines reads "name: number [kB]" lines and hands the wanted ones over.
func parseLines(b []byte, want map[string]func(int64)) error {
	for line := range strings.Lines(string(b)) {
		name, value, ok := strings.Cut(line, ":")
		take := want[name]
		if !ok || take == nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		take(n)
	}
	return nil
}
