package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"herald/daemon/client"
)

// Output is the flag of commands that print what the daemon answers.
type Output struct {
	JSON bool `name:"json" help:"Print JSON as the daemon answers it, for programs."`
}

// API are the flags of the commands that ask the daemon for something and print its answer.
type API struct {
	Output
	Remote
}

// show makes a call and prints the object it answers.
func (a API) show(ctx context.Context, s Streams, v Version, call client.Call) error {
	answer, err := a.ask(ctx, s, v, call)
	if err != nil {
		return err
	}
	return a.print(s, s.Stdout, answer)
}

// ask makes one call.
func (a API) ask(ctx context.Context, s Streams, v Version, call client.Call) (json.RawMessage, error) {
	api, err := a.client(s, v.Number)
	if err != nil {
		return nil, err
	}
	defer api.Close()
	return api.Do(ctx, call)
}

func (a API) print(s Streams, w io.Writer, answer json.RawMessage) error {
	if a.JSON {
		return printJSON(w, answer)
	}
	return s.object(w, answer)
}

// send makes a call with the fields of the command as its body, and prints the answer.
func (a API) send(ctx context.Context, s Streams, v Version, command any, method string, path ...string) error {
	body, err := fields(s, command)
	if err != nil {
		return err
	}
	return a.show(ctx, s, v, client.Call{Method: method, Path: path, Body: body})
}

// Listing are the flags of commands that print a list which may be long.
type Listing struct {
	Limit int `default:"100" placeholder:"N" help:"Show at most N, the newest first; 0 is all."`
	API
}

// list prints a table, or an array, of at most limit elements (0: all). The query comes from the fields of the command. Where there are
// none, a hint says so on standard error.
func (a API) list(ctx context.Context, s Streams, v Version, command any, limit int, cols, hint string, path ...string) error {
	query, err := parameters(s, command)
	if err != nil {
		return err
	}
	api, err := a.client(s, v.Number)
	if err != nil {
		return err
	}
	defer api.Close()
	if a.JSON {
		return listJSON(ctx, s.Stdout, api, path, query, limit)
	}
	var list []json.RawMessage
	for e, err := range api.List(ctx, path, paged(query, limit)) {
		if err != nil {
			return err
		}
		if list = append(list, e); len(list) == limit {
			break
		}
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(s.Stderr, hint)
		return err
	}
	return s.rows(s.Stdout, list, columns(cols))
}

// paged asks for no more at a time than are wanted.
func paged(query url.Values, limit int) url.Values {
	if limit > 0 {
		query.Set("limit", fmt.Sprint(min(limit, 1000)))
	}
	return query
}

// listJSON prints an array as its elements arrive: it may be of any length.
func listJSON(ctx context.Context, w io.Writer, api *client.Client, path []string, query url.Values, limit int) error {
	out := bufio.NewWriter(w)
	n := 0
	for e, err := range api.List(ctx, path, paged(query, limit)) {
		if err != nil {
			return errors.Join(err, out.Flush())
		}
		var b bytes.Buffer
		if err := json.Indent(&b, e, "  ", "  "); err != nil {
			return err
		}
		lead := ",\n  "
		if n == 0 {
			lead = "[\n  "
		}
		if _, err := out.WriteString(lead + string(escaped(b.Bytes()))); err != nil {
			return err
		}
		if n++; n == limit {
			break
		}
	}
	end := "\n]\n"
	if n == 0 {
		end = "[]\n"
	}
	if _, err := out.WriteString(end); err != nil {
		return err
	}
	return out.Flush()
}

// Removal are the flags of commands that delete.
type Removal struct {
	Yes bool `short:"y" help:"Do not ask. Without a terminal nothing is asked."`
	Remote
}

// remove deletes what the ids name, one after the other, and goes on after one that is not there. On a terminal it asks before. The
// consequence says what else goes.
func (r Removal) remove(ctx context.Context, s Streams, v Version, ids []string, consequence string, path ...string) error {
	question := fmt.Sprintf("delete %s? %s", printable(strings.Join(ids, ", ")), consequence)
	if err := confirm(s, r.Yes, question); err != nil {
		return err
	}
	api, err := r.client(s, v.Number)
	if err != nil {
		return err
	}
	defer api.Close()
	var failures []error
	for _, id := range ids {
		_, err := api.Do(ctx, client.Call{Method: http.MethodDelete, Path: append(slices.Clip(path), id)})
		if err == nil {
			_, err = fmt.Fprintf(s.Stdout, "deleted %s\n", printable(id))
		}
		if p, ok := errors.AsType[*client.Problem](err); ok && p.StatusCode == http.StatusNotFound {
			failures = append(failures, fmt.Errorf("%s: %s", printable(id), problemText(p)))
			continue
		}
		if err != nil {
			return errors.Join(append(failures, err)...)
		}
	}
	return errors.Join(failures...)
}

// confirm asks a person who sits at a terminal, and nobody else: a script has said what it wants.
func confirm(s Streams, yes bool, question string) error {
	if yes || !Terminal(s.Stdin) || !Terminal(s.Stderr) {
		return nil
	}
	return agreed(s.Stdin, s.Stderr, question)
}

// maxAnswer is more than any answer that is meant.
const maxAnswer = 64

// agreed asks, and takes anything but a yes as a no.
func agreed(in io.Reader, out io.Writer, question string) error {
	if _, err := fmt.Fprintf(out, "%s [y/N] ", question); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(in, maxAnswer)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	default:
		return errors.New("nothing was done: answer y, or say --yes")
	}
}

// Watching are the flags of commands that can look again and again.
type Watching struct {
	Watch    bool          `short:"w" help:"Look again and again, and show what has changed, until Ctrl-C."`
	Interval time.Duration `default:"2s" placeholder:"TIME" help:"How long --watch waits between two looks, at least 100ms."`
}

// watch shows what look returns, once, or whenever it has changed until look says that it is over. On a terminal each picture
// takes the place of the one before.
func (w Watching) watch(ctx context.Context, s Streams, a API, look func() (answer json.RawMessage, over bool, err error)) error {
	if w.Interval < minInterval && w.Watch {
		return Usage(fmt.Errorf("--interval %s is too short: at least %s", w.Interval, minInterval))
	}
	clear := ""
	if w.Watch && Terminal(s.Stdout) && !a.JSON {
		clear = "\x1b[H\x1b[2J"
	}
	var before []byte
	rest := lull{s: s}
	for {
		answer, over, err := look()
		if before != nil && rest.begins(ctx, err) {
			if !pause(ctx, w.Interval) {
				return nil
			}
			continue
		}
		if err != nil {
			return ended(ctx, err)
		}
		if !bytes.Equal(answer, before) {
			var b bytes.Buffer
			b.WriteString(clear)
			if before != nil && clear == "" && !a.JSON {
				b.WriteByte('\n')
			}
			if err := a.print(s, &b, answer); err != nil {
				return err
			}
			if _, err := s.Stdout.Write(b.Bytes()); err != nil {
				return err
			}
			before = answer
		}
		if over || !w.Watch || !pause(ctx, w.Interval) {
			return nil
		}
	}
}

// lull is for commands that look again and again: a daemon that is restarted is no reason for them to end.
type lull struct {
	s    Streams
	told bool
}

// begins says whether err means no more than that the daemon does not answer now, and tells so once.
func (l *lull) begins(ctx context.Context, err error) bool {
	if _, ok := errors.AsType[*client.UnreachableError](err); !ok || ctx.Err() != nil {
		l.told = false
		return false
	}
	if !l.told {
		l.told = true
		// Where it cannot be told, looking on is still right.
		_, _ = fmt.Fprintln(l.s.Stderr, harmless(err.Error())+": trying on")
	}
	return true
}

// minInterval keeps a person from measuring the daemon by accident.
const minInterval = 100 * time.Millisecond

// pause waits and says whether to go on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// ended is the error of a command that runs until it is interrupted: being interrupted is none.
func ended(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}
