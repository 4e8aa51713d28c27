// The playground: one request, its text by tokens, its steps; and the same request without drafts beside it.

import { cut, h, milliseconds, number, plural } from "./dom.js";
import { bodyOf } from "./fields.js";
import { RequestForm } from "./form.js";
import { Inspector } from "./inspector.js";
import { StepLane } from "./lane.js";
import { Run } from "./run.js";
import { Legend, TokenText } from "./tokens.js";

export class Playground {
  // `open(run, step)` shows a step as a tree; `onRun` hears of each new run, `onStep` of each step that is chosen, `onError` of each error.
  constructor(model, { open, onRun, onStep, onError }) {
    Object.assign(this, { model, onRun, onError, runs: [], cards: [] });
    this.form = new RequestForm({ run: () => this.run(), compare: () => this.compare(), stop: () => this.runs.forEach((run) => run.stop()) });
    this.inspector = new Inspector(open);
    this.lane = new StepLane((run, step) => {
      this.cards.forEach((card) => card.run === run && card.text.markStep(step));
      onStep(run, step);
    });
    this.legend = new Legend();
    this.verdict = h("div", { class: "verdict", role: "status", hidden: true });
    this.columns = h("div", { class: "outputs" }, h("div", { class: "empty muted" }, "The answer appears here, each token marked with what drafted it."));
    this.element = h("div", { class: "playground" }, this.form.element,
      h("div", { class: "results" }, this.verdict, this.columns,
        h("section", { class: "panel", "aria-label": "Sources and token" }, this.legend.element, this.inspector.element),
        h("section", { class: "panel", "aria-label": "Steps" }, h("h2", {}, "Steps"), this.lane.element)));
    this.legend.update({ tokens: [] });
  }

  async run() {
    const fields = this.#fields();
    if (!fields) return;
    this.#begin([new Run(this.form.chat, fields)]);
    await this.#go(this.runs[0]);
    this.form.setRunning(false);
  }

  // One after the other, so that neither takes the other's time; the second with the first one's seed.
  async compare() {
    const fields = this.#fields();
    if (!fields) return;
    const on = new Run(this.form.chat, { ...fields, speculation: { ...fields.speculation, mode: drafting(fields) } }, "Speculation on");
    const off = new Run(this.form.chat, { ...fields, speculation: { mode: "off" } }, "Speculation off");
    this.#begin([on, off]);
    await this.#go(on);
    if (on.state === "done") {
      if (on.seed) off.fields.seed = on.seed;
      await this.#go(off);
      this.#judge(on, off);
    }
    this.form.setRunning(false);
  }

  #fields() {
    this.form.showError(null);
    try {
      return { model: this.model(), ...bodyOf(this.form.values(), this.form.chat) };
    } catch (error) {
      this.form.showError(error);
      return null;
    }
  }

  #begin(runs) {
    this.runs = runs;
    this.verdict.hidden = true;
    this.inspector.clear();
    this.lane.step = -1;
    this.cards = runs.map((run) => new OutputCard(run, (of, index) => this.#token(of, index)));
    this.columns.replaceChildren(...this.cards.map((card) => card.element));
    this.columns.classList.toggle("two", runs.length > 1);
    this.form.setRunning(true);
    this.onRun(runs[0]);
    let asked = false;
    const draw = () => {
      asked = false;
      if (this.runs !== runs) return;
      this.cards.forEach((card) => card.update());
      this.legend.update(runs[0]);
      this.lane.update(runs[0]);
    };
    for (const run of runs) run.addEventListener("change", () => { if (!asked) { asked = true; requestAnimationFrame(draw); } });
    draw();
  }

  async #go(run) {
    await run.go();
    if (run.error) {
      this.form.showError(run.error);
      this.onError(run.error);
    }
  }

  #token(run, index) {
    this.inspector.show(run, index);
    const { step } = run.tokens[index];
    this.cards.forEach((card) => card.text.markStep(card.run === run ? step : -1));
    if (run === this.lane.run) this.lane.select(step, true);
  }

  #judge(on, off) {
    const equal = on.text === off.text && on.reasoning === off.reasoning;
    const at = [...on.text].findIndex((character, i) => character !== [...off.text][i]);
    const said = equal ? "The texts are equal" : "The texts differ";
    const where = equal ? `all ${plural(on.text.length, "character")}, seed ${on.seed}` : at < 0 ? "one is longer" : `from character ${at + 1}: ${cut(on.text.slice(at), 24)}`;
    const ratio = on.tokensPerSecond && off.tokensPerSecond ? on.tokensPerSecond / off.tokensPerSecond : null;
    this.verdict.hidden = false;
    this.verdict.className = `verdict ${equal ? "good" : "bad"}`;
    this.verdict.replaceChildren(
      h("div", {}, h("p", { class: "strong" }, `${equal ? "✓" : "≠"} ${said}`), h("p", { class: "muted" }, where)),
      h("div", {}, h("p", { class: "figure" }, ratio ? `${number(ratio, 2)}×` : "–"), h("p", { class: "muted" }, "tokens per second, on against off")),
      h("div", {}, h("p", { class: "figure" }, `${on.steps.length} / ${off.steps.length}`), h("p", { class: "muted" }, "steps of the target, on and off")));
  }
}

function drafting(fields) {
  const mode = fields.speculation?.mode ?? "auto";
  return mode === "off" ? "auto" : mode;
}

class OutputCard {
  constructor(run, onToken) {
    this.run = run;
    this.text = new TokenText(run, onToken);
    this.figures = h("p", { class: "muted figures" });
    this.copy = h("button", { type: "button", class: "quiet small", on: { click: () => navigator.clipboard?.writeText(run.text) } }, "Copy");
    this.copy.hidden = !navigator.clipboard; // a page that came without TLS has none
    this.element = h("section", { class: "panel output", "aria-label": run.label || "Answer" },
      h("div", { class: "output-head" }, h("h2", {}, run.label || "Answer"), this.figures, this.copy), this.text.element);
  }

  update() {
    const { run } = this;
    this.text.update();
    this.element.setAttribute("aria-busy", String(run.state === "running"));
    this.element.classList.toggle("running", run.state === "running");
    this.figures.textContent = figures(run);
  }
}

function figures(run) {
  if (run.state === "waiting") return "waits for its turn";
  if (run.state === "failed" && !run.tokens.length) return "failed";
  if (!run.tokens.length) return run.state === "running" ? "prompt…" : "nothing came";
  const speed = run.tokensPerSecond ? ` · ${number(run.tokensPerSecond, 0)} tokens/s` : "";
  const end = { stopped: " · stopped", failed: " · broke off" }[run.state] ?? "";
  const a = number(run.tokens.length / run.steps.length, 2);
  return `${plural(run.tokens.length, "token")} in ${plural(run.steps.length, "step")}, ${a} a step · first after ${milliseconds((run.first - run.began) / 1000)}${speed}${end}`;
}
