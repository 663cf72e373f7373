package boltstore

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"herald/store/boltkit"
)

// keySize is the length of a key in bytes: AES-256.
const keySize = 32

// maxKeyFile bounds what is read of a key file. A key takes 45 bytes; anything much longer is some
// other file.
const maxKeyFile = 1024

// Key encrypts the secrets of a store at rest. It never prints itself: whatever the verb or the
// encoding, "<secret>" comes out. The zero value is no key and is refused.
type Key struct{ bytes [keySize]byte }

// NewKey makes a key of the system's randomness.
func NewKey() Key {
	var k Key
	// crypto/rand never returns an error: it ends the process when the system has no randomness.
	_, _ = rand.Read(k.bytes[:])
	return k
}

// ParseKey reads the text form of a key: 32 bytes in standard base64, 44 characters, which one line
// end may follow. The error never quotes the text.
func ParseKey(text string) (Key, error) {
	text = strings.TrimSuffix(text, "\n")
	text = strings.TrimSuffix(text, "\r")
	if text == "" {
		return Key{}, errors.New("is empty, must be 32 random bytes in base64 (44 characters on one line)")
	}
	// The decoder skips line ends wherever they stand; one line means one line.
	if strings.ContainsAny(text, "\r\n") {
		return Key{}, errors.New("has more than one line, must be 32 random bytes in base64 (44 characters on one line)")
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return Key{}, errors.New("is not base64, must be 32 random bytes in base64 (44 characters on one line)")
	}
	if len(b) != keySize {
		return Key{}, fmt.Errorf("holds %d bytes, must hold 32 random bytes in base64 (44 characters on one line)", len(b))
	}
	var k Key
	copy(k.bytes[:], b)
	if k == (Key{}) {
		return Key{}, errors.New("holds only zero bytes, must hold 32 random bytes in base64")
	}
	return k, nil
}

// LoadKey reads the key file at path. The error of a file that does not exist is fs.ErrNotExist
// (errors.Is). A file that others than its owner and group may read, or that others than its owner may
// write, is refused: reading by the group is left open for credentials that a service manager hands
// over with mode 0440.
func LoadKey(path string) (Key, error) {
	// Looked at before it is opened, because opening a named pipe would wait for a writer.
	info, err := os.Stat(path)
	if err != nil {
		return Key{}, fmt.Errorf("read the key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return Key{}, fmt.Errorf("key file %s is not a regular file; name the file that holds the key", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return Key{}, fmt.Errorf("read the key file: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	// The file that was opened is the one judged, not what its name pointed to a moment ago.
	if info, err = f.Stat(); err != nil {
		return Key{}, fmt.Errorf("read the key file: %w", err)
	}
	if m := info.Mode().Perm(); m&0o027 != 0 {
		return Key{}, fmt.Errorf("key file %s has mode %04o, so others can read or change it; run: chmod 600 %s", path, m, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return Key{}, fmt.Errorf("read the key file: %w", err)
	}
	if len(b) > maxKeyFile {
		return Key{}, fmt.Errorf("key file %s is too long, must be 32 random bytes in base64 (44 characters on one line)", path)
	}
	k, err := ParseKey(string(b))
	if err != nil {
		return Key{}, fmt.Errorf("key file %s %w; restore it from a backup, a new key cannot read what the old one encrypted", path, err)
	}
	return k, nil
}

// CreateKey makes a new key and writes it to path with mode 0600. It returns when file and directory
// are synced: a store must never hold what a lost key encrypted. An existing file is left as it is
// and the error is fs.ErrExist (errors.Is). The file appears whole or not at all, also when the
// power is cut.
func CreateKey(path string) (Key, error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.tmp") // exclusive, mode 0600
	if err != nil {
		return Key{}, fmt.Errorf("create the key file: %w", err)
	}
	k := NewKey()
	err = writeKey(f, k)
	if err == nil {
		// Unlike a rename, a link never replaces a key that came meanwhile.
		err = os.Link(f.Name(), path)
	}
	err = errors.Join(err, os.Remove(f.Name()))
	if err == nil {
		err = boltkit.SyncDirectory(dir)
	}
	if err != nil {
		return Key{}, fmt.Errorf("create the key file: %w", err)
	}
	return k, nil
}

func writeKey(f *os.File, k Key) error {
	_, err := f.WriteString(base64.StdEncoding.EncodeToString(k.bytes[:]) + "\n")
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// KeyFor returns the key of the store at storePath, kept in the file at keyPath. The key file is
// created when neither exists. When the store is there and its key file is not, the error is
// ErrKeyMissing: a new key would make every secret in the store unreadable.
func KeyFor(keyPath, storePath string) (Key, error) {
	k, err := LoadKey(keyPath)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if _, serr := os.Stat(storePath); serr == nil {
		return Key{}, fmt.Errorf("%w: %s does not exist, but %s holds secrets encrypted with it; restore the key file from a backup",
			ErrKeyMissing, keyPath, storePath)
	} else if !errors.Is(serr, fs.ErrNotExist) {
		return Key{}, fmt.Errorf("look for the store before creating its key: %w", serr)
	}
	return CreateKey(keyPath)
}

// Format implements fmt.Formatter: no verb prints the key.
func (Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "<secret>") }

// LogValue implements slog.LogValuer.
func (Key) LogValue() slog.Value { return slog.StringValue("<secret>") }

// MarshalText implements encoding.TextMarshaler, so that no encoding writes the key by accident.
func (Key) MarshalText() ([]byte, error) { return []byte("<secret>"), nil }
