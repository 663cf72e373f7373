package datadir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"herald/daemon/cli"
	"herald/queue/boltqueue"
	"herald/store/boltkit"
	"herald/store/boltstore"
)

// Check is the command check.
type Check struct{ Directory }

// Help is shown below the summary.
func (Check) Help() string {
	return `Stop the daemon first. Reads both files to their end: every page, every record, every index against what it points to, and whether the key opens every secret. It changes nothing, except that a file of an older version is brought up to this one, as a start would.

Exit code 0: all is well. 1: something is wrong, and the report says what to do.

Examples:

    herald check

    herald check --data-dir /var/lib/herald`
}

// Run checks both files and reports on each.
func (c Check) Run(ctx context.Context, s cli.Streams) error {
	cfg, err := c.loadWhole(s)
	if err != nil {
		return err
	}
	dir := cfg.DataDir
	bad, damaged := 0, false
	for _, name := range files {
		path := filepath.Join(dir, name)
		fi, err := os.Stat(path)
		if err != nil {
			return err
		}
		err = judge(ctx, path, cfg.SecretsKeyFile(s.Environ))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, boltkit.ErrLocked) {
			return inUse(dir, err)
		}
		verdict := "ok"
		if err != nil {
			bad++
			// A key that is missing or another one damages nothing; its error says what to do.
			damaged = damaged || !errors.Is(err, boltstore.ErrKey) && !errors.Is(err, boltstore.ErrKeyMissing)
			verdict = "WRONG\n  " + strings.ReplaceAll(err.Error(), "\n", "\n  ")
		}
		if _, err := fmt.Fprintf(s.Stdout, "%s  %s  %s\n", path, cli.Size(fi.Size()), verdict); err != nil {
			return err
		}
	}
	switch {
	case damaged:
		return fmt.Errorf("%d of %d files have problems\n%s", bad, len(files), Remedy(dir))
	case bad > 0:
		return fmt.Errorf("%d of %d files have problems", bad, len(files))
	}
	return nil
}

// judge looks at one file. bbolt opens it only when every page is what bbolt will take it for.
func judge(ctx context.Context, path, keyFile string) (err error) {
	if err := boltkit.Verify(ctx, path); err != nil {
		return err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("check %s: %w (%v)", path, boltkit.ErrDamaged, p)
		}
	}()
	if filepath.Base(path) == boltqueue.FileName {
		q, err := boltqueue.Open(boltqueue.Options{Path: path})
		if err != nil {
			return err
		}
		return errors.Join(q.CheckFile(ctx), q.Close())
	}
	key, err := boltstore.KeyFor(keyFile, path)
	if err != nil {
		return err
	}
	st, err := boltstore.Open(boltstore.Options{Path: path, Key: key})
	if err != nil {
		return err
	}
	return errors.Join(st.Check(ctx), st.Close())
}
