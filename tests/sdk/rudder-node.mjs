// Drives @rudderstack/rudder-sdk-node, gzip on as by default (--plain turns it off). See common.mjs.

import { randomUUID } from 'node:crypto';
import RudderAnalytics from '@rudderstack/rudder-sdk-node';
import { Report, call, options, pause } from './common.mjs';

const { host, writeKey, count, pauseFile, plain } = options();
const report = new Report('@rudderstack/rudder-sdk-node');
const rudder = new RudderAnalytics(writeKey, {
  dataPlaneUrl: host,
  flushAt: 15,
  flushInterval: 200,
  gzip: !plain,
  // Its default of 3 retries gives up after 1.4 s, sooner than a process can be stopped and started.
  retryCount: 8,
  errorHandler: (error) => report.error(error),
});
// Each try that fails is logged as an error although a later one succeeds: only the error handler counts.
rudder.logger.error = () => {};

const send = (from, to) =>
  Promise.all(
    Array.from({ length: to - from }, (_, n) => {
      const made = call(from + n);
      report.note(from + n, made);
      const [method, argument] = made;
      // The SDK does not tell the id it would make.
      const messageId = randomUUID();
      return new Promise((resolve) => {
        rudder[method]({ ...argument, messageId }, (error) => {
          if (error) report.error(error);
          else report.delivered(messageId);
          resolve();
        });
      });
    }),
  );

const half = Math.ceil(count / 2);
await send(0, half);
await pause(pauseFile);
await send(half, count);
await rudder.flush();
report.finish(count);
