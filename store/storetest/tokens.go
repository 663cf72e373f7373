package storetest

import (
	"fmt"

	"herald/store"
)

func testCreateToken(h *house) {
	full := store.Token{
		ID: "t1", AccountID: "acme", Name: "of the build", Scopes: []store.Scope{store.ScopePublish, store.ScopeSubscribe},
		Hash: store.TokenHash{1, 2, 3}, CreatedAt: moment(1), ExpiresAt: moment(2),
	}
	bare := store.Token{ID: "t2", AccountID: "acme", Hash: store.TokenHash{4}}
	h.step(func(s store.Store) {
		h.is(s.CreateToken(ctx, full), store.ErrNotFound)
		h.account("acme")
		h.is(s.CreateToken(ctx, full), nil)
		h.is(s.CreateToken(ctx, bare), nil)
	})
	h.step(func(s store.Store) {
		x := full
		x.Hash = store.TokenHash{9}
		h.is(s.CreateToken(ctx, x), store.ErrExists)
		x = full
		x.ID = "t3"
		h.is(s.CreateToken(ctx, x), store.ErrExists)
		h.is(s.CreateToken(ctx, store.Token{ID: "t4", AccountID: "nobody", Hash: store.TokenHash{5}}), store.ErrNotFound)
	})
	h.step(func(s store.Store) {
		list, err := s.Tokens(ctx, "", "", 0)
		h.is(err, nil)
		same(h, list, []store.Token{full, bare})
		for _, hash := range []store.TokenHash{{9}, {5}} {
			_, _, err := s.TokenByHash(ctx, hash)
			h.is(err, store.ErrNotFound)
		}
		got, _, err := s.TokenByHash(ctx, full.Hash)
		h.is(err, nil)
		same(h, got, full)
	})
	h.step(func(s store.Store) {
		for _, id := range []string{"", string(make([]byte, 100_000))} {
			if s.CreateToken(ctx, store.Token{ID: id, AccountID: "acme", Hash: store.TokenHash{6}}) == nil {
				h.Fatalf("a token with an id of %d bytes was created", len(id))
			}
		}
		h.is(s.CreateToken(ctx, store.Token{ID: "t5", AccountID: "acme", Hash: store.TokenHash{6}}), nil)
	})
}

func testTokenByHash(h *house) {
	// Expired and of a suspended account: none of that is judged here.
	token := store.Token{
		ID: "t", AccountID: "acme", Scopes: []store.Scope{store.ScopeSend}, Hash: store.TokenHash{1},
		CreatedAt: moment(1), ExpiresAt: moment(1).AddDate(-10, 0, 0),
	}
	account := store.Account{ID: "acme", Suspended: true, CreatedAt: moment(1)}
	h.step(func(s store.Store) {
		h.is(s.CreateAccount(ctx, account), nil)
		_, _, err := s.TokenByHash(ctx, token.Hash)
		h.is(err, store.ErrNotFound)
		h.is(s.CreateToken(ctx, token), nil)
	})
	for range 2 { // from the file and from wherever an engine keeps it then
		h.step(func(s store.Store) {
			for range 2 {
				got, a, err := s.TokenByHash(ctx, token.Hash)
				h.is(err, nil)
				same(h, got, token)
				same(h, a, account)
			}
		})
	}
	h.step(func(s store.Store) {
		_, err := s.UpdateAccount(ctx, "acme", func(a *store.Account) error { a.Suspended = false; return nil })
		h.is(err, nil)
		_, a, err := s.TokenByHash(ctx, token.Hash)
		h.is(err, nil)
		if a.Suspended {
			h.Fatal("the token's account is as it was before its update")
		}
	})
}

func testTokens(h *house) {
	h.step(func(s store.Store) {
		h.account("acme")
		h.account("other")
		for i, id := range []string{"d", "b", "a", "c", "e"} {
			account := "acme"
			if i%2 == 1 {
				account = "other"
			}
			h.is(s.CreateToken(ctx, store.Token{ID: id, AccountID: account, Hash: store.TokenHash{byte(i)}}), nil)
		}
	})
	h.step(func(s store.Store) {
		for _, x := range []struct {
			account string
			page[string]
		}{
			{"", page[string]{"", 0, []string{"a", "b", "c", "d", "e"}}},
			{"", page[string]{"", 2, []string{"a", "b"}}},
			{"", page[string]{"b", 2, []string{"c", "d"}}},
			{"", page[string]{"e", 0, nil}},
			{"acme", page[string]{"", 0, []string{"a", "d", "e"}}},
			{"acme", page[string]{"b", 1, []string{"d"}}},
			{"other", page[string]{"", 0, []string{"b", "c"}}},
			{"other", page[string]{"b", 0, []string{"c"}}},
			{"default", page[string]{"", 0, nil}},
			{"nobody", page[string]{"", 0, nil}},
		} {
			list, err := s.Tokens(ctx, x.account, x.after, x.limit)
			h.is(err, nil)
			var got []string
			for _, token := range list {
				got = append(got, token.ID)
			}
			h.lists(fmt.Sprintf("of %q after %q, at most %d", x.account, x.after, x.limit), got, x.want)
		}
	})
}

func testDeleteToken(h *house) {
	token := func(id string, n byte) store.Token {
		return store.Token{ID: id, AccountID: "acme", Hash: store.TokenHash{n}}
	}
	h.step(func(s store.Store) {
		h.account("acme")
		h.account("other")
		h.is(s.CreateToken(ctx, token("t1", 1)), nil)
		h.is(s.CreateToken(ctx, token("t2", 2)), nil)
	})
	h.step(func(s store.Store) {
		h.is(s.DeleteToken(ctx, "other", "t1"), store.ErrNotFound)
		h.is(s.DeleteToken(ctx, "", "nobody"), store.ErrNotFound)
		h.is(s.DeleteToken(ctx, "", ""), store.ErrNotFound)
		_, _, err := s.TokenByHash(ctx, store.TokenHash{1})
		h.is(err, nil)
		h.is(s.DeleteToken(ctx, "acme", "t1"), nil)
		_, _, err = s.TokenByHash(ctx, store.TokenHash{1})
		h.is(err, store.ErrNotFound)
	})
	h.step(func(s store.Store) {
		h.is(s.DeleteToken(ctx, "acme", "t1"), store.ErrNotFound)
		h.is(s.DeleteToken(ctx, "", "t2"), nil)
		_, _, err := s.TokenByHash(ctx, store.TokenHash{2})
		h.is(err, store.ErrNotFound)
	})
	h.step(func(s store.Store) {
		list, err := s.Tokens(ctx, "", "", 0)
		h.is(err, nil)
		if len(list) != 0 {
			h.Fatalf("left: %+v", list)
		}
		// Id and hash are free again, each for another token.
		h.is(s.CreateToken(ctx, token("t1", 2)), nil)
		h.is(s.CreateToken(ctx, token("t2", 1)), nil)
		got, _, err := s.TokenByHash(ctx, store.TokenHash{2})
		h.is(err, nil)
		same(h, got, token("t1", 2))
	})
}
