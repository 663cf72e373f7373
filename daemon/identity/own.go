package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// The files of a self-made identity, below Options.Dir.
const (
	certName = "identity.pem"
	keyName  = "identity.key"
)

const (
	// life is how long a self-made certificate is valid: the longest that public authorities were allowed, which every TLS
	// library takes.
	life = 398 * 24 * time.Hour
	// renewAfter is the age at which its successor is made.
	renewAfter = life * 2 / 3
	// slack is by how much a certificate is dated back, for receivers whose clock is behind.
	slack = time.Hour
)

// pair is a self-made certificate with its key.
type pair struct {
	leaf *x509.Certificate
	key  *ecdsa.PrivateKey
}

// born is when the pair was made.
func (p pair) born() time.Time { return p.leaf.NotBefore.Add(slack) }

// loadOwn reads the self-made pairs at the first time, renews them when it is time, and puts the right one in force.
// Which one that is follows from the dates in the certificates alone, so that a restart changes nothing.
func (i *Identity) loadOwn(now time.Time) error {
	pairs := i.pairs
	if pairs == nil {
		var err error
		if pairs, err = readPairs(i.o.Dir); err != nil {
			return err
		}
	}
	kept := slices.DeleteFunc(slices.Clone(pairs), func(p pair) bool { return now.After(p.leaf.NotAfter) })
	renew := len(kept) == 0
	if !renew {
		newest := kept[len(kept)-1]
		renamed := newest.leaf.Subject.CommonName != i.o.Host
		if renamed {
			// Those under a name that is none any more and which nothing was signed with are not worth keeping.
			first := inForce(kept, now)
			kept = kept[:first+1]
		}
		renew = renamed || now.Sub(newest.born()) >= renewAfter
	}
	if renew {
		p, err := newPair(i.o.Host, now)
		if err != nil {
			return err
		}
		kept = append(kept, p)
		i.log.Info("certificate of the identity made", "host", i.o.Host, "key_id", KeyID(p.leaf), "not_after", p.leaf.NotAfter.UTC())
	}
	if len(kept) != len(pairs) || renew {
		if err := writePairs(i.o.Dir, kept); err != nil {
			return err
		}
	}
	i.pairs = kept
	n := inForce(kept, now)
	if c := i.current.Load(); c != nil && !renew && len(kept) == len(pairs) && c.KeyID == KeyID(kept[n].leaf) {
		return nil
	}
	c, err := newCredential(&tls.Certificate{Certificate: [][]byte{kept[n].leaf.Raw}, PrivateKey: kept[n].key, Leaf: kept[n].leaf})
	if err != nil {
		return err
	}
	var others []*x509.Certificate
	for k, p := range kept {
		if k != n {
			others = append(others, p.leaf)
		}
	}
	i.publish(c, others...)
	return nil
}

// inForce is the index of the pair that signs: the newest that was published for long enough, or else the oldest, which
// has been so for the longest.
func inForce(pairs []pair, now time.Time) int {
	for n := len(pairs) - 1; n > 0; n-- {
		if now.Sub(pairs[n].born()) >= Lead {
			return n
		}
	}
	return 0
}

// newPair makes a key and its self-signed certificate.
func newPair(host string, now time.Time) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, fmt.Errorf("make the key of the identity: %w", err)
	}
	serial := make([]byte, 16)
	_, _ = rand.Read(serial) // documented never to fail: the process ends first
	serial[0] &= 0x7f        // RFC 5280, section 4.1.2.2: positive, at most 20 octets
	serial[15] |= 1
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               pkix.Name{CommonName: host},
		NotBefore:             now.Add(-slack).UTC().Truncate(time.Second),
		NotAfter:              now.Add(life - slack).UTC().Truncate(time.Second),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return pair{}, fmt.Errorf("make the certificate of the identity: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return pair{}, fmt.Errorf("make the certificate of the identity: %w", err)
	}
	return pair{leaf, key}, nil
}

// readPairs reads the files; without them there are no pairs. A certificate without its key, and a key without its
// certificate, are left out: a crash between the two files leaves such.
func readPairs(dir string) ([]pair, error) {
	certs, err := os.ReadFile(filepath.Join(dir, certName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the identity: %w", err)
	}
	keys, err := os.ReadFile(filepath.Join(dir, keyName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the identity: %s has no %s beside it; put the key back, or remove the certificate, and a new identity is made",
			filepath.Join(dir, certName), keyName)
	}
	if err != nil {
		return nil, fmt.Errorf("read the identity: %w", err)
	}
	byID := make(map[string]*ecdsa.PrivateKey)
	for _, der := range blocks(keys, "PRIVATE KEY") {
		k, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			return nil, fmt.Errorf("read the identity from %s: %w", filepath.Join(dir, keyName), err)
		}
		key, ok := k.(*ecdsa.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("read the identity from %s: it holds a key that Herald did not make; use identity.cert and identity.key for your own", filepath.Join(dir, keyName))
		}
		id, err := publicID(key.Public())
		if err != nil {
			return nil, fmt.Errorf("read the identity from %s: %w", filepath.Join(dir, keyName), err)
		}
		byID[id] = key
	}
	var pairs []pair
	for _, der := range blocks(certs, "CERTIFICATE") {
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("read the identity from %s: %w", filepath.Join(dir, certName), err)
		}
		if key := byID[KeyID(leaf)]; key != nil {
			pairs = append(pairs, pair{leaf, key})
		}
	}
	slices.SortStableFunc(pairs, func(a, b pair) int { return a.leaf.NotBefore.Compare(b.leaf.NotBefore) })
	return pairs, nil
}

// blocks returns the contents of the PEM blocks of a type.
func blocks(text []byte, kind string) [][]byte {
	var list [][]byte
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			return list
		}
		if b.Type == kind {
			list = append(list, b.Bytes)
		}
	}
}

// writePairs writes the keys and then the certificates, so that no certificate is there without its key.
func writePairs(dir string, pairs []pair) error {
	var keys, certs []byte
	for _, p := range pairs {
		der, err := x509.MarshalPKCS8PrivateKey(p.key)
		if err != nil {
			return fmt.Errorf("write the identity: %w", err)
		}
		keys = append(keys, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
		certs = append(certs, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.leaf.Raw})...)
	}
	if err := replace(filepath.Join(dir, keyName), keys); err != nil {
		return fmt.Errorf("write the identity: %w", err)
	}
	if err := replace(filepath.Join(dir, certName), certs); err != nil {
		return fmt.Errorf("write the identity: %w", err)
	}
	return nil
}

// replace puts a file in the place of another in one step: after a crash either is there, whole. Only the owner may read
// it.
func replace(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
