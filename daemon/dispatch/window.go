package dispatch

import (
	"net/http"
	"time"

	"herald/queue"
)

// pace is how quickly a receiver answers: two moving averages of the time of its successes, in seconds, and
// how many there were since the window shrank for them.
type pace struct {
	short, long float32
	answers     int32
	// heard counts answers up to those that fill the long average, which is the plain mean until then.
	heard int32
}

const (
	// shortAnswers and longAnswers are how many answers the averages look back on, about.
	shortAnswers = 16
	longAnswers  = 512
	// paceSlack is how many seconds slower answers may become, beside doubling, before that says something.
	// Less than that is also what a push waits for a processor when the daemon's own machine is busy, and then
	// a smaller window would only cost throughput.
	paceSlack = 0.100
)

// slower takes the time of one more success, and says whether answers have become much slower than they
// were. A receiver that stays slow is no longer so after some hundred answers.
func (p *pace) slower(d time.Duration) bool {
	x := float32(d.Seconds())
	if p.heard < longAnswers {
		p.heard++
	}
	p.short += (x - p.short) / float32(min(p.heard, shortAnswers))
	p.long += (x - p.long) / float32(p.heard)
	p.answers++
	return p.short > 2*p.long+paceSlack
}

// learn adjusts the window by what a push came to, between 1 and limit. It opens by one with each success,
// and so doubles in the time of one answer. It is halved by each push that got no answer, or the answer that
// there are too many. While answers become slower it shrinks by a quarter with each round of them. A
// receiver that hangs soon holds one worker, while the rest of its deliveries wait at no cost. Other failures
// leave the window as it is: they come quickly.
func (l *lane) learn(out *queue.Outcome, limit int) {
	switch {
	case out.Class == queue.ClassDelivered && !l.pace.slower(out.Duration):
		l.window = min(l.window+1, limit)
	case out.Class == queue.ClassDelivered:
		if int(l.pace.answers) > l.window { // those that were under way when it shrank have been heard
			less := min(max(l.window-max(l.window/4, 1), 1), limit)
			l.pace.answers = int32(less - l.window) // a window is no larger than MaxWorkers
			l.window = less
		}
	case out.Status == 0, out.Status == http.StatusTooManyRequests, out.Status == http.StatusServiceUnavailable:
		l.window = max(min(l.window, limit)/2, 1)
	}
}
