package queue

import (
	"encoding/base32"
	"encoding/binary"
	"errors"
	"strings"
)

// DeliveryID names one delivery: the position of its event in the queue and its lane. It is comparable
// and usable as a map key; the zero value names none.
type DeliveryID struct {
	// Seq is the engine's number of the event, from 1, ascending in the order of acceptance.
	Seq  uint64
	Lane Lane
}

const deliveryPrefix = "dlv_"

// idEncoding keeps the byte order in its text, so that ids sort by age.
var idEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

// String returns "dlv_" and 39 lower-case letters and digits.
func (id DeliveryID) String() string {
	var b [24]byte
	binary.BigEndian.PutUint64(b[:8], id.Seq)
	copy(b[8:], id.Lane[:])
	return deliveryPrefix + strings.ToLower(idEncoding.EncodeToString(b[:]))
}

// IsZero says whether id names no delivery.
func (id DeliveryID) IsZero() bool { return id == DeliveryID{} }

// ParseDeliveryID reads what String wrote, in exactly that form.
func ParseDeliveryID(s string) (DeliveryID, error) {
	var id DeliveryID
	text, ok := strings.CutPrefix(s, deliveryPrefix)
	b, err := idEncoding.DecodeString(strings.ToUpper(text))
	if !ok || err != nil || len(b) != 24 {
		return id, errors.New("not a delivery id (dlv_ and 39 letters and digits)")
	}
	id.Seq = binary.BigEndian.Uint64(b)
	copy(id.Lane[:], b[8:])
	if id.String() != s {
		return DeliveryID{}, errors.New("not a delivery id (dlv_ and 39 letters and digits)")
	}
	return id, nil
}
