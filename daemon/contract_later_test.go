package daemon_test

import "testing"

// What the contract has and this version has not is not there, and says so.

func TestContract_LaterCallsAreNotThere(t *testing.T) {
	t.Parallel()
	h := start(t)
	for _, call := range [][2]string{
		{"POST", "/messages/android"},
		{"POST", "/messages"},
		{"GET", "/implementations"},
	} {
		h.admin().do(call[0], call[1], nil).problem(404)
	}
}
