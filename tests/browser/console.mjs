// The console as a person uses it: sign in, install Optimizely as its vendor page describes, see the first conversion
// live and its story, break the vendor, repair, replay, roll a blueprint back. Every page is looked at by axe.

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { TOKEN, post, start } from './gateway.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const shots = process.env.SHOTS ?? join(here, 'shots');
mkdirSync(shots, { recursive: true });
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

const gateway = await start();
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
const troubles = [];

/** A page whose every complaint counts. */
async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  await context.exposeBinding('breach', (_, what) => troubles.push(`content security policy: ${what}`));
  await context.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) => globalThis.breach(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`));
  });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.on('console', (message) => { if (message.type() === 'error' && !/status of 4\d\d/.test(message.text())) troubles.push(`console: ${message.text()}`); });
  page.on('pageerror', (error) => troubles.push(`script: ${error}`));
  return page;
}

async function signIn(page) {
  await page.goto(`${gateway.admin}/`);
  await page.getByLabel('Admin token').fill(TOKEN);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('heading', { name: 'Overview', level: 1 }).waitFor();
}

/** Looks at the page as it is: a picture, and what axe finds. */
async function look(page, name, check = true) {
  await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
  if (!check) return;
  // Evaluated by the debugger, so the page's policy does not stand in the way.
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
  for (const violation of found.violations.filter((one) => ['serious', 'critical'].includes(one.impact))) {
    troubles.push(`axe on ${name}: ${violation.id}: ${violation.nodes.slice(0, 3).map((node) => node.html).join(' | ')}`);
  }
}

async function until(what, look, ms = 15_000) {
  const end = Date.now() + ms;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited in vain for: ${what}`);
    await new Promise((done) => setTimeout(done, 100));
  }
}

const order = (messageId, extra = {}) => ({
  messageId, userId: 'u-1', event: 'Order Completed',
  properties: { order_id: 'ORD-5521', total: 89.99, currency: 'GBP', ...extra },
});

try {
  const page = await open();
  await page.goto(`${gateway.admin}/integrations`);
  await look(page, 'sign-in');
  await page.getByLabel('Admin token').fill('adm_wrong_token');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('alert').waitFor();
  await signIn(page);
  await look(page, 'overview-empty');

  // Install, as the vendor's setup page describes: Integrations, Integration Library, Analytics, Install.
  await page.getByRole('link', { name: 'Integrations', exact: true }).first().click();
  await look(page, 'integrations-empty');
  await page.getByRole('navigation', { name: 'Integrations' }).getByRole('link', { name: 'Integration Library' }).click();
  await page.getByRole('link', { name: 'Analytics' }).click();
  await look(page, 'library');
  await page.getByRole('link', { name: 'Install Optimizely' }).first().click();
  await look(page, 'install');
  await page.getByLabel('Account ID').fill('wrong');
  await page.getByLabel('Project ID').fill('98765432');
  await page.getByLabel('SDK key').fill('demo');
  await page.getByLabel('Datafile URL').fill(`${gateway.sandbox}/optimizely/datafiles/demo.json`);
  await page.getByRole('button', { name: 'Install Integration' }).click();
  await page.getByRole('alert').waitFor();
  await look(page, 'install-faults');
  assert.equal(await page.getByLabel('SDK key').inputValue(), '', 'a secret is never sent back');
  await page.getByLabel('Account ID').fill('12345678');
  await page.getByText('More settings').click();
  await page.getByLabel('Events address').fill(`${gateway.sandbox}/optimizely/v1/events`);
  await page.getByLabel('Event to test with').fill('purchase');
  await page.getByRole('button', { name: 'Test connection' }).click();
  await page.getByText('The vendor took it').waitFor();
  await look(page, 'install-tested');
  await page.getByLabel('Name *').fill('Optimizely');
  await page.getByRole('button', { name: 'Install Integration' }).click();
  await page.getByRole('status').getByText('is installed').waitFor();
  const integration = new URL(page.url()).pathname;

  // The first conversion, live, and its story.
  await page.getByRole('link', { name: 'Live events' }).click();
  await page.getByText('live', { exact: true }).waitFor();
  await post(gateway, 'track', order('browser-1'));
  await page.getByRole('cell', { name: 'Order Completed' }).first().waitFor();
  await post(gateway, 'track', { ...order('<script>alert(1)</script>'), event: '<img src=x onerror=alert(2)>' });
  await page.getByRole('cell', { name: '<img src=x onerror=alert(2)>' }).first().waitFor();
  await look(page, 'live');
  await page.locator('#rows tr', { hasText: 'Order Completed' }).first().getByRole('link').click();
  await until('the event is delivered', async () => {
    await page.reload();
    return (await page.locator('.story .pill.good', { hasText: 'delivered' }).count()) > 0;
  });
  await page.locator('.attempt code', { hasText: '8999' }).first().waitFor();
  await look(page, 'story');

  // The vendor refuses the key: the integration is paused, with the cause on the first page.
  const faults = (rules) => fetch(`${gateway.sandbox}/_sandbox/faults`, { method: 'PUT', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ rules }) });
  const put = await faults([{ path: '/optimizely/v1/events', action: { status: 401, body: { message: 'no such key' } } }]);
  if (!put.ok) console.log('note: fault not set:', put.status, await put.text());
  if (put.ok) {
    await post(gateway, 'track', order('browser-2'));
    await until('the overview says it is paused', async () => {
      await page.goto(`${gateway.admin}/`);
      return (await page.getByText('Optimizely is paused').count()) > 0;
    });
    await look(page, 'overview-paused');
    await page.getByRole('link', { name: 'Look at it' }).first().click();
    await look(page, 'integration-paused');
    await faults([]);
    await page.getByRole('button', { name: 'Resume' }).click();
    await page.getByRole('status').getByText('Resumed').waitFor();
  }

  // Dead letters: an amount that has been through a float is given up, seen by cause, and replayed.
  await fetch(`${gateway.ingest}/v1/track`, {
    method: 'POST', headers: { 'content-type': 'application/json', authorization: `Basic ${btoa('wk_browser_test_key:')}` },
    body: '{"messageId":"browser-3","userId":"u-1","event":"Order Completed","properties":{"total":89.990000000000009}}',
  });
  await until('a dead letter', async () => {
    await page.goto(`${gateway.admin}/dead-letters`);
    return (await page.getByRole('button', { name: 'Replay…', exact: true }).count()) > 0;
  });
  await look(page, 'dead-letters');
  await page.getByRole('button', { name: 'Replay…', exact: true }).click();
  await page.getByRole('button', { name: 'Send 1 again' }).waitFor();
  await look(page, 'replay-confirm');
  await page.getByRole('button', { name: 'Send 1 again' }).click();
  await page.getByText('The replay is under way').waitFor();
  await look(page, 'replay', false);

  // Blueprint: remarks while typing, trying, saving, going back.
  await page.goto(`${gateway.admin}${integration}/blueprint`);
  await look(page, 'blueprint');
  const text = page.getByLabel('Text (YAML)');
  const good = await text.inputValue();
  await text.fill(good.replace('key: purchase', 'key: =purchas('));
  await page.locator('#remarks .pill.bad').first().waitFor();
  await look(page, 'blueprint-fault');
  await text.fill(good.replace('about: Sends', 'about: It sends'));
  await page.locator('#remarks .pill.good').waitFor();
  await page.getByRole('button', { name: 'Try it' }).click();
  await page.locator('#tried .part').first().waitFor();
  await look(page, 'blueprint-tried');
  await page.getByLabel('Why it changes').fill('a word');
  await page.getByRole('button', { name: 'Save as a new revision' }).click();
  await page.getByText('Saved as revision 2').waitFor();
  await page.goto(`${gateway.admin}${integration}/revisions/1`);
  await look(page, 'revision');
  await page.getByRole('button', { name: 'Go back to this revision' }).click();
  await page.getByRole('status').getByText('Back to revision 1').waitFor();
  await look(page, 'revisions');

  // A source's key and a token are shown once; a token's end is its sessions' end.
  await page.goto(`${gateway.admin}/sources`);
  await page.getByRole('button', { name: 'Rotate key' }).click();
  assert.match(await page.locator('#made-secret').inputValue(), /^wk_/);
  await look(page, 'sources');
  await page.getByText('Name and limits of default').click();
  await page.getByLabel('Web origins that may post').first().fill('https://shop.example/path');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByText('holds more than scheme, host and port').waitFor();
  await look(page, 'source-faults');
  await page.getByLabel('Web origins that may post').first().fill('https://shop.example\nhttps://*.shop.example');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByText('default is changed').waitFor();
  await look(page, 'source-limits');
  const evil = await fetch(`${gateway.ingest}/v1/track`, { method: 'POST', headers: { origin: 'https://evil.example', authorization: `Basic ${btoa('wk_browser_test_key:')}` }, body: JSON.stringify(order('browser-evil')) });
  assert.equal(evil.status, 403);

  // Somebody is told of alerts: the signing secret is shown once, a test says how it went.
  await page.goto(`${gateway.admin}/alerts`);
  await page.getByLabel('Name *').fill('on-call');
  await page.getByLabel('Address *').fill(`${gateway.sandbox}/nobody-listens-here`);
  await page.getByRole('button', { name: 'Make endpoint' }).click();
  assert.match(await page.locator('#made-secret').inputValue(), /^whsec_/);
  await page.getByRole('button', { name: 'Send a test' }).click();
  await page.getByRole('alert').getByText('404').waitFor();
  await look(page, 'alert-endpoint');
  await page.getByText('Remove on-call').click();
  await page.getByRole('button', { name: 'Remove', exact: true }).click();
  await page.getByText('is removed').waitFor();
  await look(page, 'alerts');

  await page.goto(`${gateway.admin}/tokens`);
  await page.getByLabel('Whose it is').fill('On call');
  await page.getByRole('button', { name: 'Make token' }).click();
  const viewerToken = await page.locator('#made-secret').inputValue();
  await look(page, 'tokens');
  const viewer = await open({ colorScheme: 'dark', viewport: { width: 390, height: 844 } });
  await viewer.goto(`${gateway.admin}/`);
  await viewer.getByLabel('Admin token').fill(viewerToken);
  await viewer.getByRole('button', { name: 'Sign in' }).click();
  await viewer.getByRole('heading', { name: 'Overview', level: 1 }).waitFor();
  assert.equal(await viewer.getByRole('link', { name: 'Tokens' }).count(), 0);
  await look(viewer, 'narrow-dark-overview');
  await viewer.goto(`${gateway.admin}${integration}`);
  assert.equal(await viewer.getByRole('button', { name: 'Pause' }).isDisabled(), true);
  await look(viewer, 'narrow-dark-integration');
  for (const path of ['/live', '/ledger', '/deliveries', '/dead-letters', '/rejected', '/sources', '/alerts', `${integration}/blueprint`, '/integrations/library/optimizely']) {
    await viewer.goto(`${gateway.admin}${path}`);
    await look(viewer, `narrow-dark${path.replaceAll('/', '-').replace(/int_\w+/, 'one')}`);
  }
  await page.getByRole('row', { name: 'On call' }).getByRole('button', { name: 'Revoke' }).click();
  await viewer.goto(`${gateway.admin}/ledger`);
  await viewer.getByLabel('Admin token').waitFor();

  for (const path of ['/', '/integrations', integration, `${integration}/settings`, '/deliveries', '/rejected', '/ledger', '/ledger?by=experiment', '/audit?verify=yes', '/settings', '/no-such-page']) {
    await page.goto(`${gateway.admin}${path}`);
    await look(page, `page${path.replaceAll(/[/?=]/g, '-').replace(/int_\w+/, 'one')}`);
  }
  await page.goto(`${gateway.admin}/deliveries`);
  await page.getByRole('table').getByRole('link').first().click();
  await look(page, 'delivery');

  // By keyboard alone: each stop shows where one is, the first skips to the content, Esc closes what was opened.
  for (const path of ['/', '/integrations', integration, `${integration}/blueprint`, '/live', '/deliveries', '/dead-letters', '/rejected', '/ledger', '/sources', '/alerts', '/tokens', '/audit', '/settings']) {
    await page.goto(`${gateway.admin}${path}`);
    const stops = [];
    for (let n = 0; n < 200; n += 1) {
      await page.keyboard.press('Tab');
      const stop = await page.evaluate(() => {
        const at = document.activeElement;
        if (!at || at === document.body) return null;
        // The editor's frame shows it for its text.
        const shown = [at, at.parentElement].some((one) => getComputedStyle(one).outlineStyle !== 'none' && parseFloat(getComputedStyle(one).outlineWidth) > 0);
        const box = at.getBoundingClientRect();
        const name = (at.getAttribute('aria-label') || at.textContent || at.name || at.id).trim().slice(0, 40);
        const fresh = !at.dataset.stop;
        at.dataset.stop = 'yes';
        return { name: `${at.tagName} ${name}`, fresh, good: shown && box.width > 0 && box.bottom > 0 && box.top < innerHeight };
      });
      if (!stop || !stop.fresh) break;
      stops.push(stop);
      if (stop.name.startsWith('TEXTAREA') && path.endsWith('blueprint')) break;
    }
    assert.equal(stops[0]?.name, 'A Skip to content', path);
    assert.ok(stops.length > 10, `${path}: ${stops.length} stops`);
    for (const stop of stops) if (!stop.good) troubles.push(`keyboard on ${path}: ${stop.name} does not show that one is there`);
  }
  await page.goto(`${gateway.admin}/rejected`);
  await page.locator('td summary').first().focus();
  await page.keyboard.press('Enter');
  await page.locator('td details[open]').first().waitFor();
  await page.keyboard.press('Tab');
  await page.keyboard.press('Escape');
  assert.equal(await page.locator('td details[open]').count(), 0);
  assert.equal(await page.evaluate(() => document.activeElement.tagName), 'SUMMARY');

  // What is counted in memory says since when.
  await page.goto(`${gateway.admin}/`);
  await page.getByText(/since \d\d:\d\d UTC, when this gateway started/).first().waitFor();
  assert.equal(await page.getByText('in the last hour, at most').count(), 0);

  // Without script the pages that show are whole.
  const plain = await open({ javaScriptEnabled: false });
  await plain.goto(`${gateway.admin}/`);
  await plain.getByLabel('Admin token').fill(TOKEN);
  await plain.getByRole('button', { name: 'Sign in' }).click();
  await plain.goto(`${gateway.admin}/live`);
  await plain.getByRole('cell', { name: 'Order Completed' }).first().waitFor();

  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.goto(`${gateway.admin}/ledger`);
  await page.getByLabel('Admin token').waitFor();
  assert.deepEqual(troubles, []);
  console.log(`console: all well; pictures in ${shots}`);
} catch (error) {
  console.error(troubles.join('\n'));
  console.error(error);
  for (const context of browser.contexts()) {
    for (const page of context.pages()) await page.screenshot({ path: join(shots, 'at-failure.png') }).catch(() => {});
  }
  process.exitCode = 1;
} finally {
  await browser.close();
  await gateway.stop();
}
