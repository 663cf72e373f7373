// Package boltqueue is the queue engine that ships with Herald: queue.Queue on one bbolt file.
package boltqueue
