"""Drives segment-analytics-python. Same arguments, events and report as the Node drivers (common.mjs)."""

import argparse
import json
import os
import sys
import time

from segment.analytics.client import Client

PAUSE_MAX_S = 60


def hundredths(i):
    return 1 + (i * 3719) % 999_999


def call(i):
    """The i-th call: method, positional and keyword arguments."""
    user = f"user-{i % 17}"
    order = {
        "order_id": f"O-{i}",
        "total": hundredths(i) / 100,
        "currency": "GBP",
        "products": [{"sku": "a", "quantity": 2}],
    }
    calls = [
        ("track", {"user_id": user, "event": "Order Completed", "properties": order}),
        ("track", {"user_id": user, "event": "signup", "properties": {"plan": "prémium ✓"}}),
        ("identify", {"user_id": user, "traits": {"plan": "premium"}}),
        ("page", {"user_id": user, "name": "Checkout", "properties": {"path": "/checkout"}}),
        ("group", {"user_id": user, "group_id": f"company-{i % 3}", "traits": {"seats": 12}}),
        ("track", {"anonymous_id": f"anon-{i % 5}", "event": "Product Added", "properties": {"price": 9.99}}),
    ]
    return calls[i % len(calls)]


def pause(path):
    if not path:
        return
    with open(path, "w", encoding="ascii") as file:
        file.write("half")
    until = time.monotonic() + PAUSE_MAX_S
    while os.path.exists(path):
        if time.monotonic() > until:
            raise TimeoutError(f"nobody removed {path}")
        time.sleep(0.02)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--write-key", required=True)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--pause-file")
    parser.add_argument("--plain", action="store_true", help="no gzip")
    options = parser.parse_args()

    report = {
        "sdk": "segment-analytics-python",
        "sent": 0,
        "flushed": False,
        "errors": [],
        "message_ids": [],
        "orders": 0,
        "revenue_hundredths": 0,
    }
    dropped = 0

    def on_error(error, batch):
        nonlocal dropped
        dropped += len(batch)
        report["errors"].append(str(error))

    client = Client(
        options.write_key,
        host=options.host,
        on_error=on_error,
        gzip=not options.plain,
        upload_size=15,
        upload_interval=0.2,
    )

    def send(first, end):
        for i in range(first, end):
            method, arguments = call(i)
            taken, message = getattr(client, method)(**arguments)
            if not taken:
                report["errors"].append(f"event {i} was not taken")
                continue
            report["sent"] += 1
            report["message_ids"].append(message["messageId"])
            if arguments.get("event") == "Order Completed":
                report["orders"] += 1
                report["revenue_hundredths"] += hundredths(i)

    half = -(-options.count // 2)
    send(0, half)
    client.flush()
    pause(options.pause_file)
    send(half, options.count)
    client.shutdown()
    report["flushed"] = dropped == 0 and len(set(report["message_ids"])) == options.count
    print(json.dumps(report))
    return 0 if report["flushed"] and not report["errors"] else 1


if __name__ == "__main__":
    sys.exit(main())
