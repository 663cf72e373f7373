package bench

import "bytes"

// record is one event of a push of several, as it stands in the body.
type record struct {
	id   []byte
	data []byte
	seq  int64
}

// eachRecord reads the body of a push of several records, {"numberOfRecords":n,"records":[…]}, and hands
// the events over in their order. It returns the number the body announces (-1 when it does not) and how many
// records it holds; ok is false when the body is not of this form or holds something that is no event of the benchmark,
// and then the events before that place have been handed over. Each payload is size bytes long and is
// stepped over, not read, and nothing is allocated, so that a hundred records cost the receiver little more than
// one.
func eachRecord(body []byte, size int, take func(record)) (announced int64, found int, ok bool) {
	s := scanner{b: body}
	announced = -1
	ok = s.members(func(name []byte) bool {
		switch string(name) {
		case "numberOfRecords":
			n, ok := s.number()
			announced = n
			return ok
		case "records":
			return s.elements(func() bool {
				r, ok := s.record(size)
				if ok {
					found++
					take(r)
				}
				return ok
			})
		}
		return s.skip()
	})
	s.blanks()
	return announced, found, ok && s.at == len(s.b)
}

// scanner walks over JSON that is known to be an event of the benchmark, or is refused: it reads objects,
// arrays, texts and numbers, and no value that could hide another of those.
type scanner struct {
	b  []byte
	at int
}

func (s *scanner) blanks() {
	for s.at < len(s.b) && (s.b[s.at] == ' ' || s.b[s.at] == '\n' || s.b[s.at] == '\r' || s.b[s.at] == '\t') {
		s.at++
	}
}

// is steps over a byte, and the blanks before it, if it comes next.
func (s *scanner) is(c byte) bool {
	s.blanks()
	if s.at >= len(s.b) || s.b[s.at] != c {
		return false
	}
	s.at++
	return true
}

// members reads an object; each is called at each value with its name.
func (s *scanner) members(each func(name []byte) bool) bool {
	if !s.is('{') {
		return false
	}
	if s.is('}') {
		return true
	}
	for {
		name, ok := s.text()
		if !ok || !s.is(':') || !each(name) {
			return false
		}
		if !s.is(',') {
			return s.is('}')
		}
	}
}

// elements reads an array; each is called at each value.
func (s *scanner) elements(each func() bool) bool {
	if !s.is('[') {
		return false
	}
	if s.is(']') {
		return true
	}
	for {
		if !each() {
			return false
		}
		if !s.is(',') {
			return s.is(']')
		}
	}
}

// text reads a text without escapes.
func (s *scanner) text() ([]byte, bool) {
	if !s.is('"') {
		return nil, false
	}
	n := bytes.IndexByte(s.b[s.at:], '"')
	if n < 0 {
		return nil, false
	}
	t := s.b[s.at : s.at+n]
	s.at += n + 1
	return t, bytes.IndexByte(t, '\\') < 0
}

// number reads a number without sign, fraction and exponent, of at most 15 digits.
func (s *scanner) number() (int64, bool) {
	s.blanks()
	begin := s.at
	for s.at < len(s.b) && s.b[s.at] >= '0' && s.b[s.at] <= '9' {
		s.at++
	}
	n, err := parseLength(s.b[begin:s.at])
	return n, err == nil
}

// skip steps over a text, a number, or null, true and false.
func (s *scanner) skip() bool {
	s.blanks()
	if s.at < len(s.b) && s.b[s.at] == '"' {
		_, ok := s.text()
		return ok
	}
	begin := s.at
	for s.at < len(s.b) && bytes.IndexByte([]byte("{}[],: \t\r\n\""), s.b[s.at]) < 0 {
		s.at++
	}
	return s.at > begin
}

// record reads the envelope of an event; its payload has so many bytes.
func (s *scanner) record(size int) (r record, ok bool) {
	ok = s.members(func(name []byte) bool {
		switch string(name) {
		case "id":
			id, ok := s.text()
			r.id = id
			return ok
		case "data":
			s.blanks()
			if len(s.b)-s.at < size {
				return false
			}
			r.data = s.b[s.at : s.at+size]
			s.at += size
			seq, ok := sequenceOf(r.data)
			r.seq = seq
			return ok
		}
		return s.skip()
	})
	return r, ok && len(r.id) > 0 && r.data != nil
}

// sequenceOf returns the sequence number of a payload, whose frame has to be as buildData makes it.
func sequenceOf(data []byte) (int64, bool) {
	if len(data) < minSize || data[0] != '{' || data[len(data)-1] != '}' || !bytes.HasPrefix(data[1:], []byte(sequenceName)) {
		return 0, false
	}
	return findSequence(data)
}
