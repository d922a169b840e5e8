// A gateway and a vendor sandbox as processes of their own, on free ports, in a temporary directory.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const binary = process.env.AQUEDUCT_BIN ?? resolve(here, '../../../target/debug/aqueduct');
export const TOKEN = 'adm_browser_test_token';
export const WRITE_KEY = 'wk_browser_test_key';

/** Starts a process and waits for its line that says where it listens. */
function listening(args, env) {
  const child = spawn(binary, args, { env: { PATH: process.env.PATH, ...env }, stdio: ['ignore', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout });
  return new Promise((done, failed) => {
    child.once('error', failed);
    child.once('exit', (code) => failed(new Error(`${binary} ${args.join(' ')} left with ${code}`)));
    lines.on('line', (line) => {
      try {
        const said = JSON.parse(line).listening;
        if (said) done({ child, at: said });
      } catch { /* other lines are for people */ }
    });
  });
}

/** Starts both. `stop` ends them and removes the directory. */
export async function start() {
  const dir = mkdtempSync(join(tmpdir(), 'aqueduct-browser-'));
  const sandbox = await listening(['sandbox', '--listen', '127.0.0.1:0'], {});
  const gateway = await listening(['serve'], {
    AQUEDUCT_DATA_DIR: dir,
    AQUEDUCT_INGEST_LISTEN: '127.0.0.1:0',
    AQUEDUCT_ADMIN_LISTEN: '127.0.0.1:0',
    AQUEDUCT_METRICS_LISTEN: '127.0.0.1:0',
    AQUEDUCT_ADMIN_TOKEN: TOKEN,
    AQUEDUCT_WRITE_KEY: WRITE_KEY,
    AQUEDUCT_EGRESS_ALLOW: sandbox.at.sandbox,
    AQUEDUCT_LOG: 'warn',
  });
  const ended = (child) => new Promise((done) => { child.once('exit', done); child.kill('SIGTERM'); });
  return {
    ingest: `http://${gateway.at.ingest}`,
    admin: `http://${gateway.at.admin}`,
    sandbox: `http://${sandbox.at.sandbox}`,
    async stop() {
      await Promise.all([ended(gateway.child), ended(sandbox.child)]);
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** Posts one call with the write key. */
export async function post(gateway, call, body) {
  const answer = await fetch(`${gateway.ingest}/v1/${call}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Basic ${btoa(`${WRITE_KEY}:`)}` },
    body: JSON.stringify(body),
  });
  if (answer.status !== 200) throw new Error(`${call}: ${answer.status} ${await answer.text()}`);
}
