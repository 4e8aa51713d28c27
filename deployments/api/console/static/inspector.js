// What is known of one token: where it came from, and what else the target might have said.

import { h, milliseconds, number, visible } from "./dom.js";
import { source, sourceClass } from "./sources.js";

export class Inspector {
  constructor(openStep) {
    this.openStep = openStep;
    this.element = h("div", { class: "inspector", role: "status", "aria-label": "The token" });
    this.clear();
  }

  clear() {
    this.element.replaceChildren(h("p", { class: "muted" }, "Point at a token, or focus the text and use the arrow keys, to see where it came from."));
  }

  show(run, index) {
    const token = run.tokens[index];
    const step = run.steps[token.step];
    const { label, why, letter } = source(token.source);
    const place = token.drafted ? `depth ${token.depth}` : token.depth > 1 ? `after ${token.depth - 1} drafted` : "nothing drafted before it";
    this.element.replaceChildren(
      h("div", { class: "of-token" },
        h("code", { class: "big" }, visible(token.text)),
        h("div", {},
          h("p", { class: "strong" }, h("span", { class: `swatch ${sourceClass(token.source)}`, "aria-hidden": "true" }, letter), ` ${label}`),
          h("p", { class: "muted" }, why))),
      alternatives(token),
      h("dl", { class: "facts" },
        fact("Step", `${token.step + 1} of ${run.steps.length}`), fact("Place", place),
        fact("Logprob", number(token.logprob, 3)), fact("Token id", String(token.token)),
        fact("Step took", milliseconds(step.timings.step_s)), fact("Price", number(step.price, 3))),
      h("button", { type: "button", class: "quiet small", on: { click: () => this.openStep(run, token.step) } }, `Show step ${token.step + 1} as a tree`));
  }
}

export function fact(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}

function alternatives(token) {
  if (!token.top?.length) return null;
  const best = [...token.top].sort((a, b) => b[1] - a[1]);
  return h("ol", { class: "alternatives", "aria-label": "Likeliest tokens" }, best.map(([text, logprob]) => {
    const share = Math.exp(logprob);
    const chosen = Math.abs(logprob - token.logprob) < 1e-9;
    return h("li", { class: chosen ? "chosen" : "" },
      h("code", {}, visible(text)), h("span", { class: "bar", "aria-hidden": "true", style: { "--share": String(share) } }),
      h("span", { class: "muted" }, `${number(100 * share, 1)} %`));
  }));
}
