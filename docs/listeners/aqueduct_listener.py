"""Forwards every flag decision of the Optimizely Python SDK to aqueduct. Standard library only.

    aqueduct = AqueductListener("https://events.example.org", "WRITE_KEY")
    client.notification_center.add_notification_listener(enums.NotificationTypes.DECISION, aqueduct)
    …
    aqueduct.close()          # before the process ends; also done by itself at exit

Add it before the first decide(): the SDK tells no earlier decisions. Nothing here raises into or waits in decide().
"""

import atexit
import json
import logging
import queue
import random
import threading
import time
import urllib.error
import urllib.request
import uuid
from datetime import datetime, timezone

BATCH_EVENTS = 100
BATCH_BYTES = 400_000  # a request may have 500 KB
EVENT_BYTES = 30_000  # an event may have 32 KB

log = logging.getLogger("aqueduct")


class AqueductListener:
    """Called with the SDK's four arguments; posts from a thread of its own."""

    def __init__(self, url, write_key, flush_s=0.5, queue_max=10_000, timeout_s=10):
        self._url = f"{url}/v1/decision"
        self._headers = {"authorization": f"Bearer {write_key}", "content-type": "application/json"}
        self._flush_s = flush_s
        self._timeout_s = timeout_s
        self._queue = queue.Queue(queue_max)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aqueduct", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def __call__(self, decision_type, user_id, attributes, decision_info):
        try:
            if decision_type != "flag":
                return  # older calls report other types, which name no flag rule
            # The id makes a repeated post harmless; the time is that of the decision, not of the post.
            event = {
                "messageId": str(uuid.uuid4()),
                "timestamp": datetime.now(timezone.utc).isoformat(),
                "type": decision_type,
                "user_id": user_id,
                "attributes": attributes,
                "decision_info": decision_info,
            }
            text = json.dumps(event, default=str, allow_nan=False).encode()
            if len(text) > EVENT_BYTES:
                # Variables and reasons can be long; what was decided is not.
                event["decision_info"] = {**decision_info, "variables": None, "reasons": None}
                text = json.dumps(event, default=str, allow_nan=False).encode()
            self._queue.put_nowait(text)
        except queue.Full:
            log.error("the queue is full, a decision was dropped")
        except Exception:
            log.exception("a decision could not be forwarded")

    def flush(self):
        """Returns once everything told so far is durable."""
        self._queue.join()

    def close(self, wait_s=30):
        """Flushes and ends the thread, within a time."""
        self._closing.set()
        self._thread.join(wait_s)

    def _run(self):
        left = None
        while left is not None or not (self._closing.is_set() and self._queue.empty()):
            batch = [left] if left is not None else []
            left = None
            until = time.monotonic() + self._flush_s
            while len(batch) < BATCH_EVENTS:
                wait = 0 if self._closing.is_set() else until - time.monotonic()
                try:
                    event = self._queue.get(timeout=wait) if wait > 0 else self._queue.get_nowait()
                except queue.Empty:
                    break
                if batch and sum(map(len, batch)) + len(event) > BATCH_BYTES:
                    left = event
                    break
                batch.append(event)
            if batch:
                self._post(batch)
                for _ in batch:
                    self._queue.task_done()

    def _post(self, batch):
        body = b'{"batch":[' + b",".join(batch) + b"]}"
        tries = 0
        while True:
            wait = random.uniform(0, min(30, 0.25 * 2**tries))
            try:
                request = urllib.request.Request(self._url, body, self._headers, method="POST")
                with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                    for refused in json.load(answer)["rejected"]:
                        log.error("%s: %s", refused["code"], refused["message"])
                return
            except urllib.error.HTTPError as error:
                if error.code not in (408, 429) and error.code < 500:
                    log.error("%s %s", error.code, error.read().decode(errors="replace"))
                    return  # a wrong key or a wrong body does not get better
                retry_after = error.headers.get("retry-after", "")
                wait = max(wait, int(retry_after) if retry_after.isdigit() else 0)
            except (OSError, ValueError) as error:
                if tries == 0:
                    log.warning("not reached, trying again: %s", error)
            time.sleep(wait)
            tries = min(tries + 1, 10)
