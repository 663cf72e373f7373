package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Init is the command init.
type Init struct {
	Dir string `arg:"" optional:"" default:"." type:"path" help:"Where; made when absent."`
}

// Help is shown below the summary.
func (Init) Help() string {
	return `Writes DIR/herald.yaml, in which every setting stands with its default and what it means, and makes DIR/data. Nothing is overwritten: where either is there, nothing is done.

Examples:

    herald init /srv/herald && herald serve --config /srv/herald/herald.yaml

    herald init`
}

// dataDirLine is the one setting of the example that init changes: the data belongs beside the file, wherever serve is started.
var dataDirLine = []byte("\ndata_dir: \"./data\"\n")

// Run writes the file last, so that it is there only when all is.
func (c Init) Run(s Streams, text example) error {
	data, file := filepath.Join(c.Dir, "data"), filepath.Join(c.Dir, "herald.yaml")
	for _, path := range []string{file, data} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			if err != nil {
				return err
			}
			return fmt.Errorf("%s is there already, and init overwrites nothing: name another directory, or `herald serve --config %s`", path, file)
		}
	}
	quoted, err := json.Marshal(data) // a string of JSON is one of YAML too
	if err != nil {
		return err
	}
	out := bytes.Replace(text, dataDirLine, []byte("\ndata_dir: "+string(quoted)+"\n"), 1)
	if bytes.Equal(out, text) {
		return errors.New("the example configuration has no data_dir to set")
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	// It may come to hold an admin token, so it is the user's alone.
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(out)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if _, err := fmt.Fprintf(s.Stdout, "%s\n%s\n", file, data); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.Stderr, "\nNext:  herald serve --config %s\nThen:  herald token create --config %s --scope publish --scope subscribe\n", file, file)
	return err
}
