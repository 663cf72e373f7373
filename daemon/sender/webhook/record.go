package webhook

import (
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"herald/queue"
	"herald/store"
)

const typeJSON = "application/json"

// encode is the body of a push, in the form its subscription asks for.
func encode(sub *store.Subscription, p *queue.Push) ([]byte, *problem) {
	switch {
	case sub.ExportFormat == typeXML:
		return recordXML(sub, p)
	case sub.Payload == store.PayloadCloudEvents:
		return cloudEvents(sub, p), nil
	default:
		return record(sub, p), nil
	}
}

// record is the body of a push: the one record of a subscription that takes records one by one, else
// all of them with their number. Data goes out byte for byte; a body that is nothing but data is the
// event's own memory and must not be changed.
func record(sub *store.Subscription, p *queue.Push) []byte {
	bare := sub.Payload == store.PayloadData
	if !several(sub, p) {
		if bare {
			return p.Events[0].Data
		}
		e := p.Events[0]
		return appendEnvelope(make([]byte, 0, envelopeSize(e)), e)
	}
	size := 64
	for _, e := range p.Events {
		size += envelopeSize(e) + 1
	}
	b := append(make([]byte, 0, size), `{"numberOfRecords":`...)
	b = strconv.AppendInt(b, int64(len(p.Events)), 10)
	b = append(b, `,"records":[`...)
	for i, e := range p.Events {
		if i > 0 {
			b = append(b, ',')
		}
		if bare {
			b = append(b, e.Data...)
		} else {
			b = appendEnvelope(b, e)
		}
	}
	return append(b, "]}"...)
}

// envelopeSize is room enough for an envelope whose texts need no escapes.
func envelopeSize(e *queue.Event) int {
	return len(`{"id":"","type":"","resource":"","time":"","accountId":"","data":}`) +
		len(e.ID) + len(e.Type) + len(e.Resource) + len(time.RFC3339Nano) + len(e.AccountID) + len(e.Data)
}

func appendEnvelope(b []byte, e *queue.Event) []byte {
	b = appendText(append(b, `{"id":`...), e.ID)
	b = appendText(append(b, `,"type":`...), e.Type)
	if e.Resource != "" {
		b = appendText(append(b, `,"resource":`...), e.Resource)
	}
	b = e.Time.UTC().AppendFormat(append(b, `,"time":"`...), time.RFC3339Nano)
	b = appendText(append(b, `","accountId":`...), e.AccountID)
	b = append(append(b, `,"data":`...), e.Data...)
	return append(b, '}')
}

// appendText appends s as a JSON string. Bytes that are not UTF-8 become U+FFFD.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			// The error only says that there were such bytes; the text is whole all the same.
			b, _ = jsontext.AppendQuote(b, s)
			return b
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
