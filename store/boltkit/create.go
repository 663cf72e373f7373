package boltkit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// create makes a new file under a temporary name and gives it its own when it is whole and synced, so
// that a power cut leaves no file or a good one. Two processes that start together are kept apart by a
// lock on the directory. It returns an os.ErrExist when another made the file meanwhile.
func create(o Options) (_ *DB, err error) {
	unlock, err := LockDirectory(filepath.Dir(o.Path))
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", o.Path, err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if _, err := os.Lstat(o.Path); err == nil {
		return nil, os.ErrExist
	}
	tmp := o.Path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("create %s: %w", o.Path, err)
	}
	db, err := openBolt(o, tmp, o.MaxSize, nil)
	if err != nil {
		return nil, err
	}
	d := &DB{bolt: db, path: o.Path, version: o.Version, clean: true}
	d.marked.Store(true)
	// The handle stays open over the rename: its lock goes with the file.
	if err := d.initialize(o, tmp); err != nil {
		return nil, errors.Join(fmt.Errorf("create %s: %w", o.Path, err), db.Close(), os.Remove(tmp))
	}
	if d.info, err = os.Stat(o.Path); err != nil {
		return nil, errors.Join(fmt.Errorf("create %s: %w", o.Path, err), db.Close())
	}
	o.Logger.Info("file created", "path", o.Path, "schema", o.Name, "version", o.Version)
	return d, nil
}

func (d *DB) initialize(o Options, tmp string) error {
	d.bolt.NoFreelistSync = false
	err := d.bolt.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket(formatBucket)
		if err != nil {
			return err
		}
		for _, kv := range [][2][]byte{
			{nameKey, []byte(o.Name)},
			{versionKey, binary.BigEndian.AppendUint32(nil, uint32(o.Version))},
			{cleanKey, {1}},
		} {
			if err := b.Put(kv[0], kv[1]); err != nil {
				return err
			}
		}
		if err := o.Init(tx); err != nil {
			return err
		}
		d.used.Store(tx.Size())
		return nil
	})
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, o.Path); err != nil {
		return err
	}
	return SyncDirectory(filepath.Dir(o.Path))
}

// SyncDirectory makes the entries of a directory durable: a file that was created or renamed in it is found
// after a power cut only then. Its errors are those of the file system.
func SyncDirectory(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
