package config

import "reflect"

// unavailable lists the keys whose feature this version does not have, with what it does instead. They
// are read and judged like any other, but a value other than the default is refused: accepting it in
// silence would promise what does not happen. A feature that arrives deletes its line.
func unavailable() map[string]string {
	const endpoints = "does not send to devices"
	return map[string]string{
		"providers.fcm.url":     endpoints,
		"providers.apns.url":    endpoints,
		"providers.webpush.url": endpoints,
	}
}

func refuseUnavailable(c *Config, d *decoder) {
	standard := Default()
	value, def := reflect.ValueOf(c).Elem(), reflect.ValueOf(&standard).Elem()
	missing := unavailable()
	for _, k := range keys() {
		what, ok := missing[k.path]
		if !ok || d.bad[k.path] || same(value.FieldByIndex(k.index), def.FieldByIndex(k.index)) {
			continue
		}
		d.refuse(k.path, "this version "+what+" yet; remove the line to keep the default")
	}
}
