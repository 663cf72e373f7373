package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"herald/queue"
	"herald/store"
)

const minimal = `{"dataCallbackURL":"https://r.example/x"}`

// subscribe creates a subscription and returns it with its path.
func (b *bed) subscribe(body string) (jsonObject, string) {
	b.t.Helper()
	v := wantJSON[jsonObject](b.t, b.request(http.MethodPost, "/subscriptions", "sub", body), 200)
	id, _ := v["id"].(string)
	return v, "/subscriptions/" + id
}

// stored is the only subscription there is.
func (b *bed) stored() *store.Subscription {
	b.t.Helper()
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	for _, s := range b.store.subs {
		return s
	}
	b.t.Fatal("no subscription")
	return nil
}

// plain prints a subscription, its filter by its text, and without the time of its last change.
func plain(s *store.Subscription) string {
	c, filter := *s, ""
	if s.Filter != nil {
		filter = s.Filter.Text()
	}
	c.Filter, c.UpdatedAt = nil, time.Time{}
	return fmt.Sprintf("%+v %s", c, filter)
}

// wrongMembers are members that each make a subscription wrong, with the field that has to be named.
func wrongMembers() map[string]struct {
	member, field string
	words         []string
} {
	type w = struct {
		member, field string
		words         []string
	}
	list := func(n int) string {
		var l []string
		for i := range n {
			l = append(l, fmt.Sprintf(`"t%d"`, i))
		}
		return "[" + strings.Join(l, ",") + "]"
	}
	secret := func(n int) string { return "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, n)) }
	wrong := map[string]w{
		"URL of a number":          {`"dataCallbackURL":1`, "dataCallbackURL", []string{"string, not a number"}},
		"null URL":                 {`"dataCallbackURL":null`, "dataCallbackURL", nil},
		"empty URL":                {`"dataCallbackURL":""`, "dataCallbackURL", nil},
		"relative URL":             {`"dataCallbackURL":"/x"`, "dataCallbackURL", []string{"absolute"}},
		"URL without scheme":       {`"dataCallbackURL":"r.example/x"`, "dataCallbackURL", nil},
		"URL of FTP":               {`"dataCallbackURL":"ftp://r.example/x"`, "dataCallbackURL", nil},
		"URL without host":         {`"dataCallbackURL":"https:///x"`, "dataCallbackURL", nil},
		"URL with only a port":     {`"dataCallbackURL":"https://:443/x"`, "dataCallbackURL", nil},
		"opaque URL":               {`"dataCallbackURL":"https:r.example"`, "dataCallbackURL", nil},
		"URL with a user":          {`"dataCallbackURL":"https://u:p@r.example/x"`, "dataCallbackURL", []string{"user"}},
		"URL with a fragment":      {`"dataCallbackURL":"https://r.example/x#f"`, "dataCallbackURL", []string{"fragment"}},
		"URL with a raw query":     {`"dataCallbackURL":"https://r.example/x?q=ü"`, "dataCallbackURL", []string{"query", "%20"}},
		"URL with quotes in query": {`"dataCallbackURL":"https://r.example/x?q=<a>"`, "dataCallbackURL", []string{"query"}},
		"header of a library":      {`"authentication":{"type":"header","name":"idempotency-key","value":"v"}`, "/authentication/name", []string{"Idempotency-Key"}},
		"URL with empty fragment":  {`"dataCallbackURL":"https://r.example/x#"`, "dataCallbackURL", []string{"fragment"}},
		"URL with a space":         {`"dataCallbackURL":"https://r.example/a b"`, "dataCallbackURL", nil},
		"URL with a line end":      {`"dataCallbackURL":"https://r.example/a\r\nb"`, "dataCallbackURL", nil},
		"URL with a bad escape":    {`"dataCallbackURL":"https://r.example/%zz"`, "dataCallbackURL", nil},
		"URL with a large port":    {`"dataCallbackURL":"https://r.example:70000/"`, "dataCallbackURL", []string{"port"}},
		"URL with port 0":          {`"dataCallbackURL":"https://r.example:0/"`, "dataCallbackURL", []string{"port"}},
		"URL with an empty port":   {`"dataCallbackURL":"https://r.example:/"`, "dataCallbackURL", []string{"port"}},
		"URL that is long":         {`"dataCallbackURL":"https://r.example/` + strings.Repeat("x", 2048) + `"`, "dataCallbackURL", []string{"2048"}},
		"URL that is forbidden":    {`"dataCallbackURL":"http://127.0.0.1/x"`, "dataCallbackURL", []string{"egress.allow_networks"}},
		"format json":              {`"exportFormat":"json"`, "exportFormat", []string{"application/json"}},
		"format xml":               {`"exportFormat":"XML"`, "exportFormat", []string{"application/xml"}},
		"format text/xml":          {`"exportFormat":"text/xml"`, "exportFormat", []string{"application/json or application/xml"}},
		"format text":              {`"exportFormat":"text/plain"`, "exportFormat", []string{"application/json"}},
		"format of a number":       {`"exportFormat":1`, "exportFormat", nil},
		"no records":               {`"numberOfRecords":0`, "numberOfRecords", []string{"between 1 and 1000"}},
		"thousand and one records": {`"numberOfRecords":1001`, "numberOfRecords", []string{"between 1 and 1000"}},
		"huge number of records":   {`"numberOfRecords":99999999999999999999`, "numberOfRecords", []string{"between"}},
		"records of a text":        {`"numberOfRecords":"1"`, "numberOfRecords", []string{"whole number, not a string"}},
		"half a record":            {`"numberOfRecords":1.5`, "numberOfRecords", []string{"whole number"}},
		"negative wait":            {`"maxWaitSeconds":-1`, "maxWaitSeconds", []string{"between 0 and 3600"}},
		"long wait":                {`"maxWaitSeconds":3600.5`, "maxWaitSeconds", nil},
		"infinite wait":            {`"maxWaitSeconds":1e999`, "maxWaitSeconds", nil},
		"wait of a text":           {`"maxWaitSeconds":"1s"`, "maxWaitSeconds", nil},
		"resource form":            {`"resource":"proj1"`, "resource", []string{"type/id"}},
		"resource not there":       {`"resource":"project/proj9"`, "resource", []string{"project/proj9", "catalogue"}},
		"resource type not there":  {`"resource":"planet/*"`, "resource", []string{"planet", "catalogue"}},
		"resource with stars":      {`"resource":"*/*"`, "resource", nil},
		"empty resource":           {`"resource":""`, "resource", nil},
		"resource of an array":     {`"resource":[]`, "resource", nil},
		"no events":                {`"events":[]`, "events", []string{"1 to 100"}},
		"events of a text":         {`"events":"task.create"`, "events", []string{"array of strings"}},
		"many events":              {`"events":` + list(101), "events", []string{"1 to 100"}},
		"events twice":             {`"events":["a","b","a"]`, "/events/2", []string{"twice"}},
		"event of a number":        {`"events":["a",1]`, "/events/1", nil},
		"event of null":            {`"events":[null]`, "/events/0", nil},
		"event pattern":            {`"events":["task.*.x"]`, "/events/0", nil},
		"event star":               {`"events":["*"]`, "/events/0", nil},
		"payload form":             {`"payload":"bare"`, "payload", []string{"envelope, data or cloudevents"}},
		"payload cloudevents, XML": {`"payload":"cloudevents","exportFormat":"application/xml"`, "payload", []string{"application/json"}},
		"payload cloudevents, GET": {`"payload":"cloudevents","method":"GET"`, "payload", []string{"POST or PUT"}},
		"method":                   {`"method":"DELETE"`, "method", []string{"POST, PUT or GET"}},
		"method in lower case":     {`"method":"post"`, "method", nil},
		"authentication text":      {`"authentication":"bearer"`, "authentication", []string{"object"}},
		"authentication empty":     {`"authentication":{}`, "/authentication/type", []string{"bearer, basic, header, query or oauth2"}},
		"authentication type":      {`"authentication":{"type":"digest"}`, "/authentication/type", nil},
		"authentication number":    {`"authentication":{"type":1}`, "/authentication/type", nil},
		"bearer without token":     {`"authentication":{"type":"bearer"}`, "/authentication/token", []string{"is needed"}},
		"bearer null token":        {`"authentication":{"type":"bearer","token":null}`, "/authentication/token", nil},
		"bearer empty token":       {`"authentication":{"type":"bearer","token":""}`, "/authentication/token", nil},
		"bearer with a line end":   {`"authentication":{"type":"bearer","token":"a\nb"}`, "/authentication/token", nil},
		"bearer long":              {`"authentication":{"type":"bearer","token":"` + strings.Repeat("x", 4097) + `"}`, "/authentication/token", []string{"4096"}},
		"bearer with a name":       {`"authentication":{"type":"bearer","token":"x","name":"y"}`, "/authentication/name", []string{"bearer"}},
		"basic without password":   {`"authentication":{"type":"basic","username":"u"}`, "/authentication/password", nil},
		"basic without user":       {`"authentication":{"type":"basic","password":"p"}`, "/authentication/username", nil},
		"basic with a colon":       {`"authentication":{"type":"basic","username":"a:b","password":"p"}`, "/authentication/username", nil},
		"header without a name":    {`"authentication":{"type":"header","value":"v"}`, "/authentication/name", nil},
		"header without a value":   {`"authentication":{"type":"header","name":"X-Key"}`, "/authentication/value", nil},
		"header name":              {`"authentication":{"type":"header","name":"X Key","value":"v"}`, "/authentication/name", []string{"header"}},
		"header Host":              {`"authentication":{"type":"header","name":"host","value":"v"}`, "/authentication/name", []string{"Host"}},
		"header length":            {`"authentication":{"type":"header","name":"CONTENT-length","value":"v"}`, "/authentication/name", nil},
		"header of webhooks":       {`"authentication":{"type":"header","name":"WebHook-Signature","value":"v"}`, "/authentication/name", []string{"Webhook-"}},
		"header of Herald":         {`"authentication":{"type":"header","name":"herald-attempt","value":"v"}`, "/authentication/name", nil},
		"header signature":         {`"authentication":{"type":"header","name":"signature-input","value":"v"}`, "/authentication/name", nil},
		"header te":                {`"authentication":{"type":"header","name":"TE","value":"v"}`, "/authentication/name", nil},
		"header splitting":         {`"authentication":{"type":"header","name":"X-Key","value":"v\r\nX: y"}`, "/authentication/value", nil},
		"header value not ASCII":   {`"authentication":{"type":"header","name":"X-Key","value":"é"}`, "/authentication/value", nil},
		"header value of spaces":   {`"authentication":{"type":"header","name":"X-Key","value":" v"}`, "/authentication/value", nil},
		"query control":            {`"authentication":{"type":"query","name":"k","value":"a\u0000b"}`, "/authentication/value", nil},
		"query name":               {`"authentication":{"type":"query","name":"","value":"v"}`, "/authentication/name", nil},
		"query of a GET":           {`"method":"GET","authentication":{"type":"query","name":"id","value":"v"}`, "/authentication/name", []string{"GET"}},
		"authentication unknown":   {`"authentication":{"type":"bearer","token":"x","realm":"y"}`, "/authentication/realm", nil},
		"secret without prefix":    {`"signingSecret":"` + strings.TrimPrefix(secret(32), "whsec_") + `"`, "signingSecret", []string{"whsec_"}},
		"secret not base64":        {`"signingSecret":"whsec_!!!"`, "signingSecret", nil},
		"secret short":             {`"signingSecret":"` + secret(23) + `"`, "signingSecret", []string{"24 to 64"}},
		"secret long":              {`"signingSecret":"` + secret(65) + `"`, "signingSecret", nil},
		"secret of a number":       {`"signingSecret":1`, "signingSecret", nil},
		"secret with a line end":   {`"signingSecret":"` + secret(32) + `\n"`, "signingSecret", nil},
		"delivery text":            {`"delivery":"quick"`, "delivery", nil},
		"delivery unknown":         {`"delivery":{"retries":3}`, "/delivery/retries", []string{"timeoutSeconds"}},
		"timeout 0":                {`"delivery":{"timeoutSeconds":0}`, "/delivery/timeoutSeconds", []string{"0.1 and 300"}},
		"timeout long":             {`"delivery":{"timeoutSeconds":301}`, "/delivery/timeoutSeconds", nil},
		"schedule name":            {`"delivery":{"retrySchedule":"slow"}`, "/delivery/retrySchedule", []string{"standard, day, quick"}},
		"schedule of commas":       {`"delivery":{"retrySchedule":"5s,5m"}`, "/delivery/retrySchedule", nil},
		"schedule empty":           {`"delivery":{"retrySchedule":[]}`, "/delivery/retrySchedule", nil},
		"schedule long":            {`"delivery":{"retrySchedule":[` + strings.Repeat(`"5s",`, queue.MaxRetries) + `"5s"]}`, "/delivery/retrySchedule", []string{"1 to "}},
		"schedule of numbers":      {`"delivery":{"retrySchedule":[5]}`, "/delivery/retrySchedule/0", nil},
		"schedule word":            {`"delivery":{"retrySchedule":["5s","soon"]}`, "/delivery/retrySchedule/1", nil},
		"schedule short":           {`"delivery":{"retrySchedule":["10ms"]}`, "/delivery/retrySchedule/0", nil},
		"schedule far":             {`"delivery":{"retrySchedule":["1000h"]}`, "/delivery/retrySchedule/0", nil},
		"schedule spelling":        {`"delivery":{"retrySchedule":["` + strings.Repeat("0", 40) + `5s"]}`, "/delivery/retrySchedule/0", nil},
		"concurrency 0":            {`"delivery":{"maxConcurrency":0}`, "/delivery/maxConcurrency", nil},
		"concurrency 1001":         {`"delivery":{"maxConcurrency":1001}`, "/delivery/maxConcurrency", nil},
		"validation":               {`"validationCallbackURL":"r.example/v"`, "validationCallbackURL", []string{"absolute"}},
		"client certificate":       {`"clientCertificate":"yes"`, "clientCertificate", []string{"true, false or an object"}},
		"unknown":                  {`"exportEndpoint":"https://r.example"`, "exportEndpoint", []string{"dataCallbackURL"}},
		"twice by case":            {`"PAYLOAD":"data","payload":"data"`, "payload", []string{"twice"}},
	}
	maps.Copy(wrong, wrongPolicy())
	return wrong
}

func TestSubscriptionMembersThatAreWrong(t *testing.T) {
	t.Parallel()
	for name, x := range wrongMembers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			body := "{" + x.member + "}"
			if !strings.Contains(x.member, "dataCallbackURL") {
				body = `{"dataCallbackURL":"https://r.example/x",` + x.member + "}"
			}
			p := wantProblem(t, b.request(http.MethodPost, "/subscriptions", "sub", body), 400, x.words...)
			if firstField(p) != x.field {
				t.Errorf("POST: the fault is of %q, want %q: %+v", firstField(p), x.field, p)
			}
			if len(b.store.subs) > 0 {
				t.Fatal("a subscription was made")
			}
			_, path := b.subscribe(minimal)
			before := *b.stored()
			for method, body := range map[string]string{http.MethodPut: body, http.MethodPatch: "{" + x.member + "}"} {
				p := wantProblem(t, b.request(method, path, "sub", body), 400, x.words...)
				if firstField(p) != x.field {
					t.Errorf("%s: the fault is of %q, want %q: %+v", method, firstField(p), x.field, p)
				}
			}
			if s := b.stored(); s.UpdatedAt != before.UpdatedAt || s.DataCallbackURL != before.DataCallbackURL || len(b.changed) != 1 {
				t.Error("a refused change left a trace")
			}
		})
	}
}

func TestSubscriptionBodies(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, path := b.subscribe(minimal)
	deep := strings.Repeat("[", 101) + strings.Repeat("]", 101)
	for body, words := range map[string][]string{
		`[]`: {"object, not an array"}, `null`: {"object, not null"}, `"x"`: {"object, not a string"}, `{`: {"ends in the middle"},
		`{"events":["a",]}`: {"comma"}, `{"a":1,"a":2}`: {"a", "twice"}, `{"delivery":{"x":1,"x":2}}`: {"/delivery/x", "twice"},
		minimal + `{}`: {"goes on"}, `{"dataCallbackURL":“https://r.example”}`: {"“", "dataCallbackURL", "position 20"},
		"{\"payload\":\"\xff\"}": {"UTF-8"}, `{"filter":` + deep + `}`: {"100 levels"}, `{"events":[` + strings.Repeat("1,", maxNodes) + `1]}`: {"10000 values"},
	} {
		for method, p := range map[string]string{http.MethodPost: "/subscriptions", http.MethodPut: path, http.MethodPatch: path} {
			wantProblem(t, b.request(method, p, "sub", body), 400, words...)
		}
	}
	p := wantProblem(t, b.request(http.MethodPost, "/subscriptions", "sub", `{"exportFormat":"json","events":[],"method":"X","nope":1}`), 400, "5 fields")
	if len(p.Errors) != 5 {
		t.Errorf("%+v", p.Errors)
	}
	for _, field := range []string{"id", "state", "stateReason", "stateSince", "createdAt", "updatedAt", "signingSecretSet"} {
		p := wantProblem(t, b.request(http.MethodPost, "/subscriptions", "sub", `{"dataCallbackURL":"https://r.example/x","`+field+`":"x"}`), 400, "set by the daemon")
		if firstField(p) != field {
			t.Errorf("%s: %+v", field, p)
		}
	}
}

func TestSubscriptionDefaults(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	v, path := b.subscribe(`{"DATAcallbackurl":"https://r.example/x?key=1","filter":null,"clientCertificate":false,"delivery":{"ordering":null,"disableAfter":null}}`)
	secret, _ := v["signingSecret"].(string)
	parsed, ok := parseSigningSecret(secret)
	if !ok || len(parsed.Key) != 32 || string(b.stored().SigningSecrets[0].Key) != string(parsed.Key) {
		t.Errorf("the generated secret %q", secret)
	}
	delete(v, "signingSecret")
	id := v["id"]
	delete(v, "id")
	want := jsonObject{
		"dataCallbackURL": "https://r.example/x?key=1", "exportFormat": "application/json", "numberOfRecords": 1.0, "maxWaitSeconds": 1.0,
		"payload": "envelope", "method": "POST", "signingSecretSet": true, "state": "active",
		"stateSince": "2026-11-21T08:30:00Z", "createdAt": "2026-11-21T08:30:00Z", "updatedAt": "2026-11-21T08:30:00Z",
	}
	if !maps.Equal(v, want) {
		t.Errorf("created %v", v)
	}
	want["id"] = id
	if got := wantJSON[jsonObject](t, b.request(http.MethodGet, path, "sub", ""), 200); !maps.Equal(got, want) {
		t.Errorf("read %v", got)
	}
	if b.stored().AccountID != "acme" || len(b.changed) != 1 {
		t.Errorf("stored %+v", b.stored())
	}
	if _, err := store.ParseSubscriptionID(id.(string)); err != nil {
		t.Error(err)
	}
}

const everything = `{"dataCallbackURL":"http://r.example:8080/x","exportFormat":"application/json","numberOfRecords":20,"maxWaitSeconds":0.25,
	"resource":"project/*","events":["task.create","task.*","*.delete"],"filter":{"customer.country":{"$in":["NL","\u0042E"]},"total":{"$gt":1.50e1}},"payload":"data","method":"PUT",
	"authentication":{"type":"basic","username":"u","password":"p4ss"},"signingSecret":"whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz",
	"delivery":{"timeoutSeconds":2.5,"retrySchedule":["5s","1h30m"],"maxConcurrency":7,"rateLimit":0.5,"rateBurst":3,"ordering":"key",
	"orderingKey":"customer.id","disableAfter":{"duration":"1d12h","failures":9},"onDisabled":"discard"}}`

func TestSubscriptionRoundTrip(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, path := b.subscribe(everything)
	s := b.stored()
	if s.MaxWait != 250*time.Millisecond || s.NumberOfRecords != 20 || s.Delivery != everyPolicy() ||
		s.Authentication != (store.Authentication{Type: "basic", Username: "u", Password: "p4ss"}) || string(s.SigningSecrets[0].Key) != "012345678901234567890123" {
		t.Errorf("stored %+v", s)
	}
	read := b.request(http.MethodGet, path, "sub", "").Body.String()
	if list := b.request(http.MethodGet, "/subscriptions", "sub", "").Body.String(); list != "["+read+"]" {
		t.Errorf("the list shows %s, a read %s", list, read)
	}
	for _, secret := range []string{"p4ss", "whsec_", "MDEy"} {
		if strings.Contains(read, secret) {
			t.Errorf("a read shows %s: %s", secret, read)
		}
	}
	for _, part := range []string{
		`"numberOfRecords":20`, `"filter":{"customer.country":{"$in":["NL","\u0042E"]},"total":{"$gt":1.50e1}}`,
		`"rateLimit":0.5,"rateBurst":3,"ordering":"key","orderingKey":"customer.id","disableAfter":{"duration":"36h","failures":9},"onDisabled":"discard"}`,
		`"authentication":{"type":"basic","username":"u","passwordSet":true}`, `"signingSecretSet":true`,
		`"delivery":{"timeoutSeconds":2.5,"retrySchedule":["5s","1h30m"],"maxConcurrency":7,`, `"maxWaitSeconds":0.25`,
	} {
		if !strings.Contains(read, part) {
			t.Errorf("a read lacks %s: %s", part, read)
		}
	}
	// What was read may be sent back, with either method, and changes nothing; also when the catalogue
	// has lost the resource and the policy the address since.
	before := s.Clone()
	delete(b.store.resources, "acme")
	for _, method := range []string{http.MethodPut, http.MethodPatch} {
		if w := b.request(method, path, "sub", read); w.Code != 200 || w.Body.String() != read {
			t.Errorf("%s: %d %s", method, w.Code, w.Body)
		}
		if plain(b.stored()) != plain(before) {
			t.Errorf("%s changed %+v to %+v", method, before, b.stored())
		}
	}
}

func TestReplacing(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, path := b.subscribe(everything)
	// Absent members go to their defaults, absent secrets stay.
	v := wantJSON[jsonObject](t, b.request(http.MethodPut, path, "sub", `{"dataCallbackURL":"https://new.example/","authentication":{"type":"basic","username":"v"}}`), 200)
	s := b.stored()
	if s.DataCallbackURL != "https://new.example/" || s.Resource != "" || s.Events != nil || s.Payload != store.PayloadEnvelope || s.Method != "POST" ||
		s.MaxWait != time.Second || s.Delivery != (store.DeliveryPolicy{}) || v["delivery"] != nil {
		t.Errorf("replaced by %+v", s)
	}
	if s.Authentication != (store.Authentication{Type: "basic", Username: "v", Password: "p4ss"}) || len(s.SigningSecrets) != 1 {
		t.Errorf("secrets after a replacement: %+v", s)
	}
	wantProblem(t, b.request(http.MethodPut, path, "sub", `{"events":["a"]}`), 400, "dataCallbackURL", "is needed")
	// Without authentication its secrets stay, null removes them.
	b.request(http.MethodPut, path, "sub", minimal)
	if b.stored().Authentication.Password != "p4ss" {
		t.Error("an absent authentication was removed")
	}
	wantJSON[jsonObject](t, b.request(http.MethodPut, path, "sub", `{"dataCallbackURL":"https://r.example/x","authentication":null,"signingSecret":null}`), 200)
	if s := b.stored(); s.Authentication != (store.Authentication{}) || len(s.SigningSecrets) != 0 {
		t.Errorf("null left %+v", s)
	}
	if v := wantJSON[jsonObject](t, b.request(http.MethodPut, path, "sub", minimal), 200); v["signingSecretSet"] != false || v["signingSecret"] != nil {
		t.Errorf("a replacement made a secret: %v", v)
	}
}

func TestPatching(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, path := b.subscribe(everything)
	patch := func(body string) *store.Subscription {
		t.Helper()
		wantJSON[jsonObject](t, b.request(http.MethodPatch, path, "sub", body, "Content-Type", "application/merge-patch+json"), 200)
		return b.stored()
	}
	b.mu.Lock()
	b.now = b.now.Add(time.Hour)
	b.mu.Unlock()
	before := b.stored().Clone()
	s := patch(`{"events":["note.create"]}`)
	if !slices.Equal(s.Events, []string{"note.create"}) || !s.UpdatedAt.Equal(testNow.Add(time.Hour)) {
		t.Errorf("patched %+v", s)
	}
	before.Events, before.UpdatedAt = s.Events, s.UpdatedAt
	if plain(s) != plain(before) {
		t.Errorf("more than the events changed: %+v", s)
	}
	if s = patch(`{"events":null,"resource":null,"delivery":{"timeoutSeconds":null,"maxConcurrency":9}}`); s.Events != nil || s.Resource != "" ||
		s.Delivery.Timeout != 0 || s.Delivery.MaxConcurrency != 9 || s.Delivery.RetrySchedule != "5s,1h30m" || s.Delivery.OrderingKey != "customer.id" {
		t.Errorf("patched %+v", s)
	}
	if s = patch(`{"delivery":null,"payload":null,"method":null,"maxWaitSeconds":null,"exportFormat":null,"numberOfRecords":null}`); s.Delivery != (store.DeliveryPolicy{}) ||
		s.Payload != "envelope" || s.Method != "POST" || s.MaxWait != time.Second {
		t.Errorf("patched %+v", s)
	}
	if s = patch(`{"authentication":{"username":"w"}}`); s.Authentication != (store.Authentication{Type: "basic", Username: "w", Password: "p4ss"}) {
		t.Errorf("patched %+v", s.Authentication)
	}
	if s = patch(`{"authentication":{"password":null}}`); s.Authentication != (store.Authentication{Type: "basic", Username: "w"}) {
		t.Errorf("patched %+v", s.Authentication)
	}
	// Another type needs its own secret, and keeps nothing of the old one.
	wantProblem(t, b.request(http.MethodPatch, path, "sub", `{"authentication":{"type":"bearer"}}`), 400, "token", "is needed")
	wantProblem(t, b.request(http.MethodPatch, path, "sub", `{"authentication":{"token":"t"}}`), 400, "/authentication/token", "basic")
	if s = patch(`{"authentication":{"type":"bearer","token":"t0k"}}`); s.Authentication != (store.Authentication{Type: "bearer", Token: "t0k"}) {
		t.Errorf("patched %+v", s.Authentication)
	}
	if s = patch(`{"authentication":{"type":"query","name":"k","value":"v"}}`); s.Authentication != (store.Authentication{Type: "query", Name: "k", Value: "v"}) {
		t.Errorf("patched %+v", s.Authentication)
	}
	wantProblem(t, b.request(http.MethodPatch, path, "sub", `{"authentication":{"type":"header"}}`), 400)
	if s = patch(`{"authentication":{"name":"j"}}`); s.Authentication != (store.Authentication{Type: "query", Name: "j", Value: "v"}) {
		t.Errorf("patched %+v", s.Authentication)
	}
	patch(`{"authentication":{"name":"id"}}`)
	wantProblem(t, b.request(http.MethodPatch, path, "sub", `{"method":"GET"}`), 400, "/authentication/name")
	if s = patch(`{"authentication":null,"signingSecret":null}`); s.Authentication != (store.Authentication{}) || len(s.SigningSecrets) > 0 {
		t.Errorf("patched %+v", s)
	}
	wantProblem(t, b.request(http.MethodPatch, path, "sub", `{"authentication":{"token":"t"}}`), 400, "/authentication/type")
	wantProblem(t, b.request(http.MethodPatch, path, "sub", `{"dataCallbackURL":null}`), 400, "cannot be removed")
	for body, words := range map[string][]string{
		`{"id":"01234567-89ab-7def-8123-456789abcdef"}`: {"id", "POST /subscriptions"}, `{"state":"paused"}`: {"state", "/pause"}, `{"state":null}`: {"state"},
		`{"signingSecretSet":true}`: {"signingSecretSet"}, `{"id":5}`: {"string"},
	} {
		wantProblem(t, b.request(http.MethodPatch, path, "sub", body), 400, words...)
	}
}

func TestSelectionMovesAtOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, path := b.subscribe(`{"dataCallbackURL":"https://r.example/x","events":["task.create"]}`)
	wantJSON[jsonObject](t, b.request(http.MethodPatch, path, "sub", `{"events":["note.create"]}`), 200)
	b.request(http.MethodPost, "/events", "pub", `{"id":"1","type":"task.create","data":{}}`)
	b.request(http.MethodPost, "/events", "pub", `{"id":"2","type":"note.create","data":{}}`)
	if len(b.queue.deliveries) != 1 || b.queue.deliveries[0].EventID != "2" {
		t.Errorf("deliveries %+v", b.queue.deliveries)
	}
}

func TestSubscriptionLife(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	v, path := b.subscribe(minimal)
	lane := queue.Lane(b.stored().ID)

	// Another account, and the wrong id, find nothing; nobody can tell which.
	bad := "/subscriptions/" + strings.Repeat("0", 8) + "-0000-7000-8000-000000000000"
	for _, suffix := range []string{"", "/enable", "/pause", "/secret", "/ping", "/retry"} {
		method := http.MethodPost
		if suffix == "" {
			method = http.MethodGet
		}
		alien := wantProblem(t, b.request(method, path+suffix, "alien", ""), 404)
		none := wantProblem(t, b.request(method, bad+suffix, "sub", ""), 404)
		if alien.Detail != none.Detail {
			t.Errorf("%q and %q", alien.Detail, none.Detail)
		}
		wantProblem(t, b.request(method, "/subscriptions/nonsense"+suffix, "sub", ""), 404)
	}
	for _, method := range []string{http.MethodPut, http.MethodPatch} {
		wantProblem(t, b.request(method, path, "alien", minimal), 404)
		wantProblem(t, b.request(method, bad, "sub", minimal), 404)
	}
	wantProblem(t, b.request(http.MethodDelete, path, "alien", ""), 404)

	// Actions take no input.
	wantProblem(t, b.request(http.MethodPost, path+"/pause", "sub", `{"reason":"x"}`), 400, "reason", "no input")
	wantProblem(t, b.request(http.MethodPost, path+"/pause", "sub", `[]`), 400)
	wantProblem(t, b.request(http.MethodPost, path+"/pause", "sub", `x=1`, "Content-Type", "application/x-www-form-urlencoded"), 415)
	if got := wantJSON[jsonObject](t, b.request(http.MethodPost, path+"/pause", "sub", `{}`), 200); got["state"] != "paused" || got["stateReason"] != "owner" {
		t.Errorf("paused %v", got)
	}
	b.request(http.MethodPost, "/events", "pub", `{"id":"1","type":"a","data":{}}`)
	if list := wantJSON[[]jsonObject](t, b.request(http.MethodGet, "/deliveries?state=held", "sub", ""), 200); len(list) != 1 || list[0]["state"] != "held" {
		t.Errorf("held %v", list)
	}
	if got := wantJSON[jsonObject](t, b.request(http.MethodPost, path+"/enable", "sub", ""), 200); got["state"] != "active" || got["stateReason"] != nil {
		t.Errorf("enabled %v", got)
	}
	if len(b.changed) != 3 {
		t.Errorf("told %d changes", len(b.changed))
	}
	for state, want := range map[store.State][2]int{
		store.StatePending: {409, 409}, store.StateDisabled: {200, 409}, store.StateActive: {200, 200}, store.StatePaused: {200, 200},
	} {
		for i, action := range []string{"/enable", "/pause"} {
			b.store.mu.Lock()
			s := b.store.subs[store.SubscriptionID(lane)].Clone()
			s.State, s.ValidationCallbackURL = state, "https://r.example/v"
			b.store.subs[s.ID] = s
			b.store.mu.Unlock()
			if w := b.request(http.MethodPost, path+action, "sub", ""); w.Code != want[i] {
				t.Errorf("%s of a %s one: %d", action, state, w.Code)
			}
		}
	}

	// A rotation leaves the old secret in force for a day.
	b.store.mu.Lock()
	b.store.subs[store.SubscriptionID(lane)].State = store.StateActive
	b.store.mu.Unlock()
	first, _ := parseSigningSecret(v["signingSecret"].(string))
	got := wantJSON[map[string]string](t, b.request(http.MethodPost, path+"/secret", "sub", ""), 200)
	second, ok := parseSigningSecret(got["signingSecret"])
	secrets := b.stored().SigningSecrets
	if !ok || len(secrets) != 2 || string(secrets[0].Key) != string(second.Key) || !secrets[0].ExpiresAt.IsZero() ||
		string(secrets[1].Key) != string(first.Key) || !secrets[1].ExpiresAt.Equal(testNow.Add(24*time.Hour)) {
		t.Errorf("rotated to %+v", secrets)
	}
	for range maxSecrets - 2 {
		wantJSON[jsonObject](t, b.request(http.MethodPost, path+"/secret", "sub", ""), 200)
	}
	wantProblem(t, b.request(http.MethodPost, path+"/secret", "sub", ""), 409, "2026-11-22T08:30:00Z")
	b.mu.Lock()
	b.now = b.now.Add(24 * time.Hour)
	b.mu.Unlock()
	wantJSON[jsonObject](t, b.request(http.MethodPost, path+"/secret", "sub", ""), 200)
	if n := len(b.stored().SigningSecrets); n != 2 {
		t.Errorf("%d secrets a day later", n)
	}

	// A ping goes to this subscription alone.
	b.subscribe(minimal)
	n := len(b.queue.deliveries)
	id := wantJSON[map[string]string](t, b.request(http.MethodPost, path+"/ping", "sub", ""), 202)["id"]
	e := b.queue.events[len(b.queue.events)-1]
	if e.ID != id || e.Type != "herald.ping" || string(e.Data) != fmt.Sprintf(`{"subscriptionId":%q}`, v["id"]) || len(b.queue.deliveries) != n+1 ||
		b.queue.deliveries[n].ID.Lane != lane {
		t.Errorf("ping %+v", e)
	}
	b.queue.deliveries[n].State = queue.StateDead
	if got := wantJSON[map[string]int](t, b.request(http.MethodPost, path+"/retry", "sub", ""), 202); got["retried"] != 1 {
		t.Errorf("retried %v", got)
	}

	w := b.request(http.MethodDelete, path, "sub", "")
	if w.Code != 204 || w.Body.Len() != 0 || len(b.queue.dropped) != 1 || b.queue.dropped[0] != lane || b.changed[len(b.changed)-1] != store.SubscriptionID(lane) {
		t.Errorf("deleted: %d %q, dropped %v", w.Code, w.Body, b.queue.dropped)
	}
	wantProblem(t, b.request(http.MethodDelete, path, "sub", ""), 404)
	wantProblem(t, b.request(http.MethodGet, path, "sub", ""), 404)
}

func TestDeletionStandsWhenTheLaneCannotBeDropped(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, path := b.subscribe(minimal)
	b.queue.setFail(errors.New("disk on fire"))
	if w := b.request(http.MethodDelete, path, "sub", ""); w.Code != 204 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if len(b.changed) != 2 {
		t.Errorf("told %d changes", len(b.changed))
	}
}

func TestSubscriptionLimit(t *testing.T) {
	t.Parallel()
	b := newBed(t, Settings{MaxSubscriptionsPerAccount: 2})
	b.subscribe(minimal)
	b.subscribe(minimal)
	wantProblem(t, b.request(http.MethodPost, "/subscriptions", "sub", minimal), 409, "2 subscriptions", "max_per_account")
	wantJSON[jsonObject](t, b.request(http.MethodPost, "/subscriptions", "alien", minimal), 200)
}

func TestListingSubscriptions(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	if w := b.request(http.MethodGet, "/subscriptions", "sub", ""); w.Body.String() != "[]" {
		t.Errorf("none: %s", w.Body)
	}
	const many = 3*storePage/2 + 7
	for range many {
		b.subscribe(minimal)
	}
	wantJSON[jsonObject](t, b.request(http.MethodPost, "/subscriptions", "alien", minimal), 200)
	w := b.request(http.MethodGet, "/subscriptions", "sub", "")
	all := wantJSON[[]jsonObject](t, w, 200)
	if len(all) != many || w.Header().Get("Link") != "" {
		t.Errorf("%d listed, Link %q", len(all), w.Header().Get("Link"))
	}
	var paged []jsonObject
	for next := "/subscriptions?limit=300"; next != ""; {
		w := b.request(http.MethodGet, next, "sub", "")
		got := wantJSON[[]jsonObject](t, w, 200)
		if len(got) > 300 {
			t.Fatalf("a page of %d", len(got))
		}
		paged = append(paged, got...)
		next = nextOf(w.Header())
	}
	if fmt.Sprint(paged) != fmt.Sprint(all) {
		t.Errorf("%d in pages, %d at once", len(paged), len(all))
	}
	wantProblem(t, b.request(http.MethodGet, "/subscriptions?after=x", "sub", ""), 400, "after")
	// A list that cannot be finished must not look finished.
	b.store.setFail(store.ErrClosed, 2) // the token and the first page
	defer func() {
		if !isAbort(recover()) {
			t.Error("a torn list ended as if it were whole")
		}
	}()
	b.request(http.MethodGet, "/subscriptions", "sub", "")
}

func FuzzSubscription(f *testing.F) {
	f.Add([]byte(minimal), []byte(`{"events":["a.*"]}`))
	f.Add([]byte(everything), []byte(`{"filter":{"a":null},"delivery":{"disableAfter":{},"rateLimit":1e-3,"rateBurst":null}}`))
	f.Add([]byte(everything), []byte(`{"authentication":{"type":"bearer","token":"x"},"delivery":null}`))
	for _, x := range wrongMembers() {
		f.Add([]byte(`{"dataCallbackURL":"https://r.example/x",`+x.member+`}`), []byte("{"+x.member+"}"))
	}
	f.Fuzz(func(t *testing.T, body, patch []byte) {
		b := newBed(t)
		check := func(method, path string, body []byte) bool {
			w := b.request(method, path, "sub", string(body))
			if !json.Valid(w.Body.Bytes()) || w.Code != 200 && w.Code != 400 {
				t.Fatalf("%s: %d %q", method, w.Code, w.Body)
			}
			if m := leaks.FindString(w.Body.String()); m != "" && w.Code != 200 && !strings.Contains(string(body), m) {
				t.Fatalf("%q leaks: %s", m, w.Body)
			}
			return w.Code == 200
		}
		if !check(http.MethodPost, "/subscriptions", body) {
			b.subscribe(minimal)
		}
		path := "/subscriptions/" + b.stored().ID.String()
		check(http.MethodPatch, path, patch)
		check(http.MethodPut, path, patch)
		// Whatever was made of it can be read and sent back.
		read := b.request(http.MethodGet, path, "sub", "").Body.String()
		before := b.stored().Clone()
		if w := b.request(http.MethodPut, path, "sub", read); w.Code != 200 || w.Body.String() != read {
			t.Fatalf("%s came back as %d %s", read, w.Code, w.Body)
		}
		if plain(b.stored()) != plain(before) {
			s := b.stored()
			t.Fatalf("a round trip changed %+v to %+v", before, s)
		}
	})
}
