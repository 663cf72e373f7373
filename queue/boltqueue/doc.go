// Package boltqueue is the queue engine that ships with Herald: queue.Queue on one bbolt file.
//
// It promises that what Accept returned survives any crash; that accepting costs the same however large the backlog
// is; that a lane's backlog, its idleness or its failures cost the others nothing; that memory stays bounded, also with
// millions of pending deliveries; and that the file opens in seconds after a crash.
//
// # How it works
//
// Events are kept in segments: runs of up to 8192 events, 32 MiB, about a million deliveries or one hour. A segment
// goes as a whole when it is over age. One goroutine writes; it puts the events of many callers into one block
// and commits outcomes together with them. Deliveries are not records: the block says which lanes get an event, and a
// bit in the segment's bitmap says that a delivery has left the first-attempt stage. Only one that did not arrive
// at its first attempt has a record of its own, its fate.
//
// In memory each lane has a window of its next first attempts and of its nearest retries; what is beyond is
// found again on disk from a cursor. Leases are in memory only. A lane with an order keeps, beside that, the keys something of
// which is leased or waits for its retry, and first attempts it has passed over because of them.
//
// A delivery that was accepted for a later time has left the first-attempt stage from the beginning: it is a retry that was not
// tried yet.
//
// A lane whose deliveries are given up gets the number of the newest event on its record: unset bits up to it say discarded, however
// many there are.
//
// # The file
//
// Integers in keys are big-endian; "uv" is an unsigned varint as in encoding/binary, "v" a signed one, "text" a uv
// length and that many bytes. Times are milliseconds since 1970 UTC unless said otherwise. Every value but bitmaps and empty
// ones begins with a version byte, now 1; bitmaps belong to the version of the file, which stands in the bucket format
// (package boltkit). Top-level buckets:
//
//	lane    number u32 -> version, flags (1: dropped, 2: given up, 4: retries still to be discarded), 16 bytes of id, and, when given
//	        up, uv the newest event then, and the reason (the rest). The bucket's sequence is the last number
//	        given; numbers are not used again.
//	ev      segment u64 -> bucket of blocks: first event u64 -> block. The sequence of ev is the number of
//	        the newest event. A segment's name is the number of its first event.
//	seg     segment u64 -> version, uv events, uv deliveries, uv bytes, uv first acceptance, uv last acceptance
//	        less the first. Written when the segment is sealed; without it the segment is open.
//	done    segment u64, chunk u32 -> 256 bytes: the bits of 2048 deliveries, the lowest bit of the first byte
//	        first. An absent chunk is all zero.
//	fate    event u64, lane u32 -> version, state (1 retrying, 2 delivered, 3 dead, 4 discarded), uv attempts, uv
//	        retries used, uv time (due, or of the end), reason (the rest). State 5 is retrying in a batch, with uv the first event of
//	        it in place of the reason, state 6 made due by hand and not tried since, with the reason it had died for, state 7
//	        accepted for a later time and not tried since. A set bit without a fate: delivered by its one attempt. An unset bit of a dropped lane, or
//	        of an event up to that at which its lane was given up: discarded.
//	        To the state are added 16 for one made due by a replay and tried since, 32 for one made due by a replay and not tried
//	        since, and 64 for one of an event that does not name the lane, and has no bit. With 32 the byte of the state
//	        before the replay, 0 for none, stands before the reason or the batch, with uv the time it was due for state 1,
//	        and the reason it had then behind it.
//	due     lane u32, time u64, event u64 -> empty, or 1 for one made due by a replay and not tried since: the order of a lane's
//	        retries; of a batch only the first stands in it.
//	batch   event u64, lane u32 -> version, uv count, and the other events of the batch that event begins, each as uv difference
//	        to the one before.
//	replay  lane u32, 16 bytes of id -> version, state (0 running, 1 done, 2 cancelled), 1 if only what failed is meant, text
//	        account, v since, v until, 8 bytes of the rate (IEEE 754), uv creation, uv end, uv acceptance of the last event looked
//	        at, uv deliveries, uv the newest event meant, uv the next event to be looked at.
//	died    lane u32, time u64, event u64 -> empty: the order in which a lane's deliveries died, and of all ends
//	        whose event's segment is gone.
//	att     segment u64 -> bucket of attempt blocks: commit u64 -> block. The inner sequence is the time of its last
//	        attempt, the outer one the last commit. Attempts of an event whose segment is gone are in the
//	        nearest bucket before it, or in one named after the event.
//	keep    event u64 -> an event whose segment is gone while a delivery of it has a fate: version, 1 if its id
//	        was the publisher's, 16 bytes of digest, text account, u64 acceptance, record.
//	keepid  hash (16 bytes) -> the kept event of that id, as in idem.
//	idem    time u64 -> bucket: hash -> version, uv event, 16 bytes of digest. The hash is the first half of the SHA-256 of
//	        account, a zero byte, and the id the publisher chose. The inner sequence is the newest event in it.
//	probe   what is written to find out whether the disk has room again.
//
// A block or attempt block of 2 KiB or more is not a value of its bucket but stands alone, under the key p, in a nested
// bucket of that name.
//
// Block: version, u32 length of the header, header, records. Header: uv acceptance, uv ordinal of the first
// delivery in the segment, uv count of accounts and each as text, uv count of target lists and each as uv count and uv
// differences of ascending lane numbers, uv count of events and for each uv account, uv list (0 for none, else its
// position from 1), uv length of its record. Ordinals go on through the events and their lists. Record: text id, text type,
// text resource, v seconds and uv nanoseconds of its time, and the data as the rest. To the nanoseconds are added 1e9 for an event
// with attributes, and 2e9 for one published in a trace; they follow: the attributes as text, traceparent and tracestate as text each.
//
// Attempt block: version, u32 length of the header, header, texts. Header: uv count, and for each attempt v difference of the
// event, uv lane, uv number, v difference of the start, uv duration in microseconds, a byte of class (0 none, 1 delivered, 2
// retry, 3 rejected, 4 gone, 5 misconfigured), uv status, uv lengths of error and response, or uv 513 when both are those of the
// attempt before. Texts: error and response of each, in order.
//
// An id the queue gives is "evt_" and, in lower-case base32hex, the event's number (8 bytes) and 8 random bytes.
package boltqueue
