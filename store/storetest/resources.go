package storetest

import (
	"fmt"

	"herald/store"
)

func key(t, id string) store.ResourceKey { return store.ResourceKey{Type: t, ID: id} }

func testPutResources(h *house) {
	one := store.Resource{ResourceKey: key("project", "1"), Name: "One"}
	two := store.Resource{ResourceKey: key("project", "2"), Name: ""}
	h.step(func(s store.Store) {
		h.is(s.PutResources(ctx, "acme", []store.Resource{one}), store.ErrNotFound)
		h.is(s.PutResources(ctx, "acme", nil), store.ErrNotFound)
		h.account("acme")
		h.account("other")
		_, err := s.Resource(ctx, "acme", one.ResourceKey)
		h.is(err, store.ErrNotFound)
		h.is(s.PutResources(ctx, "acme", []store.Resource{one, two}), nil)
		h.is(s.PutResources(ctx, "acme", nil), nil)
	})
	h.step(func(s store.Store) {
		got, err := s.Resource(ctx, "acme", one.ResourceKey)
		h.is(err, nil)
		same(h, got, one)
		for account, k := range map[string]store.ResourceKey{"acme": key("project", "3"), "other": one.ResourceKey, "nobody": one.ResourceKey} {
			_, err := s.Resource(ctx, account, k)
			h.is(err, store.ErrNotFound)
		}
		_, err = s.Resource(ctx, "acme", store.ResourceKey{})
		h.is(err, store.ErrNotFound)
	})
	h.step(func(s store.Store) {
		one.Name = "First"
		three := store.Resource{ResourceKey: key("project", "3"), Name: "Three"}
		h.is(s.PutResources(ctx, "acme", []store.Resource{three, one}), nil)
		list, err := s.Resources(ctx, "acme", "", store.ResourceKey{}, 0)
		h.is(err, nil)
		same(h, list, []store.Resource{one, two, three})
	})
	h.step(func(s store.Store) {
		// All or none: one that cannot be kept keeps the others out.
		for _, bad := range []store.ResourceKey{{}, key("", "1"), key("project", ""), key("pro\x00ject", "1"), key("project", "a\x00b"), key("project", string(make([]byte, 100_000)))} {
			if s.PutResources(ctx, "acme", []store.Resource{{ResourceKey: key("good", "1")}, {ResourceKey: bad}}) == nil {
				h.Fatalf("a resource with the key %.20q was taken", bad)
			}
		}
		list, err := s.Resources(ctx, "acme", "good", store.ResourceKey{}, 0)
		h.is(err, nil)
		if len(list) != 0 {
			h.Fatalf("part of a refused list was stored: %v", list)
		}
	})
}

func testHasResourceType(h *house) {
	h.step(func(s store.Store) {
		h.account("acme")
		h.is(s.PutResources(ctx, "acme", []store.Resource{{ResourceKey: key("project.big", "1")}, {ResourceKey: key("task", "1")}}), nil)
	})
	h.step(func(s store.Store) {
		for _, x := range []struct {
			account, kind string
			want          bool
		}{
			{"acme", "project.big", true},
			{"acme", "task", true},
			{"acme", "project", false}, // the beginning of a type is another type
			{"acme", "tasks", false},
			{"acme", "Task", false},
			{"acme", "", false},
			{"default", "task", false},
			{"nobody", "task", false},
		} {
			got, err := s.HasResourceType(ctx, x.account, x.kind)
			h.is(err, nil)
			if got != x.want {
				h.Errorf("account %s has resources of type %q: %v, want %v", x.account, x.kind, got, x.want)
			}
		}
		h.is(s.DeleteResource(ctx, "acme", key("task", "1")), nil)
	})
	h.step(func(s store.Store) {
		got, err := s.HasResourceType(ctx, "acme", "task")
		h.is(err, nil)
		if got {
			h.Error("the last resource of the type went, the type is still there")
		}
	})
}

func testResources(h *house) {
	h.step(func(s store.Store) {
		h.account("acme")
		h.account("other")
		var rs []store.Resource
		// Stored in no order; '-' and '.' sort before letters, and a type before those it begins.
		for _, k := range []store.ResourceKey{
			key("b", "1"), key("a.x", "1"), key("a", "2"), key("a", "10"), key("a-x", "1"), key("a", "z"), key("B", "1"),
		} {
			rs = append(rs, store.Resource{ResourceKey: k})
		}
		h.is(s.PutResources(ctx, "acme", rs), nil)
		h.is(s.PutResources(ctx, "other", rs[:1]), nil)
	})
	all := []string{"B/1", "a/10", "a/2", "a/z", "a-x/1", "a.x/1", "b/1"}
	h.step(func(s store.Store) {
		for _, x := range []struct {
			account, kind string
			page[store.ResourceKey]
		}{
			{"acme", "", page[store.ResourceKey]{key("", ""), 0, all}},
			{"acme", "", page[store.ResourceKey]{key("", ""), 3, all[:3]}},
			{"acme", "", page[store.ResourceKey]{key("a", "2"), 0, all[3:]}},
			{"acme", "", page[store.ResourceKey]{key("a", "2"), 2, all[3:5]}},
			{"acme", "", page[store.ResourceKey]{key("a", "3"), 1, all[3:4]}},
			{"acme", "", page[store.ResourceKey]{key("b", "1"), 0, nil}},
			{"acme", "a", page[store.ResourceKey]{key("", ""), 0, all[1:4]}},
			{"acme", "a", page[store.ResourceKey]{key("a", "10"), 0, all[2:4]}},
			{"acme", "a", page[store.ResourceKey]{key("a", "10"), 1, all[2:3]}},
			{"acme", "a", page[store.ResourceKey]{key("a", "z"), 0, nil}},
			{"acme", "a", page[store.ResourceKey]{key("B", "1"), 0, all[1:4]}},
			{"acme", "a", page[store.ResourceKey]{key("a-x", "1"), 0, nil}},
			{"acme", "c", page[store.ResourceKey]{key("", ""), 0, nil}},
			{"other", "", page[store.ResourceKey]{key("", ""), 0, all[6:]}},
			{"nobody", "", page[store.ResourceKey]{key("", ""), 0, nil}},
		} {
			list, err := s.Resources(ctx, x.account, x.kind, x.after, x.limit)
			h.is(err, nil)
			var got []string
			for _, r := range list {
				got = append(got, r.String())
			}
			h.lists(fmt.Sprintf("of %q, type %q, after %q, at most %d", x.account, x.kind, x.after, x.limit), got, x.want)
		}
	})
}

func testResourcesManyPages(h *house) {
	const n = 3000
	h.step(func(s store.Store) {
		rs := make([]store.Resource, n)
		for i := range rs {
			rs[i] = store.Resource{ResourceKey: key("project", fmt.Sprintf("%06d", i)), Name: fmt.Sprint(i)}
		}
		h.is(s.PutResources(ctx, store.DefaultAccount, rs), nil)
	})
	h.step(func(s store.Store) {
		for _, limit := range []int{0, n, n + 1, 2000, 1000, 999, 1001} {
			list, err := s.Resources(ctx, store.DefaultAccount, "project", store.ResourceKey{}, limit)
			h.is(err, nil)
			want := n
			if limit > 0 {
				want = min(limit, n)
			}
			if len(list) != want {
				h.Fatalf("at most %d: got %d, want %d", limit, len(list), want)
			}
			for i, r := range list {
				if r.Name != fmt.Sprint(i) {
					h.Fatalf("at most %d: the one at %d is %v", limit, i, r)
				}
			}
		}
	})
}

func testDeleteResource(h *house) {
	sub := h.subscription(store.DefaultAccount)
	sub.Resource = "project/1"
	h.step(func(s store.Store) {
		h.account("acme")
		h.is(s.PutResources(ctx, store.DefaultAccount, []store.Resource{{ResourceKey: key("project", "1")}, {ResourceKey: key("project", "2")}}), nil)
		h.is(s.CreateSubscription(ctx, sub, 0), nil)
	})
	h.step(func(s store.Store) {
		h.is(s.DeleteResource(ctx, "acme", key("project", "1")), store.ErrNotFound)
		h.is(s.DeleteResource(ctx, "nobody", key("project", "1")), store.ErrNotFound)
		h.is(s.DeleteResource(ctx, store.DefaultAccount, key("project", "3")), store.ErrNotFound)
		h.is(s.DeleteResource(ctx, store.DefaultAccount, key("project", "1")), nil)
		_, err := s.Resource(ctx, store.DefaultAccount, key("project", "1"))
		h.is(err, store.ErrNotFound)
	})
	h.step(func(s store.Store) {
		h.is(s.DeleteResource(ctx, store.DefaultAccount, key("project", "1")), store.ErrNotFound)
		_, err := s.Resource(ctx, store.DefaultAccount, key("project", "2"))
		h.is(err, nil)
		if !chosen(s, store.DefaultAccount, "task.create", "project/1")[sub.ID] {
			h.Fatal("the subscription that names the resource is not chosen any more")
		}
	})
}
