package bench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"testing"
)

func TestBuildData(t *testing.T) {
	t.Parallel()
	for size := minSize; size < 3000; size++ {
		b := buildData(size)
		var members map[string]any
		if err := json.Unmarshal(b, &members); err != nil || len(b) != size {
			t.Fatalf("size %d: %d bytes, %v: %s", size, len(b), err, b)
		}
		if seq, ok := findSequence(b); !ok || seq != 0 {
			t.Fatalf("size %d: sequence %d, %v", size, seq, ok)
		}
		if size == 1024 && len(members) < 25 {
			t.Errorf("1 KiB has only %d members", len(members))
		}
	}
	if b := buildData(maxSize); len(b) != maxSize || !json.Valid(b) {
		t.Error("the largest payload is wrong")
	}
}

func TestSequence(t *testing.T) {
	t.Parallel()
	b := buildData(200)
	for _, n := range []int64{0, 7, 123456789012, 999999999999} {
		putSequence(b[1+len(sequenceName):], n)
		if got, ok := findSequence(append([]byte(`{"id":"x","data":`), b...)); !ok || got != n {
			t.Errorf("%d became %d, %v", n, got, ok)
		}
	}
	for _, bad := range []string{"", "{}", sequenceName, sequenceName + "12345678901", sequenceName + "12345678901x", sequenceName + "-00000000001"} {
		if n, ok := findSequence([]byte(bad)); ok {
			t.Errorf("%q has the sequence %d", bad, n)
		}
	}
}

func TestNextID(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"id":"evt_1"}`:                "evt_1",
		` [ { "x" : 1 , "id" : "a" } ]`: "a",
		`{"type":"id","id":"b"}`:        "b",
		`{"a":["id"],"id": "c"}`:        "c",
		`{"id":7,"x":{"id":"d"}}`:       "d",
		``:                              "",
		`{"id":""}`:                     "",
		`{"id":"unfinished`:             "",
		`"id"`:                          "",
		`{"id":`:                        "",
		`{"identity":"x"}`:              "",
	} {
		if id, _, ok := nextID([]byte(text)); string(id) != want || ok != (want != "") {
			t.Errorf("%s: %q, %v", text, id, ok)
		}
	}
	rest, n := []byte(`[{"id":"1"},{"id":"2"},{"id":"3"}]`), 0
	for {
		id, after, ok := nextID(rest)
		if !ok {
			break
		}
		if n++; string(id) != string('0'+rune(n)) {
			t.Errorf("id %d is %s", n, id)
		}
		rest = after
	}
	if n != 3 {
		t.Errorf("%d ids of 3", n)
	}
}

func FuzzPushedBody(f *testing.F) {
	f.Add([]byte(`{"id":"a","data":{"benchSequence":"000000000001"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, ok := findSequence(b); ok && (n < 0 || n > 999999999999) {
			t.Errorf("sequence %d", n)
		}
		for rest := b; ; {
			id, after, ok := nextID(rest)
			if !ok {
				break
			}
			if len(id) == 0 || len(after) >= len(rest) {
				t.Fatalf("id %q, %d bytes after %d", id, len(after), len(rest))
			}
			rest = after
		}
	})
}

func TestRequest(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		n     int
		array bool
		ids   string
	}{{1, false, ""}, {1, false, "own-"}, {1, true, ""}, {3, true, "own-"}} {
		shape := requestShape{host: "127.0.0.1:1", path: "/events", token: "secret", data: buildData(100), idPrefix: test.ids}
		r := shape.build(test.n, test.array)
		r.number(1)
		r.number(41)
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(r.bytes)))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(req.Body)
		if err != nil || req.Method != "POST" || req.URL.Path != "/events" || req.Header.Get("Authorization") != "Bearer secret" || req.Header.Get("Content-Type") != "application/json" {
			t.Fatalf("%+v, %v", req, err)
		}
		type event struct {
			ID, Type string
			Data     struct{ BenchSequence string }
		}
		var events []event
		if test.array {
			err = json.Unmarshal(body, &events)
		} else {
			events = make([]event, 1)
			err = json.Unmarshal(body, &events[0])
		}
		if err != nil || len(events) != test.n || int64(len(body)) != req.ContentLength {
			t.Fatalf("%v: %s", err, body)
		}
		for i, e := range events {
			seq := "00000000004" + string('1'+rune(i))
			id := ""
			if test.ids != "" {
				id = test.ids + seq
			}
			if e.Type != eventType || e.Data.BenchSequence != seq || e.ID != id {
				t.Errorf("event %d: %+v", i, e)
			}
			if id != "" && (!ownID([]byte(e.ID), test.ids, 41+int64(i)) || ownID([]byte(e.ID), test.ids, 40)) {
				t.Errorf("the id %s is not known again", e.ID)
			}
		}
	}
}
