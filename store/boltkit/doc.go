// Package boltkit is what Herald's two storage engines share: opening a bbolt file safely, committing
// the work of many callers together, and checking a file.
//
// It promises that a file is either whole or absent after a power cut during its creation, that one
// process holds it at a time, that a damaged, foreign or newer file is refused and never started anew,
// that one goroutine writes, and that nothing is acknowledged on a handle whose sync once failed.
package boltkit
