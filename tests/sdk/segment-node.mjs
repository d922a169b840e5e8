// Drives @segment/analytics-node. See common.mjs.

import { Analytics } from '@segment/analytics-node';
import { Report, call, options, pause } from './common.mjs';

const { host, writeKey, count, pauseFile } = options();
const report = new Report('@segment/analytics-node');
const analytics = new Analytics({ writeKey, host, flushAt: 15, flushInterval: 200 });
analytics.on('error', (error) => report.error(error.reason ?? error.code ?? error));

const send = (from, to) =>
  Promise.all(
    Array.from({ length: to - from }, (_, n) => {
      const made = call(from + n);
      report.note(from + n, made);
      const [method, argument] = made;
      return new Promise((resolve) => {
        analytics[method](argument, (error, context) => {
          if (error) report.error(error);
          else report.delivered(context.event.messageId);
          resolve();
        });
      });
    }),
  );

const half = Math.ceil(count / 2);
await send(0, half);
await pause(pauseFile);
await send(half, count);
await analytics.closeAndFlush({ timeout: 60_000 });
report.finish(count);
