// What the Node drivers share: arguments, the events they send, the pause in the middle, the report.
//
// A driver posts --count events with a stock SDK to --host under --write-key, then prints one JSON line
// {sdk, sent, flushed, errors, message_ids, orders, revenue_hundredths} and exits 1 when anything went wrong.
// With --pause-file PATH it makes that file once the first half is delivered and goes on when the file is gone,
// so that a test can restart the gateway: whatever is sent meanwhile the SDK has to carry over by itself.

import { existsSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

const PAUSE_MAX_MS = 60_000;

export function options() {
  const { values } = parseArgs({
    options: {
      host: { type: 'string' },
      'write-key': { type: 'string' },
      count: { type: 'string', default: '60' },
      'pause-file': { type: 'string' },
      plain: { type: 'boolean', default: false },
    },
  });
  if (!values.host || !values['write-key']) {
    console.error('usage: node DRIVER.mjs --host http://127.0.0.1:8080 --write-key KEY [--count N] [--pause-file PATH] [--plain]');
    process.exit(64);
  }
  return {
    host: values.host,
    writeKey: values['write-key'],
    count: Number.parseInt(values.count, 10),
    pauseFile: values['pause-file'],
    plain: values.plain,
  };
}

/** Hundredths of the amount of order `i`: every cent counts somewhere. */
export const hundredths = (i) => 1 + ((i * 3_719) % 999_999);

/** The i-th call: [method, argument]. */
export function call(i) {
  const userId = `user-${i % 17}`;
  const total = hundredths(i) / 100;
  const calls = [
    ['track', { userId, event: 'Order Completed', properties: { order_id: `O-${i}`, total, currency: 'GBP', products: [{ sku: 'a', quantity: 2 }] } }],
    ['track', { userId, event: 'signup', properties: { plan: 'prémium ✓' } }],
    ['identify', { userId, traits: { plan: 'premium', email: `${userId}@example.org` } }],
    ['page', { userId, name: 'Checkout', properties: { url: 'https://shop.example.org/checkout', path: '/checkout' } }],
    ['group', { userId, groupId: `company-${i % 3}`, traits: { seats: 12 } }],
    ['track', { anonymousId: `anon-${i % 5}`, event: 'Product Added', properties: { sku: 'a', price: 9.99 } }],
  ];
  return calls[i % calls.length];
}

export const isOrder = ([method, argument]) => method === 'track' && argument.event === 'Order Completed';

/** Tells the test that half is delivered and waits until it says go on. */
export async function pause(path) {
  if (!path) return;
  writeFileSync(path, 'half');
  const until = Date.now() + PAUSE_MAX_MS;
  while (existsSync(path)) {
    if (Date.now() > until) throw new Error(`nobody removed ${path}`);
    await sleep(20);
  }
}

/** Collects what happened; `finish` prints it and sets the exit code. */
export class Report {
  constructor(sdk) {
    this.line = { sdk, sent: 0, flushed: false, errors: [], message_ids: [], orders: 0, revenue_hundredths: 0 };
  }

  note(i, made) {
    this.line.sent += 1;
    if (isOrder(made)) {
      this.line.orders += 1;
      this.line.revenue_hundredths += hundredths(i);
    }
  }

  delivered(messageId) {
    this.line.message_ids.push(messageId);
  }

  error(error) {
    this.line.errors.push(String(error?.message ?? error));
  }

  finish(count) {
    const { sent, errors, message_ids: ids } = this.line;
    this.line.flushed = sent === count && new Set(ids).size === count;
    console.log(JSON.stringify(this.line));
    process.exitCode = this.line.flushed && errors.length === 0 ? 0 : 1;
  }
}
