//go:build linux

package daemon_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manager is a service manager as far as it is told of a service (sd_notify(3)).
type manager struct {
	t    *testing.T
	path string

	mu   sync.Mutex
	told []string
	last time.Time // when it was told something
}

// manage starts a manager; react is called with each message before the next one is read.
func manage(t *testing.T, react func(message string)) *manager {
	t.Helper()
	m := &manager{t: t, path: socketPath(t)}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buffer := make([]byte, 4096)
		for {
			n, err := c.Read(buffer)
			if err != nil {
				return
			}
			message := string(buffer[:n])
			if react != nil {
				react(message)
			}
			m.mu.Lock()
			m.told, m.last = append(m.told, message), time.Now()
			m.mu.Unlock()
		}
	})
	t.Cleanup(func() { c.Close(); wg.Wait() })
	return m
}

func (m *manager) environ() string { return "NOTIFY_SOCKET=" + m.path }

// messages returns those that say something besides that the service is alive.
func (m *manager) messages() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []string
	for _, s := range m.told {
		if s != "WATCHDOG=1" {
			list = append(list, s)
		}
	}
	return list
}

// pings returns how many signs of life there were, and how long nothing has been heard.
func (m *manager) pings() (n int, quiet time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Count(strings.Join(m.told, "\n"), "WATCHDOG=1"), time.Since(m.last)
}

// wait waits for the n-th message and returns it.
func (m *manager) wait(n int) string {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("message %d has come", n), func() bool { return len(m.messages()) >= n })
	return m.messages()[n-1]
}

// says fails the test unless the message has all the lines.
func says(t *testing.T, message string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains("\n"+message, "\n"+l) {
			t.Errorf("the message lacks %q:\n%s", l, message)
		}
	}
}

// The service manager learns that the daemon serves when it does, of every reload and of the stop.
func TestServiceManagerIsTold(t *testing.T) {
	t.Parallel()
	dir, address := t.TempDir(), freeAddress(t)
	m := manage(t, func(message string) {
		if !strings.HasPrefix(message, "READY=1") {
			return
		}
		resp, err := httpClient.Get("http://" + address + "/readyz")
		if err != nil {
			t.Errorf("told ready, and: %v", err)
			return
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("told ready, and /readyz answers %d", resp.StatusCode)
		}
	})
	config := configFile(t, dir, address, "shutdown_timeout: 7s")
	c := spawn(t, config, m.environ())
	says(t, m.wait(1), "READY=1", "STATUS=Serving on "+address)

	c.signal(syscall.SIGHUP)
	says(t, m.wait(2), "RELOADING=1", "MONOTONIC_USEC=", "STATUS=")
	says(t, m.wait(3), "READY=1", "STATUS=Serving on "+address)
	if strings.Contains(m.wait(3), "refused") {
		t.Errorf("a good reload was refused: %s", m.wait(3))
	}
	if err := os.WriteFile(config, []byte("nonsense: 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.signal(syscall.SIGHUP)
	says(t, m.wait(4), "RELOADING=1")
	says(t, m.wait(5), "READY=1", "STATUS=Serving on "+address+"; the last reload was refused")

	c.signal(syscall.SIGTERM)
	says(t, m.wait(6), "STOPPING=1", "EXTEND_TIMEOUT_USEC=44000000", "STATUS=Shutting down")
	if code := c.exit(); code != 0 {
		t.Errorf("exited with %d", code)
	}
	if all := m.messages(); len(all) != 6 {
		t.Errorf("%d messages, want 6: %q", len(all), all)
	}
	if n, _ := m.pings(); n != 0 {
		t.Errorf("%d signs of life nobody asked for", n)
	}
}

func TestServiceManagerIsNotToldOfAFailedStart(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m := manage(t, nil)
	c := spawn(t, configFile(t, t.TempDir(), l.Addr().String()), m.environ())
	if code := c.exit(); code != 1 {
		t.Errorf("exited with %d, want 1", code)
	}
	if told := m.messages(); len(told) != 0 {
		t.Errorf("told %q", told)
	}
}

// spawnActivated starts a daemon with sockets handed over as systemd does: the variable has the number of a process that the
// shell becomes.
func spawnActivated(t *testing.T, config string, sockets []*os.File, environ ...string) *child {
	t.Helper()
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0"`, os.Args[0])
	cmd.Env = append(append(os.Environ(), serveVariable+"="+config, fmt.Sprint("LISTEN_FDS=", len(sockets)),
		"LISTEN_FDNAMES=herald.socket"+strings.Repeat(":herald.socket", len(sockets)-1)), environ...)
	cmd.ExtraFiles = sockets
	return launch(t, "the daemon", cmd)
}

// While a daemon whose socket the service manager keeps restarts, nobody is refused: clients that connect meanwhile wait, and are
// served by the next one.
func TestRestartWithTheSocketHandedOverRefusesNobody(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	address := l.Addr().String()
	l.Close() // the socket stays, as it does with the service manager
	config := configFile(t, t.TempDir(), "127.0.0.1:1")
	m := manage(t, nil)
	c := spawnActivated(t, config, []*os.File{socket}, m.environ())
	says(t, m.wait(1), "READY=1", "STATUS=Serving on "+address)

	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	publish := func() error {
		req, err := http.NewRequest("POST", "http://"+address+"/events", strings.NewReader(`{"type":"a.b","data":{}}`))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+adminToken)
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted {
			return fmt.Errorf("answered %d", resp.StatusCode)
		}
		return nil
	}
	stop := make(chan struct{})
	var served sync.Map
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := 1; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := publish(); err != nil {
					t.Errorf("a client in the restart: %v", err)
					return
				}
				served.Store(i, n)
			}
		})
	}
	for range 3 {
		c.signal(syscall.SIGTERM)
		if code := c.exit(); code != 0 {
			t.Errorf("exited with %d", code)
		}
		// Nobody accepts now; this one has to wait.
		between := make(chan error, 1)
		go func() { between <- publish() }()
		eventually(t, "somebody waits to be accepted", func() bool { return waiting(t, socket) })
		c = spawnActivated(t, config, []*os.File{socket})
		if err := <-between; err != nil {
			t.Errorf("a client that came between two daemons: %v", err)
		}
	}
	close(stop)
	wg.Wait()
	n := 0
	served.Range(func(_, v any) bool { n += v.(int); return true })
	if n == 0 {
		t.Error("no client was served at all")
	}
	if out := c.out.String(); !strings.Contains(out, "listen.address is not used") {
		t.Error("the log does not say that the configured address is not used")
	}
	t.Logf("%d requests around 3 restarts", n)
}

// A socket that is handed over has TLS as well, HTTP/2 included, and says so to who speaks plain HTTP.
func TestSocketsHandedOverHaveTLS(t *testing.T) {
	t.Parallel()
	f := newTLSFiles(t)
	var sockets []*os.File
	var addresses []string
	for range 2 {
		l := listener(t)
		socket, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		l.Close()
		sockets, addresses = append(sockets, socket), append(addresses, l.Addr().String())
	}
	m := manage(t, nil)
	c := spawnActivated(t, configFile(t, t.TempDir(), "127.0.0.1:1"), sockets, append(f.setting(), m.environ())...)
	says(t, m.wait(1), "READY=1", "STATUS=Serving on "+addresses[0]+", "+addresses[1])
	for _, address := range addresses {
		resp, err := f.client(f.trust()).Get("https://" + address + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || resp.ProtoMajor != 2 {
			t.Errorf("GET /healthz is answered %d over %s", resp.StatusCode, resp.Proto)
		}
		plainGetsHint(t, address)
	}
	c.signal(syscall.SIGTERM)
	if code := c.exit(); code != 0 {
		t.Errorf("exited with %d", code)
	}
}

// waiting says whether a connection waits in the queue of a listening socket.
func waiting(t *testing.T, socket *os.File) bool {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(socket.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}

func TestOtherSocketsHandedOverAreRefused(t *testing.T) {
	t.Parallel()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketPath(t), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	c := spawnActivated(t, configFile(t, t.TempDir(), freeAddress(t)), []*os.File{socket})
	if code := c.exit(); code != 2 {
		t.Errorf("exited with %d, want 2", code)
	}
	if out := c.out.String(); !strings.Contains(out, "ListenStream=") {
		t.Errorf("it does not say what would be right:\n%s", out)
	}
}

// The watchdog is fed while commits reach the disk, and not while the disk hangs, though the process is alive.
func TestWatchdogIsFedWhileCommitsReachTheDisk(t *testing.T) {
	t.Parallel()
	disk := hangingDisk(t)
	m := manage(t, nil)
	address := freeAddress(t)
	c := spawn(t, configFile(t, disk.dir, address), m.environ(), "WATCHDOG_USEC=300000")
	eventually(t, "it is fed", func() bool { n, _ := m.pings(); return n > 3 })

	disk.hang()
	eventually(t, "nothing is heard any more", func() bool { _, quiet := m.pings(); return quiet > 2*time.Second })
	if resp, err := httpClient.Get("http://" + address + "/healthz"); err != nil {
		t.Errorf("the process itself should be alive: %v", err)
	} else {
		resp.Body.Close()
	}
	before, _ := m.pings()
	disk.goOn()
	eventually(t, "it is fed again", func() bool { n, _ := m.pings(); return n > before+3 })
	c.signal(syscall.SIGTERM)
	if code := c.exit(); code != 0 {
		t.Errorf("exited with %d", code)
	}
}

// suspended is a file system of its own whose writes can be made to hang.
type suspended struct {
	t   *testing.T
	dir string
}

// hangingDisk makes one, or skips the test where that is not allowed.
func hangingDisk(t *testing.T) *suspended {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	for _, args := range [][]string{{"truncate", "-s", "64M", image}, {"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("needs the right to mount a file system of its own: %s: %v: %s", args[0], err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("unmount: %v: %s", err, out)
		}
	})
	return &suspended{t, dir}
}

func (s *suspended) hang() {
	s.t.Helper()
	s.freeze("-f")
	// Comes before the end of the daemon, which could not be killed; it fails when the disk goes on already.
	s.t.Cleanup(func() { _ = exec.Command("fsfreeze", "-u", s.dir).Run() })
}

func (s *suspended) goOn() {
	s.t.Helper()
	s.freeze("-u")
}

func (s *suspended) freeze(how string) {
	s.t.Helper()
	if out, err := exec.Command("fsfreeze", how, s.dir).CombinedOutput(); err != nil {
		s.t.Fatalf("fsfreeze %s: %v: %s", how, err, out)
	}
}

// A journal keeps what it gets, and others read it: the first start makes no token there, and says how to get one.
func TestNoTokenIsPrintedToTheJournal(t *testing.T) {
	t.Parallel()
	dir, address := t.TempDir(), freeAddress(t)
	config := configFile(t, dir, address)
	withoutToken(t, config)
	out := journaled(t, dir, config)()
	if strings.Contains(out, "hrld_") || !strings.Contains(out, "herald token create") {
		t.Errorf("the journal has a token, or does not say how to get one:\n%s", out)
	}
}

// journaled starts a daemon whose output goes to the journal, as far as it can tell (JOURNAL_STREAM, systemd.exec(5)), waits until it
// serves, and returns a function that reads what it has printed.
func journaled(t *testing.T, dir, config string) func() string {
	t.Helper()
	journal, err := os.Create(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { journal.Close() })
	var st unix.Stat_t
	if err := unix.Fstat(int(journal.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	m := manage(t, nil)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveVariable+"="+config, m.environ(), fmt.Sprintf("JOURNAL_STREAM=%d:%d", st.Dev, st.Ino))
	cmd.Stdout, cmd.Stderr = journal, journal
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	m.wait(1)
	return func() string {
		out, err := os.ReadFile(journal.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
}

// In the journal each line begins with its priority (sd-daemon(3)) and leaves the time to the journal, whatever a value holds.
func TestLogInTheJournal(t *testing.T) {
	t.Parallel()
	for format, want := range map[string][]string{
		"text": {`<7>level=DEBUG msg=attempt part=dispatch `, `<6>level=INFO msg=attempt part=dispatch `, `<6>level=INFO msg=serving `, `<3>level=ERROR msg="reload refused`},
		"json": {`<7>{"level":"DEBUG","msg":"attempt",`, `<6>{"level":"INFO","msg":"attempt",`, `<6>{"level":"INFO","msg":"serving",`, `<3>{"level":"ERROR","msg":"reload refused`},
	} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			dir, address := t.TempDir(), freeAddress(t)
			config := configFile(t, dir, address, "log: {level: debug, format: "+format+"}")
			read := journaled(t, dir, config)
			h := remote(t, address)
			r, bad := receive(t), receive(t)
			bad.status(500)
			h.subscribe(r.URL, nil)
			h.subscribe(bad.URL, fields{"delivery": patiently()})
			h.publish("task.create", "", fields{})
			// The reason has several lines.
			if err := os.WriteFile(config, []byte("log: {level: no}\nlisten: {address: no}\nunknown: 1\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			pid := regexp.MustCompile(`pid"?[=:](\d+)`).FindStringSubmatch(read())
			if pid == nil {
				t.Fatalf("no pid in:\n%s", read())
			}
			n, err := strconv.Atoi(pid[1])
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Kill(n, unix.SIGHUP); err != nil {
				t.Fatal(err)
			}
			for _, w := range want {
				eventually(t, "the log has "+w, func() bool { return strings.Contains("\n"+read(), "\n"+w) })
			}
			for line := range strings.SplitSeq(strings.TrimSuffix(read(), "\n"), "\n") {
				if !regexp.MustCompile(`^<[3467]>(level=|\{"level":)`).MatchString(line) || regexp.MustCompile(`\btime"?[=:]`).MatchString(line) {
					t.Errorf("a line is %q", line)
				}
			}
		})
	}
}
