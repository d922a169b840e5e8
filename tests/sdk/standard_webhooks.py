"""Verifies one notice with the official package: JSON {secret, headers, body} on stdin; prints what it read.

The lines between the marks stand in docs/alerts.md as they are.
"""

import json
import sys

# receiver
from standardwebhooks.webhooks import Webhook


def read(secret, headers, body):
    return Webhook(secret).verify(body, headers)  # raises when it is not from the gateway, or older than 5 minutes
# receiver end


given = json.load(sys.stdin)
print(json.dumps(read(given["secret"], given["headers"], given["body"])))
