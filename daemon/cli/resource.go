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

	"herald/daemon/client"
)

// Resource is the command resource with its subcommands.
type Resource struct {
	Put    ResourcePut    `cmd:"" help:"Add a resource to the catalogue, or rename it."`
	Import ResourceImport `cmd:"" help:"Add or replace many resources from a file."`
	List   ResourceList   `cmd:"" help:"List the catalogue."`
	Show   ResourceShow   `cmd:"" help:"Show a resource."`
	Delete ResourceDelete `cmd:"" help:"Remove a resource from the catalogue."`
}

// Thing is the two arguments that name a resource.
type Thing struct {
	Type string `arg:"" help:"Its type, such as project."`
	ID   string `arg:"" help:"Its id within the type."`
}

// ResourcePut is the command resource put.
type ResourcePut struct {
	Thing `embed:""`
	Name  string `api:"name" placeholder:"NAME" help:"For people."`
	API
}

// Help is shown below the summary.
func (ResourcePut) Help() string {
	return `Example:

    herald resource put project proj1 --name Website`
}

// Run puts the resource.
func (c ResourcePut) Run(ctx context.Context, s Streams, v Version) error {
	return c.send(ctx, s, v, c, http.MethodPut, "resources", c.Type, c.ID)
}

// ResourceImport is the command resource import.
type ResourceImport struct {
	File string `arg:"" optional:"" default:"-" help:"A JSON array, or one JSON object after the other (NDJSON); '-' is standard input."`
	Remote
}

// Help is shown below the summary.
func (ResourceImport) Help() string {
	return `Each object is {"type","id","name"}. They are sent a thousand at a time, each thousand all or none; nothing is removed. To run it again is harmless.

Examples:

    herald resource import resources.json

    herald resource list --json --account a | herald resource import --account b`
}

// importBatch is how many resources go in one request, well below the 10,000 that the daemon takes.
const importBatch = 1000

// Run sends the resources.
func (c ResourceImport) Run(ctx context.Context, s Streams, v Version) error {
	in, _, done, err := open(s, c.File)
	if err != nil {
		return err
	}
	defer done()
	api, err := c.client(s, v.Number)
	if err != nil {
		return err
	}
	defer api.Close()
	sent := 0
	var batch []json.RawMessage
	send := func() error {
		if len(batch) == 0 {
			return nil
		}
		_, err := api.Do(ctx, client.Call{Method: http.MethodPut, Path: []string{"resources"}, Body: batch})
		if err != nil {
			return errors.Join(fmt.Errorf("resources %d to %d were not taken, the %d before them were", sent+1, sent+len(batch), sent), err)
		}
		sent += len(batch)
		batch = batch[:0]
		return nil
	}
	for e, err := range objects(in) {
		if err != nil {
			return Usage(fmt.Errorf("object %d of %s: %w", sent+len(batch)+1, c.File, err))
		}
		if batch = append(batch, e); len(batch) == importBatch {
			if err := send(); err != nil {
				return err
			}
		}
	}
	if err := send(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.Stdout, "%d resources\n", sent)
	return err
}

// objects reads a JSON array element by element, or one JSON value after the other. An error ends it.
func objects(in io.Reader) func(yield func(json.RawMessage, error) bool) {
	return func(yield func(json.RawMessage, error) bool) {
		buffered := bufio.NewReader(in)
		array := false
		for {
			b, err := buffered.Peek(1)
			if err == nil && bytes.ContainsAny(b, " \t\r\n") {
				_, err = buffered.Discard(1)
				if err == nil {
					continue
				}
			}
			array = err == nil && b[0] == '['
			break
		}
		d := json.NewDecoder(buffered)
		if array {
			if _, err := d.Token(); err != nil {
				yield(nil, err)
				return
			}
		}
		for d.More() {
			var e json.RawMessage
			err := d.Decode(&e)
			if !yield(e, err) || err != nil {
				return
			}
		}
		if _, err := d.Token(); err != nil && (array || !errors.Is(err, io.EOF)) {
			yield(nil, err)
		}
	}
}

// ResourceList is the command resource list.
type ResourceList struct {
	Type string `api:"type" placeholder:"TYPE" help:"Only those of this type."`
	API
}

// Help is shown below the summary.
func (ResourceList) Help() string {
	return `Example:

    herald resource list --type project`
}

// Run prints the resources.
func (c ResourceList) Run(ctx context.Context, s Streams, v Version) error {
	return c.list(ctx, s, v, c, 0, "TYPE=type ID=id NAME=name", "no resources: add some with `herald resource put` or `herald resource import`", "resources")
}

// ResourceShow is the command resource show.
type ResourceShow struct {
	Thing `embed:""`
	API
}

// Help is shown below the summary.
func (ResourceShow) Help() string {
	return `Example:

    herald resource show project proj1`
}

// Run prints the resource.
func (c ResourceShow) Run(ctx context.Context, s Streams, v Version) error {
	return c.show(ctx, s, v, client.Call{Method: http.MethodGet, Path: []string{"resources", c.Type, c.ID}})
}

// ResourceDelete is the command resource delete.
type ResourceDelete struct {
	Thing `embed:""`
	Removal
}

// Help is shown below the summary.
func (ResourceDelete) Help() string {
	return `Subscriptions that name it stay, and go on.

Example:

    herald resource delete project proj1`
}

// Run removes the resource.
func (c ResourceDelete) Run(ctx context.Context, s Streams, v Version) error {
	return c.remove(ctx, s, v, []string{c.ID}, "Subscriptions that name it stay.", "resources", c.Type)
}
