package boltqueue_test

import (
	"testing"

	"herald/queue/boltqueue"
	"herald/queue/queuetest"
)

func TestContract(t *testing.T) {
	t.Parallel()
	queuetest.Run(t, func(t testing.TB, dir string) queuetest.Engine {
		q, err := boltqueue.Open(boltqueue.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return q
	})
}
