package fcm

import (
	"time"

	"herald/daemon/sender"
)

// complainEvery is how often the operator is told of a lasting want.
const complainEvery = time.Minute

// describe puts an error of the transport into words for the owner of the app, and tells the operator of what only he can mend.
func (s *Sender) describe(err error, who, host string, took time.Duration) string {
	if sender.Exhausted(err) {
		s.complain()
	}
	return sender.Describe(err, who, host, took)
}

func (s *Sender) complain() {
	now := time.Now().UnixNano()
	last := s.complained.Load()
	if (last == 0 || now-last >= int64(complainEvery)) && s.complained.CompareAndSwap(last, now) {
		s.log.Error("no file descriptors or ports left for connections")
	}
}
