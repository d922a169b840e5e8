// Verifies one notice with the official package: JSON {secret, headers, body} on stdin; prints what it read.
// The lines between the marks stand in docs/alerts.md as they are.
import { readFileSync } from 'node:fs';
// receiver
import { Webhook } from 'standardwebhooks';

export function read(secret, headers, body) {
  return new Webhook(secret).verify(body, headers); // throws when it is not from the gateway, or older than 5 minutes
}
// receiver end

const { secret, headers, body } = JSON.parse(readFileSync(0, 'utf8'));
console.log(JSON.stringify(read(secret, headers, body)));
