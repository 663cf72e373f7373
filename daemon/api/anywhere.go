package api

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// anywhere reads members each of which may be in the query, in a form, or in a JSON object.
type anywhere struct {
	*fields            // of the body
	values  url.Values // of the query and of a form
}

// readAnywhere reads the body, if there is one. Known are the members that the endpoint knows in the query.
func (c *call) readAnywhere(fs *faults) (anywhere, error) {
	in := anywhere{nothing(fs), c.r.URL.Query()}
	t, err := c.readSome(typeJSON, typeForm, typeMultipart)
	if t == "" || err != nil {
		return in, err
	}
	if t == typeJSON {
		n, err := c.parse()
		if err != nil {
			return in, err
		}
		in.fields = object(n, "", fs)
		return in, nil
	}
	form, err := c.readForm(t)
	if err != nil {
		return in, err
	}
	checkValues(form, c.endpoint.query, "", fs)
	for _, name := range slices.Sorted(maps.Keys(form)) {
		if in.values.Has(name) {
			fs.add(name, "is in the query and in the body; give it once")
		}
		in.values[name] = form[name]
	}
	return in, nil
}

// text takes a member that is text everywhere.
func (in anywhere) text(name string) (string, bool) {
	s, is := in.fields.text(name)
	if in.hasValue(name, is) {
		return in.values.Get(name), true
	}
	return s, is == given
}

// moment takes a time.
func (in anywhere) moment(name string) time.Time {
	t, is := in.fields.moment(name)
	if !in.hasValue(name, is) {
		return t
	}
	t, err := parseTime(in.values.Get(name))
	if err != nil {
		in.fault(name, "%s", err.Error())
	}
	return t
}

// rate takes a number a second, 0 when there is none.
func (in anywhere) rate(name string) float64 {
	v, is := in.number(name, minRate, maxRate)
	if !in.hasValue(name, is) {
		return v
	}
	v, err := parseNumber(in.values.Get(name), minRate, maxRate)
	if err != nil {
		in.fault(name, "%s", err.Error())
	}
	return v
}

// flag takes true or false.
func (in anywhere) flag(name string) bool {
	v, is := in.boolean(name)
	if !in.hasValue(name, is) {
		return v
	}
	s := in.values.Get(name)
	if s != strconv.FormatBool(true) && s != strconv.FormatBool(false) {
		in.fault(name, "must be true or false")
	}
	return s == strconv.FormatBool(true)
}

// hasValue says whether the query or a form has the member, which a JSON object must not have then.
func (in anywhere) hasValue(name string, is presence) bool {
	if !in.values.Has(name) {
		return false
	}
	if is != absent {
		in.fault(name, "is in the query and in the body; give it once")
	}
	return true
}
