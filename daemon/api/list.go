package api

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxLimit bounds ?limit=.
const maxLimit = 1000

// storePage is how many records are asked of the store at once while a list is streamed.
const storePage = 500

// checkQuery refuses what the endpoint does not know, so that a mistyped parameter is not taken for
// a filter that found everything.
func (c *call) checkQuery() error {
	values, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return newProblem(badRequest, "the query cannot be read: parameters are joined by '&', and '%%' begins an escape of two digits")
	}
	var fs faults
	checkValues(values, c.endpoint.query, "this call takes no query parameters", &fs)
	return fs.err()
}

// checkValues refuses names that are not known, and those that are there more than once or without a value; none is what to say where
// no name is known.
func checkValues(values url.Values, known []string, none string, fs *faults) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch {
		case !slices.Contains(known, name) && len(known) == 0:
			fs.add(name, "is not known; %s", none)
		case !slices.Contains(known, name):
			fs.add(name, "is not known; known are %s", strings.Join(known, ", "))
		case len(values[name]) > 1:
			fs.add(name, "is there %d times; give it once", len(values[name]))
		case values[name][0] == "":
			fs.add(name, "is empty; leave it out, or give it a value")
		}
	}
}

// limit reads ?limit=; without it the list has the default, 0 meaning all.
func limitOf(q url.Values, fs *faults, otherwise int) int {
	s := q.Get("limit")
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxLimit {
		fs.add("limit", "must be a number from 1 to %d", maxLimit)
		return otherwise
	}
	return n
}

// link says where the next page is (RFC 8288).
func (c *call) link(q url.Values, after string) {
	q.Set("after", after)
	c.Header().Set("Link", "<"+c.r.URL.EscapedPath()+"?"+q.Encode()+`>; rel="next"`)
}

// flushAt is how much of a streamed list is collected before it is written.
const flushAt = 32 << 10

// stream answers a list as a bare array. page returns at most n elements after the one given (nil: from the
// beginning); key names an element for ?after=; view appends its JSON. With limit 0 the whole list
// is written page by page, with nothing held between them and no page open while the network is
// written to.
func stream[T any](c *call, q url.Values, limit int, page func(after *T, n int) ([]T, error), key func(*T) string,
	view func(dst []byte, v *T) ([]byte, error),
) error {
	n := storePage
	if limit > 0 {
		n = limit + 1 // one more tells whether there is a next page
	}
	items, err := page(nil, n)
	if err != nil {
		return err
	}
	if limit > 0 && len(items) > limit {
		items = items[:limit]
		c.link(q, key(&items[limit-1]))
	}
	h := c.Header()
	h["Content-Type"], h["Cache-Control"] = jsonType, noStore
	b := append(c.out[:0], '[')
	first := true
	for {
		for i := range items {
			if !first {
				b = append(b, ',')
			}
			first = false
			if b, err = view(b, &items[i]); err != nil {
				return err
			}
			if len(b) >= flushAt {
				if _, err := c.Write(b); err != nil {
					return err
				}
				b = b[:0]
			}
		}
		if limit > 0 || len(items) < n {
			break
		}
		if items, err = page(&items[len(items)-1], n); err != nil {
			return err
		}
	}
	b = append(b, ']')
	c.out = b
	if c.status == 0 {
		c.WriteHeader(http.StatusOK)
	}
	_, err = c.Write(b)
	return err
}

// viewOf makes the view of a list whose elements are encoded by their tags.
func viewOf[T, V any](f func(*T) V) func([]byte, *T) ([]byte, error) {
	return func(dst []byte, v *T) ([]byte, error) {
		b, err := json.Marshal(f(v), jsontext.PreserveRawStrings(true))
		return append(dst, b...), err
	}
}
