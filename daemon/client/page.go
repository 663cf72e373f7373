package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// list walks a list from page to page, yielding each element as it arrives. An error ends it and is
// the last thing yielded.
func list[T any](ctx context.Context, c *Client, path string, query url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		q := query
		for {
			next, more, err := page(ctx, c, path, q, yield)
			if err != nil {
				var zero T
				yield(zero, err)
				return
			}
			if !more {
				return
			}
			if next.Encode() == q.Encode() {
				var zero T
				yield(zero, fmt.Errorf("list %s: the link to the next page leads to the same page", path))
				return
			}
			q = next
		}
	}
}

// page yields one page. It returns the query of the next one, and whether there is one and the
// caller wants it.
func page[T any](ctx context.Context, c *Client, path string, query url.Values, yield func(T, error) bool) (url.Values, bool, error) {
	res, err := c.send(ctx, request{method: http.MethodGet, path: path, query: query})
	if err != nil {
		return nil, false, err
	}
	defer closeBody(res)
	// The limit holds for each element, not for the list, which may be of any length.
	m := &meter{r: res.Body, left: maxAnswer}
	d := json.NewDecoder(m)
	fail := func(err error) (url.Values, bool, error) {
		return nil, false, fmt.Errorf("read the list %s: %w", path, err)
	}
	open, err := d.Token()
	if err != nil {
		return fail(err)
	}
	if open != json.Delim('[') {
		return fail(errors.New("the answer is not an array"))
	}
	for d.More() {
		m.left = maxAnswer
		var v T
		if err := d.Decode(&v); err != nil {
			return fail(err)
		}
		if !yield(v, nil) {
			return nil, false, nil
		}
	}
	// The closing bracket tells a complete list from one whose sender died.
	if _, err := d.Token(); err != nil {
		return fail(err)
	}
	next := nextQuery(res.Header.Values("Link"))
	return next, next != nil, nil
}

// nextQuery returns the query of the link with rel="next" (RFC 8288), or nil. Only the query is
// taken: the path stays ours, so that a link can neither lead the token to another host nor past the
// prefix under which a proxy serves the daemon.
func nextQuery(headers []string) url.Values {
	for _, h := range headers {
		for h != "" {
			_, rest, ok := strings.Cut(h, "<")
			if !ok {
				break
			}
			target, params, ok := strings.Cut(rest, ">")
			if !ok {
				break
			}
			// The parameters end where the next link begins: a comma, then its bracket.
			params, h, _ = strings.Cut(params, ",")
			if !relNext(params) {
				continue
			}
			u, err := url.Parse(target)
			if err != nil {
				return nil
			}
			if q := u.Query(); len(q) > 0 {
				return q
			}
			return nil
		}
	}
	return nil
}

func relNext(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		name, value, ok := strings.Cut(strings.TrimSpace(p), "=")
		if ok && strings.EqualFold(strings.TrimSpace(name), "rel") {
			return strings.EqualFold(strings.Trim(strings.TrimSpace(value), `"`), "next")
		}
	}
	return false
}

// paging adds the parameters of a paged list.
func paging(q url.Values, size int, after string) {
	if size > 0 {
		q.Set("limit", strconv.Itoa(size))
	}
	if after != "" {
		q.Set("after", after)
	}
}
