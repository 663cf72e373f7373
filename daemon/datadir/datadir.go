// Package datadir is about the data directory as a whole, while no daemon works on it: whether its files are all there, and the commands
// restore, check and compact.
//
// It promises that nothing is overwritten, that a command works on any file, however damaged, without harming it, that
// what is replaced is replaced at once or not at all, and that every refusal says what to do.
package datadir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"herald/daemon/cli"
	"herald/daemon/config"
	"herald/queue/boltqueue"
	"herald/store/boltkit"
	"herald/store/boltstore"
)

// files are the databases of a data directory.
var files = []string{boltstore.FileName, boltqueue.FileName}

// Directory are the flags that say which data directory a command works on.
type Directory struct {
	Config  string `placeholder:"FILE" type:"path" help:"The daemon's configuration file, to find its data. Without it: the defaults and the environment, as for 'herald serve'."`
	DataDir string `placeholder:"DIR" type:"path" help:"The data directory, when not the configured one (default ./data)."`
}

// load returns the configuration with the directory.
func (d Directory) load(s cli.Streams) (*config.Config, error) {
	c, err := config.Load(d.Config, s.Environ)
	if err != nil {
		return nil, cli.Usage(err)
	}
	if d.DataDir != "" {
		c.DataDir = d.DataDir
	}
	return c, nil
}

// loadWhole is load for a command on data that has to be there, all of it.
func (d Directory) loadWhole(s cli.Streams) (*config.Config, error) {
	c, err := d.load(s)
	if err != nil {
		return nil, err
	}
	if err := Complete(c.DataDir); err != nil {
		return nil, err
	}
	for _, name := range files {
		if _, err := os.Stat(filepath.Join(c.DataDir, name)); err != nil {
			return nil, cli.Usage(fmt.Errorf("there is no data in %s: %w; name its directory with --data-dir", c.DataDir, err))
		}
	}
	return c, nil
}

// Complete returns an error when one of the files is there and the other is not: started like this, a daemon would make a new, empty
// one and forget what was in it. Both missing is a fresh directory.
func Complete(dir string) error {
	var there, missing []string
	for _, name := range files {
		_, err := os.Lstat(filepath.Join(dir, name))
		switch {
		case err == nil:
			there = append(there, name)
		case errors.Is(err, os.ErrNotExist):
			missing = append(missing, name)
		default:
			return fmt.Errorf("look into the data directory: %w", err)
		}
	}
	if len(there) == 0 || len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("the data directory %s holds %s and no %s, which belong together: put the file back, or move the other away and "+
		"`herald restore` a backup; only with both moved away herald starts anew, empty", dir, there[0], missing[0])
}

// Remedy says what to do about a damaged file in the directory.
func Remedy(dir string) string {
	return fmt.Sprintf("`herald check --data-dir %[1]s` tells all that is wrong; move the files in %[1]s away (keep them) and `herald restore FILE --data-dir %[1]s` the latest backup", dir)
}

// inUse turns the error of a locked file into one that says what to do.
func inUse(dir string, err error) error {
	if errors.Is(err, boltkit.ErrLocked) {
		return cli.Usage(fmt.Errorf("the data directory %s is in use by a running herald; stop it first", dir))
	}
	return err
}
