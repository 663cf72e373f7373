package webhook

import (
	"bytes"
	"time"

	"herald/queue"
	"herald/store"
)

// The media types of the JSON event format and of its batches (CloudEvents 1.0.2, JSON Event Format, sections 3 and 4).
const (
	typeCloudEvent  = "application/cloudevents+json"
	typeCloudEvents = "application/cloudevents-batch+json"
)

// cloudEvents is the body of a push in the JSON event format: one event, or an array of them for a subscription that takes several.
func cloudEvents(sub *store.Subscription, p *queue.Push) []byte {
	size := 2
	for _, e := range p.Events {
		size += cloudEventSize(e) + 1
	}
	b := make([]byte, 0, size)
	if !several(sub, p) {
		return appendCloudEvent(b, p.Events[0])
	}
	b = append(b, '[')
	for i, e := range p.Events {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendCloudEvent(b, e)
	}
	return append(b, ']')
}

// cloudEventSize is room enough for an event whose texts need no escapes.
func cloudEventSize(e *queue.Event) int {
	n := len(`{"specversion":"1.0","type":"","time":"","id":"","source":"urn:herald:","subject":"","datacontenttype":"application/json","data":}`) +
		len(e.Type) + len(time.RFC3339Nano) + len(e.ID) + len(e.AccountID) + len(e.Resource) + len(e.Attributes) + len(e.Data)
	if e.Trace != nil {
		n += len(`,"traceparent":"","tracestate":""`) + len(e.Trace.Parent) + len(e.Trace.State)
	}
	return n
}

// appendCloudEvent appends the event. One that was published as a CloudEvent has the attributes it came with; any other
// gets an id and a source that together belong to it alone: the source is the account. An event whose publisher gave it no
// traceparent, but sent it in a trace, gets that as the extension: it is the trace the event started in, which middleware may add (CloudEvents,
// extensions/distributed-tracing), and in a batch the only way to say it of each event. One with a
// tracestate alone gets nothing: that belongs to another traceparent, beside which it would say what nobody published.
func appendCloudEvent(b []byte, e *queue.Event) []byte {
	b = appendText(append(b, `{"specversion":"1.0","type":`...), e.Type)
	b = e.Time.UTC().AppendFormat(append(b, `,"time":"`...), time.RFC3339Nano)
	b = append(b, `",`...)
	if len(e.Attributes) > len("{}") {
		b = append(b, e.Attributes[1:len(e.Attributes)-1]...)
	} else {
		b = appendText(append(b, `"id":`...), e.ID)
		b = appendText(append(b, `,"source":`...), "urn:herald:"+e.AccountID)
		if e.Resource != "" {
			b = appendText(append(b, `,"subject":`...), e.Resource)
		}
		b = append(b, `,"datacontenttype":"application/json"`...)
	}
	if e.Trace != nil && !bytes.Contains(e.Attributes, []byte(`"traceparent":`)) && !bytes.Contains(e.Attributes, []byte(`"tracestate":`)) {
		b = appendText(append(b, `,"traceparent":`...), e.Trace.Parent)
		if e.Trace.State != "" {
			b = appendText(append(b, `,"tracestate":`...), e.Trace.State)
		}
	}
	b = append(append(b, `,"data":`...), e.Data...)
	return append(b, '}')
}

// several tells whether the body has the form of many records: always where a subscription takes more than one.
func several(sub *store.Subscription, p *queue.Push) bool {
	return sub.NumberOfRecords > 1 || len(p.Events) != 1
}

// contentType is the media type of the body of a push.
func contentType(sub *store.Subscription) (string, *problem) {
	switch cloud := sub.Payload == store.PayloadCloudEvents; {
	case sub.ExportFormat == typeJSON && !cloud:
		return typeJSON, nil
	case sub.ExportFormat == typeJSON && sub.NumberOfRecords > 1:
		return typeCloudEvents, nil
	case sub.ExportFormat == typeJSON:
		return typeCloudEvent, nil
	case sub.ExportFormat == typeXML && !cloud:
		return typeXML, nil
	case sub.ExportFormat == typeXML:
		return "", misconfigured("the payload of the subscription is cloudevents, which has no form in application/xml")
	default:
		return "", misconfigured("the export format of the subscription is not one that can be sent: application/json and application/xml are")
	}
}
