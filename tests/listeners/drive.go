// Decides flags with the Optimizely Go SDK and forwards every decision with the listener of docs/listeners.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/optimizely/go-sdk/v2/pkg/client"
	"github.com/optimizely/go-sdk/v2/pkg/decision"
	"github.com/optimizely/go-sdk/v2/pkg/event"

	"drive/aqueduct"
)

type silent struct{}

func (silent) DispatchEvent(event.LogEvent) (bool, error) { return true, nil }

type oneCase struct {
	User       string
	Attributes map[string]any
	Flag       string
	Forced     *struct{ Rule, Variation string }
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	host, key := flag.String("host", "", ""), flag.String("write-key", "", "")
	datafile, casesFile := flag.String("datafile", "", ""), flag.String("cases", "", "")
	flag.Parse()
	text, err := os.ReadFile(*datafile)
	check(err)
	read, err := os.ReadFile(*casesFile)
	check(err)
	var cases []oneCase
	check(json.Unmarshal(read, &cases))
	factory := client.OptimizelyFactory{Datafile: text}
	optimizely, err := factory.Client(client.WithEventDispatcher(silent{}))
	check(err)
	listener := aqueduct.New(*host, *key)
	_, err = optimizely.DecisionService.OnDecision(listener.Accept)
	check(err)
	for _, one := range cases {
		user := optimizely.CreateUserContext(one.User, one.Attributes)
		if one.Forced != nil {
			context := decision.OptimizelyDecisionContext{FlagKey: one.Flag, RuleKey: one.Forced.Rule}
			user.SetForcedDecision(context, decision.OptimizelyForcedDecision{VariationKey: one.Forced.Variation})
		}
		user.Decide(one.Flag, nil)
	}
	listener.Close(30 * time.Second)
	fmt.Printf("{\"sent\":%d}\n", len(cases))
}
