"""Decides flags with optimizely-sdk and forwards every decision with the listener of docs/listeners, as optimizely-node.mjs."""

import argparse
import json
import logging
import sys

from optimizely import optimizely
from optimizely.helpers import enums
from optimizely.optimizely_user_context import OptimizelyUserContext

from aqueduct_listener import AqueductListener


class Dispatcher:
    """Sends nothing anywhere."""

    @staticmethod
    def dispatch_event(_event):
        pass


class Kept(logging.Handler):
    """Keeps what the listener complains of."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def main():
    parser = argparse.ArgumentParser()
    for name in ("--host", "--write-key", "--datafile", "--cases"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    kept = Kept()
    logging.getLogger("aqueduct").addHandler(kept)
    with open(options.datafile, encoding="utf-8") as file:
        client = optimizely.Optimizely(datafile=file.read(), event_dispatcher=Dispatcher)
    with open(options.cases, encoding="utf-8") as file:
        cases = json.load(file)
    aqueduct = AqueductListener(options.host, options.write_key, flush_s=0.02)
    client.notification_center.add_notification_listener(enums.NotificationTypes.DECISION, aqueduct)
    for case in cases:
        user = client.create_user_context(case["user"], case["attributes"])
        forced = case.get("forced")
        if forced:
            context = OptimizelyUserContext.OptimizelyDecisionContext(case["flag"], forced.get("rule"))
            decision = OptimizelyUserContext.OptimizelyForcedDecision(forced["variation"])
            user.set_forced_decision(context, decision)
        user.decide(case["flag"])
    aqueduct.flush()
    aqueduct.close()
    print(json.dumps({"sent": len(cases), "errors": kept.lines}))
    return 0 if not kept.lines else 1


if __name__ == "__main__":
    sys.exit(main())
