// Package aqueduct forwards every flag decision of the Optimizely Go SDK to aqueduct.
//
//	listener := aqueduct.New("https://events.example.org", "WRITE_KEY")
//	client.DecisionService.OnDecision(listener.Accept)
//	…
//	listener.Close(30 * time.Second) // before the process ends
//
// Add it before the first Decide: the SDK tells no earlier decisions. Nothing here waits in Decide.
package aqueduct

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	mathrand "math/rand"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/optimizely/go-sdk/v2/pkg/notification"
)

const (
	batchEvents = 100
	batchBytes  = 400_000 // a request may have 500 KB
	eventBytes  = 30_000  // an event may have 32 KB
	flushAfter  = 200 * time.Millisecond
)

// Listener posts decisions from a goroutine of its own.
type Listener struct {
	url, writeKey string
	queue         chan []byte
	closing, done chan struct{}
	once          sync.Once
}

type event struct {
	MessageID string    `json:"messageId"`
	Timestamp time.Time `json:"timestamp"`
	notification.DecisionNotification
}

// New starts a listener.
func New(url, writeKey string) *Listener {
	l := &Listener{
		url: url + "/v1/decision", writeKey: writeKey,
		queue: make(chan []byte, 10_000), closing: make(chan struct{}), done: make(chan struct{}),
	}
	go l.run()
	return l
}

// Accept takes a decision; give it to OnDecision.
func (l *Listener) Accept(decision notification.DecisionNotification) {
	if decision.Type != notification.Flag {
		return // older calls report other types, which name no flag rule
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	// The id makes a repeated post harmless; the time is that of the decision, not of the post. Encoded at once: its maps
	// belong to the app.
	told := event{fmt.Sprintf("%x", id), time.Now().UTC(), decision}
	text, err := json.Marshal(told)
	if err == nil && len(text) > eventBytes {
		// Variables and reasons can be long; what was decided is not.
		told.DecisionInfo = maps.Clone(decision.DecisionInfo)
		delete(told.DecisionInfo, "variables")
		delete(told.DecisionInfo, "reasons")
		text, err = json.Marshal(told)
	}
	if err != nil {
		log.Printf("aqueduct: %v", err)
		return
	}
	select {
	case l.queue <- text:
	default:
		log.Print("aqueduct: the queue is full, a decision was dropped")
	}
}

// Close posts what is queued, within a time.
func (l *Listener) Close(within time.Duration) {
	l.once.Do(func() { close(l.closing) })
	select {
	case <-l.done:
	case <-time.After(within):
	}
}

// next is the next decision; none when the time is up, or when the listener closes and has no more.
func (l *Listener) next(until <-chan time.Time) []byte {
	select {
	case text := <-l.queue:
		return text
	default:
	}
	select {
	case text := <-l.queue:
		return text
	case <-until:
	case <-l.closing:
	}
	return nil
}

func (l *Listener) run() {
	defer close(l.done)
	var left []byte
	for {
		if left == nil {
			left = l.next(nil)
		}
		if left == nil {
			return
		}
		body := append([]byte(`{"batch":[`), left...)
		left = nil
		until := time.After(flushAfter)
		for count := 1; count < batchEvents; count++ {
			if left = l.next(until); left == nil || len(body)+len(left) > batchBytes {
				break
			}
			body = append(append(body, ','), left...)
			left = nil
		}
		l.post(append(body, "]}"...))
	}
}

func (l *Listener) post(body []byte) {
	client := http.Client{Timeout: 10 * time.Second}
	for tries := 0; ; tries++ {
		wait := time.Duration(mathrand.Int63n(int64(min(30*time.Second, 250*time.Millisecond<<min(tries, 7)))))
		request, err := http.NewRequest(http.MethodPost, l.url, bytes.NewReader(body))
		if err != nil {
			log.Printf("aqueduct: %v", err)
			return
		}
		request.Header.Set("Authorization", "Bearer "+l.writeKey)
		answer, err := client.Do(request)
		if err == nil {
			said, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
			_ = answer.Body.Close()
			if status := answer.StatusCode; status != 408 && status != 429 && status < 500 {
				if status != 200 || !bytes.Contains(said, []byte(`"rejected":[]`)) {
					log.Printf("aqueduct: %d %s", status, said)
				}
				return // a wrong key or a wrong body does not get better
			}
			after, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
			wait = max(wait, time.Duration(after)*time.Second)
		} else if tries == 0 {
			log.Printf("aqueduct: %v", err)
		}
		time.Sleep(wait)
	}
}
