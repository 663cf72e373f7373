package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Whatever the bytes, Parse neither panics nor hangs: it gives a Config within its limits, or problems
// that each say something on one line.
func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range append(seeds, examplePath) {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("log: !!binary aGVsbG8=\n"))
	f.Add([]byte("{{{{[[[[\x00\xff"))
	known := Keys()
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("x.yaml", data, nil)
		if (c == nil) == (err == nil) {
			t.Fatalf("both or neither: %v, %v", c, err)
		}
		if err != nil {
			errs, ok := errors.AsType[Errors](err)
			if !ok || len(errs) == 0 || len(errs) > maxErrors {
				t.Fatalf("%T with %d problems", err, len(errs))
			}
			for _, e := range errs {
				if e.Problem == "" || strings.ContainsAny(e.Error(), "\n\r\x00") || len(e.Error()) > 600 {
					t.Errorf("problem %q", e.Error())
				}
			}
			return
		}
		if c.Delivery.Timeout < time.Second || c.Delivery.Workers < 1 || c.Limits.PayloadBytes > c.Limits.BodyBytes ||
			c.Retention.Events <= 0 || c.Delivery.Jitter < 0 || c.Delivery.Jitter > 0.5 || len(c.SocketPath(nil)) > maxSocketPath {
			t.Errorf("accepted %+v", *c)
		}
		standard := Default()
		for _, path := range NeedsRestart(&standard, c) {
			if !slices.Contains(known, path) {
				t.Errorf("%s is no key", path)
			}
		}
	})
}
