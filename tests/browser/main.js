// Walks through what a page in a browser can do at the gateway, in each browser that is installed.

import { existsSync } from "node:fs";

import puppeteer from "puppeteer-core";

import { Site } from "./site.js";
import { steps } from "./steps.js";

const BROWSERS = [
  {
    name: "Chromium",
    options: { browser: "chrome", executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-quic"] },
  },
  { name: "Firefox", options: { browser: "firefox", executablePath: "/usr/bin/firefox-esr" } },
];

let ran = 0;
let failed = 0;
for (const { name, options } of BROWSERS) {
  if (!existsSync(options.executablePath)) {
    console.log(`SKIPPED ${name}: ${options.executablePath} is not installed`);
    continue;
  }
  const site = await Site.start();
  const browser = await puppeteer.launch({ ...options, headless: true });
  try {
    console.log(`${name}, ${await browser.version()}`);
    for (const step of steps) {
      ran += 1;
      const page = await browser.newPage();
      try {
        await Promise.race([step(page, site), timeout(30_000)]);
        console.log(`  ok     ${told(step)}`);
      } catch (error) {
        failed += 1;
        console.log(`  FAILED ${told(step)}\n${error.stack}\n${site.log()}`);
      }
      await page.close();
    }
  } finally {
    await browser.close();
    await site.stop();
  }
}
if (ran === 0) console.log("no browser is installed");
console.log(`browser: ${ran - failed} steps passed, ${failed} failed`);
process.exitCode = ran > 0 && failed === 0 ? 0 : 1;

function told(step) {
  return step.name.replaceAll("_", " ");
}

function timeout(after) {
  return new Promise((_, reject) => setTimeout(() => reject(new Error(`nothing after ${after} ms`)), after).unref());
}
