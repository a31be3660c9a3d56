// The buttons that steer a run, for those who may.

import { post, runPath } from "./api.js";
import { el, say } from "./dom.js";

const isHalted = ({ phase }) => ["paused", "stopped", "failed"].includes(phase.kind);
const isEnded = ({ phase }) => ["finished", "stopped", "failed"].includes(phase.kind);

/** What can be done; `fields` are asked for, and `ask` says what cannot be undone. */
const ORDERS = [
  { name: "pause", label: "Pause", when: (run) => !isEnded(run) && run.phase.kind !== "paused", fields: [["reason", "Why", "text", () => "from the dashboard"]], about: "Nothing more is handed out; what is in work comes to its end and counts." },
  { name: "resume", label: "Resume", when: isHalted, fields: [], about: "The run goes on; failure counts begin anew." },
  { name: "extend", label: "Change the number of steps", when: () => true, fields: [["steps", "Steps of the whole run", "number", (run) => run.steps_total]], about: "A finished run goes on; one that goes on may end earlier." },
  { name: "rollback", label: "Roll back", when: (run) => run.step > 0, fields: [["step", "Keep the steps up to", "number", (run) => Math.max(0, run.step - 1)]], danger: true, about: "The steps after that one are taken back, and the run is paused there. This cannot be undone." },
  { name: "cancel", label: "Cancel", when: (run) => !isEnded(run), fields: [["reason", "Why", "text", () => "from the dashboard"]], danger: true, about: "The run stops at once; what is in work is lost. It can be resumed." },
];

/** A dialog that asks, sends, and shows what the coordinator refuses and what it says to do. */
function ask({ label, about, fields, danger }, run, send) {
  const refusal = el("p", { class: "bad", role: "alert" });
  const inputs = fields.map(([name, words, type, initial]) =>
    el("label", {}, el("span", {}, words), el("input", { name, type, required: true, value: initial(run), ...(type === "number" ? { min: 0, step: 1 } : { maxlength: 500 }) })),
  );
  const form = el(
    "form",
    { method: "dialog" },
    el("h2", { id: "ask" }, `${label}: ${run.run || "all workers"}`),
    el("p", {}, about),
    inputs,
    refusal,
    el("div", { class: "row" }, el("button", { type: "submit", class: danger ? "danger" : "primary" }, label), el("button", { type: "button", click: () => dialog.close() }, "Leave it")),
  );
  const dialog = el("dialog", { "aria-labelledby": "ask", close: () => dialog.remove() }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, form.elements[name].type === "number" ? Number(value) : value]));
    try {
      await send(body);
      dialog.close();
    } catch (error) {
      say(refusal, error.hint ? `${error.message}. ${error.hint}` : error.message);
    }
  });
  document.body.append(dialog);
  dialog.showModal();
}

/** The buttons for a run in `node`; `show(run)` keeps them as the run is. Whoever may only look gets none. */
export function createControls(node, { maySteer }) {
  if (!maySteer) return { show() {} };
  let run = null;
  const buttons = ORDERS.map((order) => {
    const send = (body) => post(runPath(run.run, order.name), body);
    return [order, el("button", { type: "button", class: order.danger ? "danger" : null, hidden: true, click: () => ask(order, run, send) }, order.label)];
  });
  const command = el("code", {});
  const fork = el("details", { class: "fork" }, el("summary", {}, "Fork"), el("p", {}, "A new run with this one's adapter and other settings is begun with"), command);
  node.append(el("div", { class: "row", role: "group", "aria-label": "Steer this run" }, buttons.map(([, button]) => button), fork));
  return {
    show(next) {
      run = next;
      for (const [order, button] of buttons) button.hidden = !order.when(run);
      say(command, `gavel fork ${run.run} --step ${run.step} --name NEW --set KEY=VALUE --connect ADDRESS`);
    },
  };
}

/** The button that tells all workers to leave. */
export function createDrain(node, { maySteer }) {
  if (!maySteer) return;
  const about = "Every worker that is there finishes what it holds and leaves; workers that start later stay. This cannot be undone.";
  const order = { label: "Drain", about, fields: [], danger: true };
  node.append(el("button", { type: "button", class: "danger", click: () => ask(order, {}, () => post("/api/v1/drain", {})) }, "Drain the workers"));
}
