package daemon_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestMeasureBackup prints how long publishers wait for an acknowledgement, 200 times a second, alone and beside backups made one after the
// other, of a queue with 200,000 waiting events of 1 KiB. It judges nothing and runs only with TEST_MEASURE_BACKUP set; docs/performance.md has
// the figures.
func TestMeasureBackup(t *testing.T) {
	if os.Getenv("TEST_MEASURE_BACKUP") == "" {
		t.Skip("set TEST_MEASURE_BACKUP to measure")
	}
	h := start(t)
	h.admin().do("POST", "/subscriptions/"+h.subscribe("http://127.0.0.1:8421/", nil)+"/pause", nil).is(http.StatusOK)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	defer client.CloseIdleConnections()
	post := func(body []byte) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.URL+"/events", bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set("Authorization", "Bearer "+adminToken)
		r.Header.Set("Content-Type", "application/json")
		res, err := client.Do(r)
		if err != nil {
			t.Error(err)
			return
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusAccepted {
			t.Errorf("status %d", res.StatusCode)
		}
	}
	event := map[string]any{"type": "task.create", "data": fields{"x": strings.Repeat("x", 1000)}}
	one, err := json.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := json.Marshal(slices.Repeat([]any{event}, 2000))
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		post(batch)
	}
	load := func(what string) {
		const rate, events = 200, 3000
		var mu sync.Mutex
		var took []time.Duration
		var wg sync.WaitGroup
		tick := time.NewTicker(time.Second / rate)
		defer tick.Stop()
		for range events {
			at := <-tick.C
			wg.Go(func() {
				post(one)
				mu.Lock()
				defer mu.Unlock()
				took = append(took, time.Since(at))
			})
		}
		wg.Wait()
		slices.Sort(took)
		t.Logf("%s: p50 %s, p99 %s, max %s", what, took[events/2], took[events*99/100], took[events-1])
	}
	file := filepath.Join(t.TempDir(), "b.tar")
	for range 3 {
		load("alone ")
		stop, stopped := make(chan struct{}), make(chan struct{})
		n, size := 0, int64(0)
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Second):
				}
				if code, _, bad := h.backup(file, 0); code != 0 {
					t.Error(bad)
				}
				if fi, err := os.Stat(file); err == nil {
					n, size = n+1, fi.Size()
				}
				_ = os.Remove(file)
			}
		}()
		load("beside")
		close(stop)
		<-stopped
		t.Logf("        %d backups, of %d MiB", n, size>>20)
	}
}
