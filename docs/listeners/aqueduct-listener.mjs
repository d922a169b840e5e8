// Forwards every flag decision of the Optimizely JavaScript SDK (5 and 6; Node 18+ and browsers) to aqueduct.
//
//   const aqueduct = aqueductListener({ url: 'https://events.example.org', writeKey: '…' });
//   optimizely.notificationCenter.addNotificationListener(NOTIFICATION_TYPES.DECISION, aqueduct.listener);
//   …
//   await aqueduct.close();          // before the process ends
//
// Add it before the first decide(): the SDK tells no earlier decisions. Nothing here throws into or waits in decide().

const BATCH_EVENTS = 100;
const BATCH_BYTES = 400_000; // a request may have 500 KB
const EVENT_BYTES = 30_000; // an event may have 32 KB

export function aqueductListener({ url, writeKey, flushMs = 500, queueMax = 10_000, onError = console.error }) {
  const queue = [];
  let timer;
  let sending;

  function listener(notification) {
    try {
      if (notification.type !== 'flag') return; // older calls report other types, which name no flag rule
      // The id makes a repeated post harmless; the time is that of the decision, not of the post.
      const event = { messageId: crypto.randomUUID(), timestamp: new Date().toISOString(), ...notification };
      let text = JSON.stringify(event);
      if (text.length > EVENT_BYTES) {
        // Variables and reasons can be long; what was decided is not.
        event.decisionInfo = { ...event.decisionInfo, variables: undefined, reasons: undefined };
        text = JSON.stringify(event);
      }
      if (queue.length >= queueMax) return onError(new Error('aqueduct: the queue is full, a decision was dropped'));
      queue.push(text);
      if (queue.length >= BATCH_EVENTS) void flush();
      else if (!timer) {
        timer = setTimeout(flush, flushMs);
        timer.unref?.();
      }
    } catch (error) {
      onError(error);
    }
  }

  async function post(events) {
    for (let tries = 0; ; tries += 1) {
      let wait = Math.random() * Math.min(30_000, 250 * 2 ** tries);
      try {
        const answer = await fetch(`${url}/v1/decision`, {
          method: 'POST',
          headers: { authorization: `Bearer ${writeKey}`, 'content-type': 'application/json' },
          body: `{"batch":[${events.join(',')}]}`,
        });
        if (answer.ok) {
          for (const refused of (await answer.json()).rejected) onError(new Error(`aqueduct: ${refused.code}: ${refused.message}`));
          return;
        }
        if (answer.status !== 429 && answer.status !== 408 && answer.status < 500) {
          onError(new Error(`aqueduct: ${answer.status} ${await answer.text()}`));
          return; // a wrong key or a wrong body does not get better
        }
        wait = Math.max(wait, 1_000 * (Number(answer.headers.get('retry-after')) || 0));
      } catch (error) {
        if (tries === 0) onError(error);
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }

  async function drain() {
    while (queue.length > 0) {
      let count = 0;
      for (let bytes = 0; count < queue.length && count < BATCH_EVENTS; count += 1) {
        bytes += 3 * queue[count].length; // at most three bytes of UTF-8 for each unit of a text
        if (count > 0 && bytes > BATCH_BYTES) break;
      }
      await post(queue.slice(0, count));
      queue.splice(0, count);
    }
  }

  /** Resolves once everything told so far is durable. */
  function flush() {
    clearTimeout(timer);
    timer = undefined;
    sending ??= drain().finally(() => {
      sending = undefined;
    });
    return sending;
  }

  return { listener, flush, close: flush };
}
