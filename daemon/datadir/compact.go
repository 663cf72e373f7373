package datadir

import (
	"context"
	"fmt"
	"path/filepath"

	"herald/daemon/cli"
	"herald/store/boltkit"
)

// Compact is the command compact.
type Compact struct{ Directory }

// Help is shown below the summary.
func (Compact) Help() string {
	return `Stop the daemon first. Each file is rewritten without the room that holds nothing, beside the old one, and takes its place when it is whole and synced; it may be interrupted at any moment. It needs as much room as what the file holds. 'herald serve' does the same by itself at its start, with files over 64 MiB of which more than half is free.

Examples:

    herald compact

    herald compact --data-dir /var/lib/herald`
}

// Run compacts both files.
func (c Compact) Run(ctx context.Context, s cli.Streams) error {
	cfg, err := c.loadWhole(s)
	if err != nil {
		return err
	}
	for _, name := range files {
		path := filepath.Join(cfg.DataDir, name)
		var p *cli.Progress
		before, after, err := boltkit.Compact(ctx, path, func(n, of int64) {
			if p == nil {
				p = cli.NewProgress(s.Stderr, "compact "+name, of)
			}
			p.At(n)
		})
		if p != nil {
			p.End()
		}
		if err != nil {
			return inUse(cfg.DataDir, err)
		}
		if _, err := fmt.Fprintf(s.Stdout, "%s  %s before, %s after\n", path, cli.Size(before.Bytes), cli.Size(after)); err != nil {
			return err
		}
	}
	return nil
}
