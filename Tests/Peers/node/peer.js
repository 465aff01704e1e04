'use strict';
// Node's http2 (nghttp2 inside, flow control and half-close its own) as an HBONE peer; Tests/Peers/README.md says what it reads
// and prints.
//
//     peer.js client PORT CREDENTIAL
//     peer.js server CREDENTIAL [close]
//
// A backend's reset becomes stream.destroy(error), which is RST_STREAM(INTERNAL_ERROR). With `close` it becomes what looks more
// natural, stream.close(NGHTTP2_CONNECT_ERROR), which sends END_STREAM before the reset.
const crypto = require('crypto');
const fs = require('fs');
const http2 = require('http2');
const net = require('net');
const readline = require('readline');

const codes = http2.constants;
const report = (event, values) => process.stdout.write(JSON.stringify({ event, ...values }) + '\n');
const identity = (certificate) => (/URI:([^,]*)/.exec(certificate && certificate.subjectaltname) || [])[1] || '';

function tls(directory) {
  return {
    key: fs.readFileSync(`${directory}/key.pem`),
    cert: fs.readFileSync(`${directory}/cert-chain.pem`),
    ca: fs.readFileSync(`${directory}/root-cert.pem`),
    minVersion: 'TLSv1.3',
    settings: { initialWindowSize: 1 << 20, maxFrameSize: 1 << 20, enablePush: false },
  };
}

// What a stream sends and receives, counted and hashed.
class Tally {
  constructor() {
    this.count = 0;
    this.hash = crypto.createHash('sha256');
  }
  add(chunk) {
    this.count += chunk.length;
    this.hash.update(chunk);
  }
  get result() { return { count: this.count, sha256: this.hash.digest('hex') }; }
}

const block = crypto.createHash('shake256', { outputLength: 1000003 }).update('interop').digest();

// MARK: Client

function client(port, directory) {
  const session = http2.connect(`https://127.0.0.1:${port}`, {
    ...tls(directory),
    checkServerIdentity: (host, certificate) =>
      identity(certificate).startsWith('spiffe://') ? undefined : new Error('the server has no SPIFFE ID'),
  });
  session.on('connect', () => {
    session.setLocalWindowSize(16 << 20);
    report('connected', { peer: identity(session.socket.getPeerCertificate()) });
  });
  session.on('error', (error) => report('refused', { reason: String(error.code || error) }));
  session.on('goaway', (code, last) => report('goaway', { code, last }));
  session.on('close', () => report('closed'));
  const streams = new Map();

  const commands = {
    open(name, authority, ...headers) {
      const request = { ':method': 'CONNECT', ':authority': authority };
      for (const header of headers) request[header.split('=', 1)[0]] = header.slice(header.indexOf('=') + 1);
      const stream = session.request(request, { endStream: false });
      const entry = { stream, sent: new Tally(), received: new Tally(), hasEnded: false, work: Promise.resolve() };
      streams.set(name, entry);
      const id = Number(name);
      stream.on('response', (head) => report('response', { stream: id, status: head[':status'] }));
      stream.on('data', (chunk) => entry.received.add(chunk));
      stream.on('aborted', () => { entry.aborted = true; });
      stream.on('end', () => {
        entry.hasEnded = !entry.aborted;
        if (entry.hasEnded) report('ended', { stream: id, ...entry.received.result });
      });
      stream.on('error', () => {});
      stream.on('close', () => {
        if (!entry.hasEnded || stream.rstCode !== 0) {
          report('reset', { stream: id, code: stream.rstCode, count: entry.received.count });
        }
      });
    },
    send(name, count) {
      const entry = streams.get(name);
      entry.work = entry.work.then(() => write(entry, Number(count)));
    },
    end(name) {
      const entry = streams.get(name);
      entry.work = entry.work.then(() => {
        entry.stream.end();
        report('sent', { stream: Number(name), ...entry.sent.result });
      });
    },
    // Sends END_STREAM and then RST_STREAM.
    reset(name, code) { streams.get(name).stream.close(Number(code)); },
    destroy(name) { streams.get(name).stream.destroy(new Error('as told')); },
    close() { session.close(); },
  };
  listen(commands, () => session.destroy());
}

async function write(entry, count) {
  for (let left = count; left > 0 && !entry.stream.destroyed;) {
    const chunk = block.subarray(0, Math.min(left, block.length));
    entry.sent.add(chunk);
    left -= chunk.length;
    if (!entry.stream.write(chunk)) {
      await new Promise((resolve) => {
        entry.stream.once('drain', resolve);
        entry.stream.once('close', resolve);
      });
    }
  }
}

// MARK: Server

function server(directory, mode) {
  const sessions = new Set();
  const options = { ...tls(directory), requestCert: true, rejectUnauthorized: true };
  options.settings.maxConcurrentStreams = 100;
  const listener = http2.createSecureServer(options);
  listener.on('session', (session) => {
    sessions.add(session);
    session.setLocalWindowSize(16 << 20);
    session.on('close', () => sessions.delete(session));
    session.on('error', () => {});
    session.on('goaway', (code, last) => report('goaway', { code, last }));
  });
  listener.on('tlsClientError', (error) => report('refused', { reason: String(error.code || error) }));
  listener.on('stream', (stream, headers) => serve(stream, headers, mode));
  listener.listen(0, '127.0.0.1', () => report('listening', { port: listener.address().port }));
  listen({ goaway() { for (const session of sessions) session.close(); } }, () => process.exit(0));
}

function serve(stream, headers, mode) {
  const authority = headers[':authority'] || '';
  const peer = identity(stream.session.socket.getPeerCertificate());
  report('request', { stream: stream.id, authority, peer });
  stream.on('error', () => {});
  if (headers[':method'] !== 'CONNECT') return refuse(stream, 405);
  if (!peer.includes('/ns/prod/')) return refuse(stream, 403);
  const colon = authority.lastIndexOf(':');
  // Both directions end on their own: without this, the end of one would end the other.
  const backend = net.connect({ host: authority.slice(0, colon), port: authority.slice(colon + 1), allowHalfOpen: true });
  let isOpen = false;
  backend.setNoDelay(true);
  backend.on('connect', () => {
    isOpen = true;
    stream.respond({ ':status': 200 });
    backend.on('data', (chunk) => { if (!stream.write(chunk)) backend.pause(); });
    stream.on('drain', () => backend.resume());
    backend.on('end', () => stream.end());
    stream.on('data', (chunk) => { if (!backend.write(chunk)) stream.pause(); });
    backend.on('drain', () => stream.resume());
    stream.on('end', () => { if (stream.rstCode === 0) backend.end(); });
  });
  backend.on('error', (error) => {
    if (isOpen && mode === 'close') stream.close(codes.NGHTTP2_CONNECT_ERROR);
    else if (isOpen) stream.destroy(error);
    else if (!stream.destroyed) refuse(stream, 503);
  });
  stream.on('close', () => {
    if (stream.rstCode === 0) return;
    report('reset', { stream: stream.id, code: stream.rstCode });
    backend.resetAndDestroy();
  });
}

function refuse(stream, status) {
  stream.respond({ ':status': status }, { endStream: true });
  stream.close(codes.NGHTTP2_NO_ERROR);
}

// MARK: -

function listen(commands, ended) {
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    const [verb, ...words] = line.split(' ');
    commands[verb](...words);
  });
  lines.on('close', ended);
}

const [role, ...words] = process.argv.slice(2);
if (role === 'client') client(...words);
else server(...words);
