// `ws` as a server that says everything back (`server PORT`), and as a client of one (`client URL TOKEN CA`).
// The client prints "ok TEXT" for each step; the first failed assertion ends it with a non-zero exit code.
'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const { once } = require('node:events');
const { WebSocket, WebSocketServer } = require('ws');

const [role, ...rest] = process.argv.slice(2);

function serve(port) {
  const server = new WebSocketServer({ host: '127.0.0.1', port: Number(port), perMessageDeflate: { threshold: 0 } });
  server.on('connection', (socket) => {
    socket.on('error', () => socket.terminate());
    socket.on('message', (data, isBinary) => {
      const told = isBinary ? null : /^close (\d+)$/.exec(data.toString());
      if (told) socket.close(Number(told[1]), 'as you said');
      else socket.send(data, { binary: isBinary });
    });
  });
}

async function ask(url, token, ca) {
  const options = { headers: { authorization: `Bearer ${token}` } };
  if (url.startsWith('wss:')) options.ca = fs.readFileSync(ca);
  const socket = new WebSocket(url, options);
  await once(socket, 'open');
  assert.match(socket.extensions, /permessage-deflate/);

  const said = async (data, sendOptions) => {
    const answer = once(socket, 'message');
    socket.send(data, sendOptions);
    const [message, isBinary] = await answer;
    assert.equal(isBinary, Buffer.isBuffer(data));
    assert.ok(Buffer.from(data).equals(message));
  };
  for (const data of ['hello', 'grüß dich', '', Buffer.from([0, 255]), crypto.randomBytes(1 << 20), 'x'.repeat(1 << 20)]) {
    await said(data);
  }
  ok('text, binary, and 1 MiB of either come back');

  const whole = once(socket, 'message');
  socket.send('in ', { fin: false });
  socket.ping('between');
  const pong = once(socket, 'pong');
  socket.send('pieces', { fin: true });
  assert.equal((await whole)[0].toString(), 'in pieces');
  assert.equal((await pong)[0].toString(), 'between');
  ok('fragments, with a ping among them');

  const closed = once(socket, 'close');
  socket.send('close 4321');
  const [code, reason] = await closed;
  assert.deepEqual([code, reason.toString()], [4321, 'as you said']);
  ok('the close code of the server');

  const plain = new WebSocket(url, { ...options, perMessageDeflate: false });
  await once(plain, 'open');
  assert.equal(plain.extensions, '');
  const left = once(plain, 'close');
  plain.close(4000, 'enough');
  assert.equal((await left)[0], 4000);
  ok('its own close code, without compression');

  const nobody = new WebSocket(url, { ca: options.ca });
  const [, response] = await once(nobody, 'unexpected-response');
  assert.equal(response.statusCode, 401);
  nobody.on('error', () => {});
  nobody.terminate();
  ok('nobody is let in without a token');
}

function ok(text) {
  console.log(`ok ws: ${text}`);
}

if (role === 'server') serve(...rest);
else ask(...rest);
