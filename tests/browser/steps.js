// The steps. What runs inside `evaluate` runs in the page.

import assert from "node:assert/strict";

import { USER, portOf } from "./site.js";

export const steps = [
  async function a_page_signs_in_and_calls_what_is_protected(page, site) {
    await page.goto(`${site.origin}/public/page`);
    const seen = await page.evaluate(async (user) => {
      const without = await fetch("/api");
      const tokens = await (await post("/auth/login", user)).json();
      const headers = { Authorization: `Bearer ${tokens.access_token}`, "X-Auth-Subject": "root" };
      const withToken = await fetch("/api", { headers });
      return { without: without.status, withToken: withToken.status, headers: await withToken.json() };

      function post(path, members) {
        return fetch(path, {
          method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(members),
        });
      }
    }, USER);
    assert.equal(seen.without, 401);
    assert.equal(seen.withToken, 200);
    assert.equal(seen.headers["x-auth-username"], USER.username);
    assert.notEqual(seen.headers["x-auth-subject"], "root");
    assert.equal(seen.headers.authorization, undefined);
  },

  async function a_page_of_an_allowed_origin_signs_in(page, site) {
    await page.goto(`http://127.0.0.1:${portOf(site.allowed)}/`);
    assert.equal(await signIn(page, site), 200);
  },

  async function a_page_of_another_origin_does_not(page, site) {
    await page.goto(`http://127.0.0.1:${portOf(site.stranger)}/`);
    assert.match(await signIn(page, site), /TypeError|NetworkError/);
  },

  async function a_form_of_another_origin_does_not_sign_in_either(page, site) {
    await page.goto(`http://127.0.0.1:${portOf(site.stranger)}/`);
    await page.evaluate((action, user) => {
      const form = Object.assign(document.createElement("form"), { method: "post", action });
      for (const [name, value] of Object.entries(user)) {
        form.append(Object.assign(document.createElement("input"), { name, value }));
      }
      document.body.append(form);
      form.submit();
    }, `${site.origin}/auth/login`, USER);
    // What a browser shows of such an answer differs from one to the other.
    const { status, code } = await site.logged((line) => line.method === "POST" && line.path === "/auth/login" &&
      line.status !== 200);
    assert.deepEqual([status, code], [403, "origin_denied"]);
  },

  async function server_sent_events_arrive_one_by_one(page, site) {
    await page.goto(`${site.origin}/public/page`);
    await page.evaluate(() => {
      globalThis.events = [];
      globalThis.source = new EventSource("/public/events");
      globalThis.source.onmessage = (event) => globalThis.events.push(event.data);
    });
    // The server holds the second event back until the first one was seen.
    await page.waitForFunction(() => globalThis.events.length === 1);
    site.nextEvent();
    await page.waitForFunction(() => globalThis.events.length === 2);
    assert.deepEqual(await page.evaluate(() => globalThis.events), ["first", "second"]);
    await page.evaluate(() => globalThis.source.close());
  },

  async function a_protected_stream_of_events_is_read_with_fetch(page, site) {
    await page.goto(`${site.origin}/public/page`);
    await page.evaluate(async (user) => {
      const tokens = await (await fetch("/auth/login", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(user),
      })).json();
      const answer = await fetch("/events", { headers: { Authorization: `Bearer ${tokens.access_token}` } });
      globalThis.text = "";
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      (async () => {
        for (let piece = await reader.read(); !piece.done; piece = await reader.read()) globalThis.text += piece.value;
      })();
    }, USER);
    await page.waitForFunction(() => globalThis.text === "data: first\n\n");
    site.nextEvent();
    await page.waitForFunction(() => globalThis.text === "data: first\n\ndata: second\n\n");
  },

  async function a_websocket_with_a_token_echoes_and_ends_when_its_user_signs_out(page, site) {
    await page.goto(`${site.origin}/public/page`);
    const seen = await page.evaluate(async (user) => {
      const post = (path, members, headers) => fetch(path, {
        method: "POST", headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify(members),
      });
      const tokens = await (await post("/auth/login", user)).json();
      const socket = new WebSocket("/socket", [`portcullis.bearer.${tokens.access_token}`, "chat"]);
      const messages = [];
      const next = () => new Promise((resolve, reject) => {
        socket.onmessage = (event) => resolve(event.data);
        socket.onclose = (event) => reject(new Error(`closed: ${event.code}`));
      });
      messages.push(JSON.parse(await next()));
      for (const text of ["hello", "x".repeat(100_000)]) {
        const echo = next();
        socket.send(text);
        messages.push(await echo === text);
      }
      const closed = new Promise((resolve) => { socket.onclose = (event) => resolve(event.code); });
      const left = await post("/auth/logout", {}, { Authorization: `Bearer ${tokens.access_token}` });
      return { protocol: socket.protocol, messages, left: left.status, code: await closed };
    }, USER);
    const hello = { offered: "chat", user: USER.username };
    assert.deepEqual(seen, { protocol: "chat", messages: [hello, true, true], left: 204, code: 4401 });
  },

  async function a_websocket_without_a_token_or_from_another_origin_is_refused(page, site) {
    const code = (protocols) => page.evaluate((url, offers) => new Promise((resolve) => {
      const socket = new WebSocket(url, offers);
      socket.onopen = () => resolve("open");
      socket.onclose = (event) => resolve(event.code);
    }), `${site.origin.replace("http", "ws")}/socket`, protocols);
    await page.goto(`http://127.0.0.1:${portOf(site.allowed)}/`);
    const token = await page.evaluate(async (url, user) => (await (await fetch(url, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(user),
    })).json()).access_token, `${site.origin}/auth/login`, USER);
    assert.equal(await code(["chat"]), 1006);
    assert.equal(await code([`portcullis.bearer.${token}`, "chat"]), "open");
    await page.goto(`http://127.0.0.1:${portOf(site.stranger)}/`);
    assert.equal(await code([`portcullis.bearer.${token}`, "chat"]), 1006);
  },
];

/** The status of a sign-in from the page that is open, or why there was no answer. */
function signIn(page, site) {
  return page.evaluate(async (url, user) => {
    try {
      return (await fetch(url, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(user),
      })).status;
    } catch (error) {
      return String(error);
    }
  }, `${site.origin}/auth/login`, USER);
}
