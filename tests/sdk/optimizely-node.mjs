// Decides flags with @optimizely/optimizely-sdk 6 (or 5, with --sdk 5) and forwards every decision with the listener of
// docs/listeners. Prints {sent, errors}; --datafile is the datafile to decide by.

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { aqueductListener } from './aqueduct-listener.mjs';

const text = { type: 'string' };
const { values } = parseArgs({ options: { host: text, 'write-key': text, datafile: text, cases: text, sdk: { ...text, default: '6' } } });
const datafile = readFileSync(values.datafile, 'utf8');
const cases = JSON.parse(readFileSync(values.cases, 'utf8'));
const dispatcher = { dispatchEvent: (_, done) => (done ? done({ statusCode: 204 }) : Promise.resolve({ statusCode: 204 })) };

let optimizely;
let decision;
if (values.sdk === '5') {
  const sdk = (await import('optimizely-sdk-5')).default;
  optimizely = sdk.createInstance({ datafile, eventDispatcher: dispatcher, logLevel: 4 });
  decision = sdk.enums.NOTIFICATION_TYPES.DECISION;
} else {
  const sdk = await import('@optimizely/optimizely-sdk');
  optimizely = sdk.createInstance({
    projectConfigManager: sdk.createStaticProjectConfigManager({ datafile }),
    eventProcessor: sdk.createForwardingEventProcessor(dispatcher),
  });
  decision = sdk.NOTIFICATION_TYPES.DECISION;
}
await optimizely.onReady();

const errors = [];
const aqueduct = aqueductListener({
  url: values.host,
  writeKey: values['write-key'],
  flushMs: 20,
  onError: (error) => errors.push(String(error)),
});
optimizely.notificationCenter.addNotificationListener(decision, aqueduct.listener);
let sent = 0;
for (const { user, attributes, flag, forced } of cases) {
  const context = optimizely.createUserContext(user, attributes);
  if (forced) context.setForcedDecision({ flagKey: flag, ruleKey: forced.rule ?? undefined }, { variationKey: forced.variation });
  context.decide(flag);
  sent += 1;
}
await aqueduct.close();
console.log(JSON.stringify({ sent, errors }));
process.exit(errors.length === 0 ? 0 : 1);
