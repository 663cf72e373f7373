package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

const day = 24 * time.Hour

func open(t *testing.T, o Options) *Identity {
	t.Helper()
	i, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// served are the certificates of the chain as a receiver reads it.
func served(t *testing.T, i *Identity) []*x509.Certificate {
	t.Helper()
	var list []*x509.Certificate
	for _, der := range blocks(i.Chain(), "CERTIFICATE") {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, c)
	}
	return list
}

// Over four years of running, looked at every six hours by a receiver that keeps a chain for as long as Lead: the key in force is
// always in what it has, its certificate valid, and the first of the chain.
func TestRenewalNeverSurprisesAReceiver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		i := open(t, Options{Dir: dir, Host: "push.example.com"})
		type fetched struct {
			at  time.Time
			ids map[string]bool
		}
		var kept []fetched
		used := map[string]bool{}
		for range 4 * 365 * 4 {
			i.Refresh()
			now := time.Now()
			chain, c := served(t, i), i.Credential()
			ids := map[string]bool{}
			for _, x := range chain {
				ids[KeyID(x)] = true
				if now.After(x.NotAfter) {
					t.Fatal("an expired certificate is served")
				}
			}
			if KeyID(chain[0]) != c.KeyID || len(chain) > 3 {
				t.Fatalf("the chain has %d certificates, the one in force is first: %v", len(chain), KeyID(chain[0]) == c.KeyID)
			}
			if now.Before(c.TLS.Leaf.NotBefore) || now.After(c.TLS.Leaf.NotAfter) {
				t.Fatal("the certificate in force is not valid")
			}
			kept = append(kept, fetched{now, ids})
			for now.Sub(kept[0].at) > Lead {
				kept = kept[1:]
			}
			if len(used) > 0 && !kept[0].ids[c.KeyID] {
				t.Fatalf("a key signs that was not in the chain %v ago", now.Sub(kept[0].at))
			}
			used[c.KeyID] = true
			time.Sleep(6 * time.Hour)
		}
		if len(used) != 6 { // 1460 days, at each 265.3 and once the lead
			t.Errorf("%d keys were used", len(used))
		}
	})
}

func TestARestartChangesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		first := open(t, Options{Dir: dir})
		for _, wait := range []time.Duration{0, renewAfter, day, Lead - day, day, life - renewAfter} {
			time.Sleep(wait)
			first.Refresh()
			second := open(t, Options{Dir: dir})
			if !bytes.Equal(first.Chain(), second.Chain()) || first.Credential().KeyID != second.Credential().KeyID {
				t.Errorf("after %v a restart serves another chain", wait)
			}
		}
		if leaf := first.Credential().TLS.Leaf; leaf.Subject.CommonName != "herald" || leaf.DNSNames[0] != "herald" {
			t.Errorf("without a host it is for %v", leaf.Subject)
		}
	})
}

// A daemon that was down for long has nothing valid left, and makes what it needs.
func TestAllExpired(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		before := open(t, Options{Dir: dir}).Credential().KeyID
		time.Sleep(2 * life)
		i := open(t, Options{Dir: dir})
		if c := i.Credential(); c.KeyID == before || time.Until(c.TLS.Leaf.NotAfter) < life-2*slack || len(served(t, i)) != 1 {
			t.Error("an expired identity was kept")
		}
	})
}

// Another public_url is taken up like a renewal: published first, used later.
func TestAnotherHost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		id := open(t, Options{Dir: dir, Host: "a.example"}).Credential().KeyID
		time.Sleep(day)
		for _, host := range []string{"b.example", "192.0.2.7", "c.example"} { // an undecided operator collects no certificates
			i := open(t, Options{Dir: dir, Host: host})
			chain := served(t, i)
			if len(chain) != 2 || i.Credential().KeyID != id || chain[1].Subject.CommonName != host {
				t.Fatalf("%s: %d certificates, the last for %v", host, len(chain), chain[len(chain)-1].Subject)
			}
			if ip := host == "192.0.2.7"; ip != (len(chain[1].IPAddresses) == 1) || ip == (len(chain[1].DNSNames) == 1) {
				t.Errorf("%s: it names %v %v", host, chain[1].DNSNames, chain[1].IPAddresses)
			}
		}
		time.Sleep(Lead)
		if c := open(t, Options{Dir: dir, Host: "c.example"}).Credential(); c.TLS.Leaf.Subject.CommonName != "c.example" {
			t.Errorf("it signs for %v", c.TLS.Leaf.Subject)
		}
	})
}

func TestFilesOfTheSelfMade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	i := open(t, Options{Dir: dir})
	for _, name := range []string{certName, keyName} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	// A crash between the two files leaves a key too many, which changes nothing.
	p, err := newPair("x", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := os.ReadFile(filepath.Join(dir, keyName))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, keyName), append(keys, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...))
	if again := open(t, Options{Dir: dir}); !bytes.Equal(again.Chain(), i.Chain()) {
		t.Error("a key too many changes the chain")
	}

	certs, err := os.ReadFile(filepath.Join(dir, certName))
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := x509.MarshalPKCS8PrivateKey(keyOf(t, Ed25519))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		certs, keys []byte
		want        string
	}{
		"no key file":      {certs, nil, "has no identity.key beside it"},
		"a damaged key":    {certs, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), "identity.key"},
		"a damaged chain":  {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), keys, "identity.pem"},
		"a key of another": {certs, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: foreign}), "did not make"},
	} {
		d := t.TempDir()
		write(t, filepath.Join(d, certName), c.certs)
		if c.keys != nil {
			write(t, filepath.Join(d, keyName), c.keys)
		}
		if _, err := Open(Options{Dir: d}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(Options{Dir: filepath.Join(dir, "none")}); err == nil {
		t.Error("a directory that is not there is taken")
	}
	for _, o := range []Options{{}, {CertFile: "x"}, {KeyFile: "x"}} {
		if _, err := Open(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func keyOf(t *testing.T, algorithm string) crypto.Signer {
	t.Helper()
	return keys(t)[algorithm]
}

// configure writes a configured identity.
func configure(t *testing.T, dir string, key crypto.Signer, until time.Time) Options {
	t.Helper()
	o := Options{CertFile: filepath.Join(dir, "c.pem"), KeyFile: filepath.Join(dir, "k.pem")}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, o.CertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate(t, key, until)}))
	write(t, o.KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return o
}

func TestConfiguredFilesAreTakenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir, all := t.TempDir(), keys(t)
		var out bytes.Buffer
		o := configure(t, dir, all[ECDSAP256SHA256], time.Now().Add(10*day))
		o.Logger = slog.New(slog.NewTextHandler(&out, nil))
		i := open(t, o)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- i.Run(ctx) }()
		first := i.Credential()

		// The files of a bubble have the times of the world outside, so that a change must be one of size too.
		configure(t, dir, all[Ed25519], time.Now().Add(20*day))
		time.Sleep(checkEvery + time.Second)
		synctest.Wait()
		second := i.Credential()
		chain := served(t, i)
		if second.Algorithm != Ed25519 || len(chain) != 2 || KeyID(chain[0]) != second.KeyID || KeyID(chain[1]) != first.KeyID {
			t.Fatalf("it signs by %s with %d certificates", second.Algorithm, len(chain))
		}
		// Files that do not fit together change nothing, and are told of once.
		write(t, o.KeyFile, []byte("damaged"))
		time.Sleep(10 * checkEvery)
		synctest.Wait()
		if i.Credential() != second || strings.Count(out.String(), "stays as it was") != 1 {
			t.Errorf("the log is %s", out.String())
		}
		configure(t, dir, all[Ed25519], time.Now().Add(20*day))
		time.Sleep(checkEvery)
		synctest.Wait()
		if i.Credential().KeyID != second.KeyID || strings.Count(out.String(), "can be refreshed again") != 1 {
			t.Errorf("the log is %s", out.String())
		}
		// The one before is served until it expires.
		time.Sleep(9 * day)
		synctest.Wait()
		if len(served(t, i)) != 2 {
			t.Error("the certificate before went early")
		}
		time.Sleep(2 * day)
		synctest.Wait()
		if len(served(t, i)) != 1 {
			t.Error("an expired certificate is served")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if strings.Contains(out.String(), "PRIVATE") {
			t.Error("the log has a key")
		}
	})
}

func TestAnExpiredConfiguredOneSignsAndIsToldOf(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	o := configure(t, t.TempDir(), keyOf(t, ECDSAP384SHA384), time.Now().Add(-time.Minute))
	o.Logger = slog.New(slog.NewTextHandler(&out, nil))
	if c := open(t, o).Credential(); c.Algorithm != ECDSAP384SHA384 || !strings.Contains(out.String(), "has expired") {
		t.Errorf("%s, log %s", c.Algorithm, out.String())
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	i := open(t, Options{Dir: t.TempDir(), Registerer: registry})
	families, err := registry.Gather()
	if err != nil || len(families) != 1 || families[0].GetMetric()[0].GetGauge().GetValue() != float64(i.Credential().TLS.Leaf.NotAfter.Unix()) {
		t.Errorf("%v, %v", families, err)
	}
	if problems, err := promlint.NewWithMetricFamilies(families).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if _, err := Open(Options{Dir: t.TempDir(), Registerer: registry}); err == nil {
		t.Error("the metrics were registered twice")
	}
}
