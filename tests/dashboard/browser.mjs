// A headless Chromium that is told what to do over the DevTools protocol, through two pipes: no port, no package.

import { spawn } from "node:child_process";
import { writeFile } from "node:fs/promises";

/** Longer than this nothing here takes. */
const PATIENCE_MS = 30000;

/** Starts a browser; `profile` is an empty folder. */
export function openBrowser(profile) {
  const switches = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe"];
  const child = spawn("chromium", [...switches, `--user-data-dir=${profile}`, "about:blank"], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
  const [, , , input, output] = child.stdio;
  const answers = new Map();
  const pages = new Map();
  let count = 0;
  let unread = "";

  output.setEncoding("utf8").on("data", (text) => {
    const messages = (unread + text).split("\0");
    unread = messages.pop();
    for (const message of messages.map((text) => JSON.parse(text))) {
      if (message.id) {
        const { resolve, reject } = answers.get(message.id);
        answers.delete(message.id);
        if (message.error) reject(new Error(JSON.stringify(message.error)));
        else resolve(message.result);
      } else pages.get(message.sessionId)?.(message);
    }
  });

  function call(method, params = {}, sessionId = undefined) {
    const id = ++count;
    input.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return new Promise((resolve, reject) => answers.set(id, { resolve, reject }));
  }

  async function openPage({ width = 1280, height = 900, dark = false } = {}) {
    const { targetId } = await call("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await call("Target.attachToTarget", { targetId, flatten: true });
    const own = (method, params) => call(method, params, sessionId);
    const complaints = [];
    pages.set(sessionId, ({ method, params }) => {
      if (method === "Runtime.exceptionThrown") complaints.push(params.exceptionDetails.exception?.description || params.exceptionDetails.text);
      if (method === "Log.entryAdded" && params.entry.level === "error") complaints.push(`${params.entry.source}: ${params.entry.text} ${params.entry.url || ""}`);
      if (method === "Runtime.consoleAPICalled" && params.type === "error") complaints.push(params.args.map(({ value, description }) => value || description).join(" "));
    });
    for (const domain of ["Page", "Runtime", "Log"]) await own(`${domain}.enable`);
    await own("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: false });
    await own("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }] });

    /** What an expression comes to in the page; a promise is awaited. */
    async function evaluate(expression) {
      const { result, exceptionDetails } = await own("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
      if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description || exceptionDetails.text}`);
      return result.value;
    }

    /** Waits until an expression holds. */
    async function until(expression) {
      const deadline = Date.now() + PATIENCE_MS;
      for (;;) {
        // A page that is being loaded has nothing to ask yet.
        const holds = await evaluate(`new Promise((told) => setTimeout(() => told(Boolean(${expression})), 40))`).catch(() => false);
        if (holds) return;
        if (Date.now() > deadline) {
          const shown = await evaluate("document.body.innerText.slice(0, 3000)").catch(String);
          throw new Error(`it never came to be that ${expression}; complaints: ${JSON.stringify(complaints)}; the page shows\n${shown}`);
        }
      }
    }

    async function key(name, { shift = false } = {}) {
      const codes = { Tab: 9, Enter: 13, Escape: 27, " ": 32 };
      const press = { key: name, code: name === " " ? "Space" : name, windowsVirtualKeyCode: codes[name], modifiers: shift ? 8 : 0, ...(name === "Enter" ? { text: "\r" } : name === " " ? { text: " " } : {}) };
      await own("Input.dispatchKeyEvent", { type: "keyDown", ...press });
      await own("Input.dispatchKeyEvent", { type: "keyUp", ...press });
    }

    async function mouse(type, x, y, more = {}) {
      await own("Input.dispatchMouseEvent", { type, x, y, button: "left", ...more });
    }

    return {
      complaints,
      evaluate,
      until,
      key,
      mouse,
      own,
      go: (url) => own("Page.navigate", { url }),
      type: (text) => own("Input.insertText", { text }),
      async shoot(file, clip) {
        const { data } = await own("Page.captureScreenshot", { format: "png", captureBeyondViewport: Boolean(clip), ...(clip ? { clip: { ...clip, scale: 1 } } : {}) });
        await writeFile(file, Buffer.from(data, "base64"));
      },
      close: () => call("Target.closeTarget", { targetId }),
    };
  }

  return {
    openPage,
    async close() {
      await call("Browser.close").catch(() => {});
      if (child.exitCode === null) await new Promise((ended) => child.once("exit", ended));
    },
  };
}
