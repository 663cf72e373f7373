package boltkit

import (
	"bytes"
	"os"
	"strconv"
	"syscall"

	bolt "go.etcd.io/bbolt"
)

// Unmap gives the pages of the file that reading has mapped back to the system when the process has more than limit
// bytes of files mapped, and says whether it did. They stay in the system's cache and are mapped again when they are read.
//
// Without it a process that reads a large file once seems to need as much memory: every page read, and its neighbours
// in the cache, count as resident until someone else needs the room. A file that is small beside the limit is not worth
// the look.
func (d *DB) Unmap(limit int64) bool {
	if d.used.Load() <= limit/16 || mappedFiles() <= limit {
		return false
	}
	done := false
	// The file is not mapped anew while a transaction reads. An error of View says that it is closed.
	_ = d.bolt.View(func(tx *bolt.Tx) error {
		info := d.bolt.Info()
		size := tx.Size()
		if info.Data == 0 || size <= 0 {
			return nil
		}
		_, _, errno := syscall.Syscall(syscall.SYS_MADVISE, info.Data, uintptr(size), syscall.MADV_DONTNEED)
		done = errno == 0
		return nil
	})
	return done
}

// mappedFiles returns how many bytes of files the process has mapped and resident, by proc_pid_statm(5); 0 when that cannot be
// read.
func mappedFiles() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(text)
	if len(fields) < 3 {
		return 0
	}
	pages, err := strconv.ParseInt(string(fields[2]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
