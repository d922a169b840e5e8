// What script adds to every page: copying, filling, the editor's line numbers and remarks, pages that refresh.
// Text from anywhere is only ever set as text, never as markup.

const csrf = document.querySelector('meta[name="csrf"]')?.content ?? '';

for (const button of document.querySelectorAll('[data-copy]')) {
  button.addEventListener('click', async () => {
    const field = document.getElementById(button.dataset.copy);
    field.select();
    try {
      await navigator.clipboard.writeText(field.value);
      button.textContent = 'Copied';
    } catch {
      button.textContent = 'Press Ctrl+C';
    }
  });
}

for (const choice of document.querySelectorAll('[data-fill]')) {
  choice.addEventListener('change', () => {
    if (!choice.value) return;
    const field = document.getElementById(choice.dataset.fill);
    field.value = choice.value;
    field.dispatchEvent(new Event('input'));
  });
}

// On a phone the navigation is one line: where one is must be in sight.
const here = document.querySelector('.side [aria-current]');
if (here) here.closest('.side').scrollLeft = here.offsetLeft - here.closest('.side').clientWidth / 3;

// Esc closes what was opened last around the place one is at, and goes back to what opened it.
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return;
  const open = event.target.closest?.('details[open]');
  if (!open) return;
  open.open = false;
  open.querySelector('summary').focus();
});

const refreshed = document.querySelector('[data-refresh]');
if (refreshed) {
  setTimeout(() => location.reload(), Number(refreshed.dataset.refresh) * 1000);
}

const element = (name, className, ...children) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
};

const editor = document.querySelector('[data-editor]');
if (editor) edit(editor, document.getElementById('editor'));

function edit(frame, form) {
  const text = frame.querySelector('textarea');
  const gutter = frame.querySelector('.gutter');
  const remarks = document.getElementById('remarks');
  let marks = new Map();

  const number = () => {
    const lines = text.value.split('\n').length;
    if (gutter.childElementCount !== lines) {
      gutter.replaceChildren(...Array.from({ length: lines }, (_, at) => element('span', '', String(at + 1))));
    }
    [...gutter.children].forEach((line, at) => { line.className = marks.get(at + 1) ?? ''; });
    gutter.style.height = `${text.clientHeight}px`;
    gutter.scrollTop = text.scrollTop;
  };

  const goTo = (line, column = 1) => {
    const lines = text.value.split('\n');
    const start = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
    text.focus();
    text.setSelectionRange(start + column - 1, start + (lines[line - 1] ?? '').length);
    text.scrollTop = Math.max(0, (line - 8) * (text.scrollHeight / Math.max(lines.length, 1)));
    number();
  };

  document.addEventListener('click', (event) => {
    const link = event.target.closest('[data-line]');
    if (!link) return;
    event.preventDefault();
    goTo(Number(link.dataset.line), Number(link.dataset.column ?? 1));
  });

  const show = (diagnostics) => {
    marks = new Map();
    for (const remark of diagnostics) {
      if (marks.get(remark.line) !== 'error') marks.set(remark.line, remark.severity);
    }
    number();
    if (diagnostics.length === 0) {
      remarks.replaceChildren(element('p', '', element('span', 'pill good', 'It checks')));
      return;
    }
    remarks.replaceChildren(element('ul', '', ...diagnostics.map((remark) => {
      const link = element('a', '', `line ${remark.line}, column ${remark.column}`);
      link.href = `#line-${remark.line}`;
      link.dataset.line = remark.line;
      link.dataset.column = remark.column;
      const row = element('li', remark.severity, link, ' ',
        element('span', remark.severity === 'error' ? 'pill bad' : 'pill warn', remark.code), ` ${remark.message}`);
      if (remark.help) row.append(element('div', 'muted', remark.help));
      return row;
    })));
  };

  // One check under way at a time, the newest text last.
  let timer = 0;
  let checking = false;
  let again = false;
  const check = async () => {
    if (checking) { again = true; return; }
    checking = true;
    try {
      const answer = await fetch(form.dataset.check, {
        method: 'POST',
        headers: { 'Content-Type': 'text/plain', 'X-CSRF-Token': csrf, Accept: 'application/json' },
        body: text.value,
      });
      if (answer.ok) show((await answer.json()).diagnostics);
    } finally {
      checking = false;
      if (again) { again = false; check(); }
    }
  };

  // What the event becomes, made anew whenever the event or the text changes. The answer is parsed by the browser into a
  // document of its own (`responseType`), so no text is made into markup here.
  const event = document.getElementById('event');
  const tried = document.getElementById('tried');
  let trying = 0;
  let newest = 0;
  const tryOut = () => {
    const own = ++newest;
    const request = new XMLHttpRequest();
    request.open('POST', form.dataset.try);
    request.responseType = 'document';
    request.setRequestHeader('Content-Type', 'application/x-www-form-urlencoded');
    request.addEventListener('load', () => {
      if (own !== newest || request.status !== 200 || !request.response) return;
      tried.replaceChildren(...[...request.response.body.children].map((part) => document.adoptNode(part)));
    });
    const fields = new URLSearchParams();
    for (const name of ['_csrf', 'text', 'event']) fields.set(name, form.elements[name].value);
    request.send(fields);
  };
  const trySoon = () => { clearTimeout(trying); trying = setTimeout(tryOut, 400); };
  event.addEventListener('input', trySoon);
  if (event.value.trim()) tryOut();

  text.addEventListener('input', () => { number(); clearTimeout(timer); timer = setTimeout(check, 300); trySoon(); });
  text.addEventListener('scroll', () => { gutter.scrollTop = text.scrollTop; });
  new ResizeObserver(number).observe(text);
  if (!text.readOnly) {
    text.addEventListener('keydown', (event) => {
      // Tab leaves the field, as everywhere; Ctrl+] and Ctrl+[ indent.
      if (!event.ctrlKey || (event.key !== ']' && event.key !== '[')) return;
      event.preventDefault();
      const start = text.value.lastIndexOf('\n', text.selectionStart - 1) + 1;
      if (event.key === ']') text.setRangeText('  ', start, start);
      else if (text.value.startsWith('  ', start)) text.setRangeText('', start, start + 2);
      text.dispatchEvent(new Event('input'));
    });
  }
  number();
  const wanted = /^#line-(\d+)$/.exec(location.hash);
  if (wanted) goTo(Number(wanted[1]));
}
