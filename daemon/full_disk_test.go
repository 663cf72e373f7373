//go:build linux

package daemon_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// A real file system runs full under the daemon: publishing is refused with 503 and Retry-After, readiness
// says why, deliveries go on, nothing acknowledged is lost, and all flows again when there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=96m"); err != nil {
		t.Skipf("needs the right to mount a file system of its own: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	h := startIn(t, disk)
	t.Cleanup(func() { _ = h.stop() }) // before the file system goes
	r := receive(t)
	h.subscribe(r.URL, nil)
	acked := map[string]bool{h.publish("disk.before", "", map[string]any{}): true}

	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)
	var refused *answer
	data := map[string]any{"fill": strings.Repeat("x", 100_000)}
	for range 3000 {
		a := h.admin().do("POST", "/events", map[string]any{"type": "disk.fill", "data": data})
		if a.status != http.StatusAccepted {
			refused = a
			break
		}
		acked[a.text("id")] = true
	}
	if refused == nil {
		t.Fatal("a full disk refuses nothing")
	}
	detail := refused.problem(503)
	if n, err := strconv.Atoi(refused.header.Get("Retry-After")); err != nil || n < 1 {
		t.Errorf("Retry-After is %q: %v", refused.header.Get("Retry-After"), err)
	}
	t.Logf("refused: %s", detail)
	ready := h.as("").do("GET", "/readyz", nil)
	if why := ready.problem(503); !strings.Contains(why, "disk") {
		t.Errorf("readiness does not say why: %s", why)
	}
	h.as("").do("GET", "/healthz", nil).is(200)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	h.eventually("it takes events again", func() bool {
		a := h.admin().do("POST", "/events", map[string]any{"type": "disk.after", "data": map[string]any{}})
		if a.status == http.StatusAccepted {
			acked[a.text("id")] = true
		}
		return a.status == http.StatusAccepted
	})
	h.eventually("it is ready again", func() bool { return h.as("").do("GET", "/readyz", nil).status == 200 })
	h.eventually("everything acknowledged has arrived", func() bool {
		arrived := map[string]bool{}
		for _, p := range r.got() {
			arrived[p.id()] = true
		}
		for id := range acked {
			if !arrived[id] {
				return false
			}
		}
		return true
	})
	t.Logf("%d events acknowledged around the full disk", len(acked))
}

// fill writes a file until nothing more fits.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4096, 1} {
		chunk := bytes.Repeat([]byte{1}, size)
		for {
			if _, err := f.Write(chunk); err != nil {
				break
			}
		}
	}
}
