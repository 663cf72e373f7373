package api

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// A real server, for what the recorder of net/http/httptest cannot show.
func serve(t *testing.T, b *bed) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(b.h)
	t.Cleanup(s.Close)
	return s
}

// raw sends bytes as they are and returns the status and the body of the answer.
func raw(t *testing.T, s *httptest.Server, text string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return res, string(body)
}

func TestOverTheNetwork(t *testing.T) {
	t.Parallel()
	b := newBed(t, Settings{BodyBytes: 1000})
	s := serve(t, b)
	const head = "POST /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer pub\r\nContent-Type: application/json\r\n"
	for name, x := range map[string]struct {
		text   string
		status int
	}{
		"chunked":              {head + "Transfer-Encoding: chunked\r\n\r\n16\r\n{\"type\":\"a\",\"data\":{}}\r\n0\r\n\r\n", 202},
		"chunked and empty":    {head + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"chunked and too long": {head + "Transfer-Encoding: chunked\r\n\r\n7d0\r\n" + strings.Repeat("x", 2000) + "\r\n0\r\n\r\n", 413},
		"broken chunks":        {head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
		"said to be long":      {head + "Content-Length: 100000000\r\n\r\n", 413},
		"action without body":  {"POST /subscriptions/x/pause HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sub\r\n\r\n", 404},
		"other method":         {"BREW /events HTTP/1.1\r\nHost: x\r\n\r\n", 405},
		"no token":             {"POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 401},
	} {
		res, body := raw(t, s, x.text)
		if res.StatusCode != x.status {
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		}
		if x.status >= 400 && (res.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(body, `"statusCode":`+fmt.Sprint(x.status)) || leaks.MatchString(body)) {
			t.Errorf("%s: not a problem: %s", name, body)
		}
	}
	res, err := http.Head(s.URL + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); res.StatusCode != 200 || len(body) > 0 {
		t.Errorf("HEAD: %d %q", res.StatusCode, body)
	}
	req, _ := http.NewRequest(http.MethodHead, s.URL+"/subscriptions", nil)
	req.Header.Set("Authorization", "Bearer sub")
	res, err = http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("HEAD of a list: %d", res.StatusCode)
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	s := serve(t, b)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 50 {
				id := fmt.Sprintf("g%d-%d", g, i)
				req, _ := http.NewRequest(http.MethodPost, s.URL+"/events", strings.NewReader(`{"id":"`+id+`","type":"a","data":{"id":"`+id+`"}}`))
				req.Header.Set("Authorization", "Bearer pub")
				req.Header.Set("Content-Type", "application/json")
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				body, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if res.StatusCode != 202 || string(body) != `{"id":"`+id+`"}` {
					t.Errorf("%s: %d %s", id, res.StatusCode, body)
				}
			}
		})
	}
	wg.Wait()
	for _, e := range b.queue.events {
		if string(e.Data) != `{"id":"`+e.ID+`"}` {
			t.Errorf("%s has %s", e.ID, e.Data)
		}
	}
	if len(b.queue.events) != 400 {
		t.Errorf("%d events", len(b.queue.events))
	}
}

func TestTornListsBreakTheConnection(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for range storePage {
		b.subscribe(minimal)
	}
	s := serve(t, b)
	b.store.setFail(io.ErrUnexpectedEOF, 2)
	req, _ := http.NewRequest(http.MethodGet, s.URL+"/subscriptions", nil)
	req.Header.Set("Authorization", "Bearer sub")
	res, err := http.DefaultClient.Do(req)
	if err == nil {
		defer res.Body.Close()
		if _, err = io.ReadAll(res.Body); err == nil {
			t.Error("a list that could not be finished arrived as if it were whole")
		}
	}
}
