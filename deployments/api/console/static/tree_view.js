// One step's tree, as drafted and selected; steps forwards and backwards through a run, here or by its id.

import { get } from "./api.js";
import { h, milliseconds, number, plural, visible } from "./dom.js";
import { fact } from "./inspector.js";
import { StepLane, summary } from "./lane.js";
import { runOfTrace } from "./run.js";
import { source } from "./sources.js";
import { TreeDrawing } from "./tree_drawing.js";
import { BONUS, ROOT } from "./tree_layout.js";

const SHOWN = 48;

export class TreeView {
  constructor() {
    Object.assign(this, { run: null, step: 0, most: SHOWN });
    this.lane = new StepLane((run, step) => this.#go(step));
    this.drawing = new TreeDrawing((index) => this.#tell(index));
    this.back = h("button", { type: "button", "aria-label": "Step before", on: { click: () => this.#go(this.step - 1) } }, "←");
    this.forth = h("button", { type: "button", "aria-label": "Next step", on: { click: () => this.#go(this.step + 1) } }, "→");
    this.title = h("h2", { "aria-live": "polite" });
    this.summary = h("p", { class: "muted" });
    this.all = h("button", { type: "button", class: "quiet small", hidden: true, on: { click: () => { this.most = 1 << 10; this.#draw(); } } });
    this.facts = h("div", { class: "node-facts", role: "status" });
    this.text = h("p", { class: "so-far" });
    this.rows = h("tbody");
    this.empty = h("p", { class: "empty muted" }, "No run yet. Generate something in the playground, or open a request's trace by its id.");
    this.shown = h("div", { class: "stack large", hidden: true }, this.#head(), this.#canvas());
    this.element = h("div", { class: "tree-view" }, this.#finder(), this.empty, this.shown);
    document.addEventListener("keydown", (event) => this.#key(event));
  }

  show(run, step = 0) {
    if (this.run !== run) this.most = SHOWN;
    this.run?.removeEventListener("change", this.listener);
    this.run = run;
    this.step = step;
    this.listener = () => this.update();
    run.addEventListener("change", this.listener);
    this.update(true);
  }

  // While a run goes on its steps become more; the one that is shown stays.
  update(redraw = false) {
    const steps = this.run?.steps.length ?? 0;
    const first = this.shown.hidden;
    this.empty.hidden = steps > 0;
    this.shown.hidden = !steps;
    if (!steps || this.element.parentElement?.hidden) return;
    this.lane.update(this.run);
    if (first || redraw) this.#go(this.step);
    this.forth.disabled = this.step >= steps - 1;
  }

  #head() {
    return h("section", { class: "panel", "aria-label": "Steps of the run" },
      h("div", { class: "step-head" }, h("div", { class: "row" }, this.back, this.forth), h("div", {}, this.title, this.summary)),
      this.lane.element, this.text);
  }

  #canvas() {
    const kinds = [["accepted", "accepted"], ["bonus", "the target's own"], ["verified", "verified, not taken"], ["offered", "drafted, not verified"]];
    const legend = h("ul", { class: "legend small" }, kinds.map(([name, label]) => h("li", {}, h("span", { class: `box node-box ${name}`, "aria-hidden": "true" }), label)));
    const table = h("table", {}, h("thead", {}, h("tr", {}, ["Node", "Below", "Token", "Source", "Edge", "Confidence", "State"].map((name) => h("th", { scope: "col" }, name)))), this.rows);
    return h("section", { class: "panel", "aria-label": "Nodes of the step" },
      h("div", { class: "split" }, legend, this.all),
      h("div", { class: "canvas" }, this.drawing.element), this.facts,
      h("details", { class: "as-table" }, h("summary", {}, "The nodes as a table"), h("div", { class: "scrolls", tabindex: "0", role: "group", "aria-label": "Nodes" }, table)));
  }

  #finder() {
    const input = h("input", { id: "trace-id", type: "text", autocomplete: "off", spellcheck: "false", placeholder: "chatcmpl-…" });
    const error = h("p", { class: "error", role: "alert", hidden: true });
    const find = async (event) => {
      event.preventDefault();
      error.hidden = true;
      try {
        this.show(runOfTrace(await get(`v1/requests/${encodeURIComponent(input.value.trim())}/trace`)));
      } catch (fault) {
        error.textContent = fault.message;
        error.hidden = false;
      }
    };
    return h("form", { class: "finder", "aria-label": "Open a trace", on: { submit: find } },
      h("label", { for: "trace-id" }, "Request id"), input, h("button", { type: "submit" }, "Open"), error);
  }

  #go(step) {
    const last = this.run.steps.length - 1;
    this.step = Math.max(0, Math.min(last, step));
    this.back.disabled = this.step === 0;
    this.forth.disabled = this.step === last;
    this.lane.select(this.step, true);
    this.#draw();
  }

  #draw() {
    const step = this.run.steps[this.step];
    const before = this.run.tokens[step.first_token_index - 1 - (this.run.steps[0]?.first_token_index ?? 0)]?.text ?? "the prompt";
    this.title.textContent = `Step ${this.step + 1} of ${this.run.steps.length}`;
    this.summary.textContent = `${summary(step)} · price ${number(step.price, 3)}`;
    const hidden = this.drawing.draw(step, before, this.most);
    this.all.hidden = hidden <= step.nodes_left_out;
    this.all.textContent = `Show ${plural(hidden - step.nodes_left_out, "more node")}`;
    this.drawing.choose(step.accepted[0] ?? (step.tokens.length ? BONUS : ROOT));
    this.#soFar(step);
    this.rows.replaceChildren(...step.nodes.map((node, index) => row(node, index, step)));
  }

  #soFar(step) {
    const at = this.run.steps.indexOf(step);
    const said = this.run.tokens.filter((token) => token.step < at).slice(-24).map((token) => token.text).join("");
    this.text.replaceChildren(h("span", { class: "muted" }, said), h("mark", {}, step.tokens.map((token) => token.text).join("")));
  }

  #tell(index) {
    const step = this.run.steps[this.step];
    const node = step.nodes[index];
    const facts = !node
      ? [fact("Token", index === ROOT ? "the last before the step" : visible(step.tokens.at(-1).text)), fact("Chosen by", "the target"), fact("Price of a node", number(step.price, 4)),
        fact("Ran", milliseconds(step.timings.device_s)), fact("Waited", milliseconds(step.timings.wait_s))]
      : [fact("Token", visible(node.text)), fact("Source", source(node.source).label), fact("Edge", number(node.edge, 3)),
        fact("Confidence", number(node.confidence, 4)), fact("Price", number(step.price, 4)), fact("State", state(node, index, step)), fact("Target after it", textOf(node.chosen, step))];
    this.facts.replaceChildren(h("dl", { class: "facts" }, facts));
  }

  #key(event) {
    if (!this.run || this.element.parentElement.hidden || event.target.matches("input, textarea, dialog *")) return;
    const way = { "[": -1, "]": 1, ",": -1, ".": 1 }[event.key];
    if (way) this.#go(this.step + way);
  }
}

function state(node, index, step) {
  return step.accepted.includes(index) ? "accepted" : node.verified ? "verified, not taken" : "not verified";
}

// Of a token id the text is known where the step has it.
function textOf(id, step) {
  if (id === null) return "not asked";
  const found = [...step.tokens, ...step.nodes].find((each) => each.token === id);
  return found ? visible(found.text) : `token ${id}`;
}

function row(node, index, step) {
  const cells = [index, node.parent < 0 ? "root" : node.parent, visible(node.text), source(node.source).label, number(node.edge, 3), number(node.confidence, 4), state(node, index, step)];
  return h("tr", {}, cells.map((cell) => h("td", {}, String(cell))));
}
