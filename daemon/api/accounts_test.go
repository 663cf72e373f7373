package api

import (
	"net/http"
	"testing"

	"herald/store"
)

// The id of a deleted account is refused with a reason of its own: that it is free again would be the
// first guess of whoever sees no such account in the list.
func TestRetiredAccountID(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.store.setFail(store.ErrRetired, 1) // the token's look-up comes first
	wantProblem(t, b.request(http.MethodPost, "/accounts", "adm", `{"id":"acme-2"}`), 409,
		"acme-2 belonged to an account that was deleted", "choose another")
}
