package api

import (
	"bytes"
	_ "embed"
	"net/http"
)

// document describes every route in OpenAPI 3.1. It is written by hand; that it tells the truth is proved by the tests of this
// package, which hold it against the routes, and by those of package daemon, which hold every request and answer against it.
//
//go:embed openapi.json
var document []byte

// documentVersion stands in the document where the version of the daemon belongs.
const documentVersion = `"version": "unreleased"`

// describe returns the document of a daemon of that version; "" leaves it unreleased.
func describe(version string) []byte {
	if version == "" {
		return document
	}
	return bytes.Replace(document, []byte(documentVersion), appendString([]byte(`"version": `), version), 1)
}

// readOpenAPI answers the document.
func (a *API) readOpenAPI(c *call) error {
	c.raw(http.StatusOK, a.description)
	return nil
}
