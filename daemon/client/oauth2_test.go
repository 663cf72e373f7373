package client

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestOAuth2OnTheWire(t *testing.T) {
	t.Parallel()
	input := SubscriptionInput{DataCallbackURL: "https://r.example/", Authentication: &Authentication{
		Type: "oauth2", TokenURL: "https://t.example/token", ClientID: "id", ClientSecret: "secret", Scopes: []string{"a", "b"},
	}}
	got, err := json.Marshal(input)
	const want = `{"dataCallbackURL":"https://r.example/","authentication":{"type":"oauth2","tokenURL":"https://t.example/token","clientId":"id","clientSecret":"secret","scopes":["a","b"]}}`
	if err != nil || string(got) != want {
		t.Errorf("%s %v, want %s", got, err, want)
	}
	var s Subscription
	err = json.Unmarshal([]byte(`{"authentication":{"type":"oauth2","tokenURL":"https://t.example/token","clientId":"id","scopes":["a","b"],"clientSecretSet":true}}`), &s)
	info := &AuthenticationInfo{Type: "oauth2", TokenURL: "https://t.example/token", ClientID: "id", Scopes: []string{"a", "b"}, ClientSecretSet: true}
	if err != nil || !reflect.DeepEqual(s.Authentication, info) {
		t.Errorf("%+v %v, want %+v", s.Authentication, err, info)
	}
}
