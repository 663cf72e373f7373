package client_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"herald/daemon/client"
)

func TestIdentityAgainstTheDaemon(t *testing.T) {
	t.Parallel()
	c, address := serve(t)
	anybody, err := client.New(client.Options{BaseURL: address})
	if err != nil {
		t.Fatal(err)
	}
	defer anybody.Close()
	chain, err := anybody.Certificates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := pem.Decode(chain); b == nil || b.Type != "CERTIFICATE" {
		t.Errorf("the chain is %s", chain)
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "me"}, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	file, err := pkcs12.Modern2023.Encode(key, leaf, nil, "word")
	if err != nil {
		t.Fatal(err)
	}
	in := client.SubscriptionInput{
		DataCallbackURL: "https://127.0.0.1:8421/", SignatureScheme: client.SchemeAsymmetric,
		ClientCertificate: &client.Certificate{PKCS12: file, Password: "word"},
	}
	made, err := c.CreateSubscription(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	own := made.ClientCertificate
	if own == nil || own.Identity || own.Subject != "CN=me" || !own.NotAfter.Equal(until) {
		t.Errorf("the certificate is shown as %+v", own)
	}
	if made.SignatureScheme != client.SchemeAsymmetric || len(made.SigningPublicKeys) != 1 || made.SigningSecret != "" {
		t.Errorf("it signs by %+v", made)
	}
	secret, err := c.RotateSecret(t.Context(), made.ID)
	if err != nil || secret != "" {
		t.Errorf("rotated to %q, %v", secret, err)
	}
	read, err := c.Subscription(t.Context(), made.ID)
	if err != nil || len(read.SigningPublicKeys) != 2 || read.SigningPublicKeys[1] != made.SigningPublicKeys[0] {
		t.Errorf("after the rotation %v, %v", read.SigningPublicKeys, err)
	}
	// What was read goes back as a patch and changes nothing.
	if same, err := c.PatchSubscription(t.Context(), made.ID, map[string]any{"clientCertificate": read.ClientCertificate}); err != nil || *same.ClientCertificate != *own {
		t.Errorf("sent back it is %+v, %v", same.ClientCertificate, err)
	}
	in.ClientCertificate = &client.Certificate{Identity: true}
	if r, err := c.ReplaceSubscription(t.Context(), made.ID, in); err != nil || r.ClientCertificate == nil || !r.ClientCertificate.Identity {
		t.Errorf("replaced by %+v, %v", r.ClientCertificate, err)
	}
	in.ClientCertificate = nil
	if r, err := c.ReplaceSubscription(t.Context(), made.ID, in); err != nil || r.ClientCertificate != nil {
		t.Errorf("replaced by %+v, %v", r.ClientCertificate, err)
	}
	if _, err := c.CreateSubscription(t.Context(), client.SubscriptionInput{
		DataCallbackURL: "https://127.0.0.1:8421/", ClientCertificate: &client.Certificate{PKCS12: file, Password: "another"},
	}); err == nil || !strings.Contains(err.Error(), "does not open") {
		t.Errorf("with a wrong password: %v", err)
	}
	for _, bad := range []client.Certificate{{}, {Identity: true, PKCS12: file}} {
		if _, err := json.Marshal(bad); err == nil {
			t.Errorf("%+v is encoded", bad)
		}
	}
	var info client.CertificateInfo
	if err := json.Unmarshal([]byte(`"x"`), &info); err == nil {
		t.Error("a text is read as a certificate")
	}
}
