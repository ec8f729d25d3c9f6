// A gateway with an embedded pool, a legacy site behind it, and a page of another origin.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync, openSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { WebSocketServer } from "ws";

export const USER = { username: "demo", password: "Portcullis-1" };

/** What runs for one browser. */
export class Site {
  static async start() {
    const site = new Site();
    site.folder = mkdtempSync(join(tmpdir(), "portcullis-browser."));
    site.legacy = await served((request, response) => site.#answer(request, response));
    const sockets = new WebSocketServer({ server: site.legacy, handleProtocols: () => "chat" });
    sockets.on("connection", (socket, request) => {
      socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
      socket.send(JSON.stringify({ offered: request.headers["sec-websocket-protocol"], user: request.headers["x-auth-username"] }));
    });
    site.allowed = await served((_, response) => blank(response));
    site.stranger = await served((_, response) => blank(response));
    site.port = await freePort();
    site.adminPort = await freePort();
    site.origin = `http://127.0.0.1:${site.port}`;
    const config = join(site.folder, "portcullis.toml");
    writeFileSync(config, site.#config());
    const log = openSync(join(site.folder, "log"), "w");
    site.process = spawn(process.env.PORTCULLIS_BIN, ["run", "--config", config], { stdio: ["ignore", log, log] });
    await until(async () => (await fetch(`http://127.0.0.1:${site.adminPort}/ready`)).ok, () => site.log());
    return site;
  }

  /** Ends everything. */
  async stop() {
    if (this.process.exitCode === null) {
      this.process.kill("SIGTERM");
      await once(this.process, "exit");
    }
    for (const server of [this.legacy, this.allowed, this.stranger]) {
      server.closeAllConnections();
      server.close();
    }
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** The end of the gateway's log. */
  log() {
    return readFileSync(join(this.folder, "log"), "utf8").split("\n").slice(-30).join("\n");
  }

  /** The first access line of which `matches` is true, once there is one. */
  async logged(matches) {
    for (;;) {
      const lines = readFileSync(join(this.folder, "log"), "utf8").split("\n").filter((line) => line.startsWith("{"));
      const found = lines.map((line) => JSON.parse(line)).find((line) => line.method && matches(line));
      if (found) return found;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** Lets the stream of events that is open go on. */
  nextEvent() {
    this.events.write("data: second\n\n");
  }

  #config() {
    return `
version = 1
[[listener]]
address = "127.0.0.1:${this.port}"
[admin]
address = "127.0.0.1:${this.adminPort}"
[log]
format = "json"
[pool.main]
id = "eu-west-1_Embedded1"
client_id = "4hrtn0example0client0id000"
[pool.main.embedded]
address = "127.0.0.1:0"
users = [{ username = "${USER.username}", password = "${USER.password}" }]
[upstream.legacy]
servers = ["http://127.0.0.1:${portOf(this.legacy)}"]
[[route]]
path = "/*"
upstream = "legacy"
[[route]]
path = "/public/*"
upstream = "legacy"
access = "public"
[[route]]
path = "/socket"
upstream = "legacy"
websocket = true
origins = ["http://127.0.0.1:${portOf(this.allowed)}"]
[auth]
cors = { origins = ["http://127.0.0.1:${portOf(this.allowed)}"] }
`;
  }

  /** The legacy site: a page, a stream of events whose second one waits to be let go, and an echo of headers. */
  #answer(request, response) {
    if (request.url.endsWith("/events")) {
      response.writeHead(200, { "Content-Type": "text/event-stream" });
      response.write("data: first\n\n");
      this.events = response;
    } else if (request.url.endsWith("/page")) {
      blank(response);
    } else {
      response.writeHead(200, { "Content-Type": "application/json" });
      response.end(JSON.stringify(request.headers));
    }
  }
}

/** Where a server of ours listens. */
export function portOf(server) {
  return server.address().port;
}

async function served(handler) {
  const server = createServer(handler);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}

async function freePort() {
  const server = await served(() => {});
  const port = portOf(server);
  server.close();
  await once(server, "close");
  return port;
}

function blank(response) {
  response.writeHead(200, { "Content-Type": "text/html" });
  response.end("<!doctype html><title>page</title>");
}

async function until(condition, explain) {
  const end = Date.now() + 30_000;
  for (;;) {
    if (await condition().catch(() => false)) return;
    if (Date.now() > end) throw new Error(`the gateway is not ready: ${explain()}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
