package client_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"herald/daemon/client"
)

// What the daemon says is handed through as it came.
func TestDo(t *testing.T) {
	t.Parallel()
	admin, _ := serve(t)
	ctx := t.Context()
	path := []string{"resources", "project", "a b?c"}
	if _, err := admin.Do(ctx, client.Call{Method: http.MethodPut, Path: path, Body: map[string]string{"name": "x"}}); status(err) != 400 {
		t.Errorf("an id with a space: %v", err)
	}
	path[2] = "a?c"
	got := string(must[json.RawMessage](t)(admin.Do(ctx, client.Call{Method: http.MethodPut, Path: path, Body: map[string]string{"name": "<x>"}})))
	if !strings.Contains(got, `"id":"a?c"`) || !strings.Contains(got, `"name":"<x>"`) {
		t.Errorf("put gave %s", got)
	}
	list := all(t, admin.List(ctx, []string{"resources"}, map[string][]string{"type": {"project"}}))
	if len(list) != 1 || string(list[0]) != got {
		t.Errorf("the list is %s, want the one that was put: %s", list, got)
	}
	if list := all(t, admin.List(ctx, []string{"resources"}, map[string][]string{"type": {"task"}})); len(list) != 0 {
		t.Errorf("the list of another type is %s", list)
	}
	if gone := must[json.RawMessage](t)(admin.Do(ctx, client.Call{Method: http.MethodDelete, Path: path})); gone != nil {
		t.Errorf("delete gave %q, want nothing", gone)
	}
	if _, err := admin.Do(ctx, client.Call{Method: http.MethodGet, Path: path}); status(err) != 404 {
		t.Errorf("what was deleted: %v", err)
	}
	for _, wrong := range [][]string{{"subscriptions", ""}, {"subscriptions", ".."}} {
		if _, err := admin.Do(ctx, client.Call{Method: http.MethodDelete, Path: wrong}); err == nil {
			t.Errorf("%q is a path", wrong)
		}
		for _, err := range admin.List(ctx, wrong, nil) {
			if err == nil {
				t.Errorf("%q is the path of a list", wrong)
			}
		}
	}
}
