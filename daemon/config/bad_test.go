package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the expected refusals of testdata/bad")

// Every file of testdata/bad is refused with exactly the text beside it.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 20 {
		t.Fatalf("found %d bad files: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			c, err := Load(file, nil)
			if err == nil || c != nil {
				t.Fatalf("accepted: %+v, %v", c, err)
			}
			if _, ok := errors.AsType[Errors](err); !ok {
				t.Errorf("the error is a %T", err)
			}
			got := err.Error() + "\n"
			beside := strings.TrimSuffix(file, ".yaml") + ".want"
			if *update {
				if err := os.WriteFile(beside, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(beside)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("refused with\n%s\nwant\n%s", got, want)
			}
		})
	}
}
