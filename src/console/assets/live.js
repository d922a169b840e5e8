// The live page: adds accepted events to the table as they come. Without it the page shows the newest by reloading.

const box = document.getElementById('live');
if (box?.dataset.stream) listen(box);

function listen(box) {
  const rows = document.getElementById('rows');
  const state = document.getElementById('live-state');
  const pause = document.getElementById('live-pause');
  const note = document.getElementById('live-note');
  const nothing = document.getElementById('nothing');
  const sources = new Map([...document.querySelectorAll('#f-source option')].map((one) => [one.value, one.textContent]));
  const rowsMax = 500;
  let waiting = [];
  let paused = false;
  let newest = box.dataset.newest === '' ? -1 : Number(box.dataset.newest);
  box.hidden = false;

  const element = (name, ...children) => {
    const made = document.createElement(name);
    made.append(...children);
    return made;
  };

  const row = (event) => {
    const time = element('time', event.accepted_at.slice(11, -1));
    time.dateTime = event.accepted_at;
    const link = element('a', time);
    link.href = `/events/${encodeURIComponent(event.message_id)}`;
    const raw = element('pre', element('code', JSON.stringify(event.event, null, 2)));
    raw.tabIndex = 0;
    const made = element('tr',
      element('td', link), element('td', event.type), element('td', event.name ?? '–'),
      element('td', event.user_id ?? event.anonymous_id ?? '–'),
      element('td', sources.get(event.source) ?? event.source),
      element('td', element('details', element('summary', 'JSON'), raw)));
    made.className = 'fresh';
    return made;
  };

  const add = (events) => {
    rows.prepend(...events.map(row).reverse());
    while (rows.childElementCount > rowsMax) rows.lastElementChild.remove();
    nothing.hidden = true;
  };

  const say = () => {
    note.textContent = paused && waiting.length > 0 ? `${waiting.length} more since` : '';
  };

  const last = newest < 0 ? '100' : '20';
  const stream = new EventSource(`${box.dataset.stream}${box.dataset.stream.includes('?') ? '&' : '?'}last=${last}`);
  stream.addEventListener('open', () => { state.textContent = 'live'; state.className = 'pill good'; });
  stream.addEventListener('error', () => {
    state.textContent = stream.readyState === EventSource.CLOSED ? 'ended: reload to go on' : 'connecting again';
    state.className = 'pill warn';
  });
  // Amounts are shown as they were posted: a number that would change its look keeps its own text, where the browser can.
  const exact = (key, value, context) => (typeof value === 'number' && context?.source && JSON.rawJSON
    && String(value) !== context.source ? JSON.rawJSON(context.source) : value);
  stream.addEventListener('accepted', (message) => {
    const event = JSON.parse(message.data, exact);
    // The page already holds the events up to here.
    if (Number(event.seq) <= newest) return;
    newest = Number(event.seq);
    if (!paused) { add([event]); return; }
    waiting.push(event);
    if (waiting.length > rowsMax) waiting.shift();
    say();
  });
  stream.addEventListener('passed', (message) => {
    note.textContent = `${JSON.parse(message.data).events} passed over: too many to show. Filter, or see the ledger for all.`;
  });
  pause.addEventListener('click', () => {
    paused = !paused;
    pause.textContent = paused ? 'Go on' : 'Pause';
    pause.setAttribute('aria-pressed', String(paused));
    if (!paused) { add(waiting); waiting = []; }
    say();
  });
}
