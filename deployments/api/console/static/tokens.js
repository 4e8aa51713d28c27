// A run's text, token by token. One tab stop: arrow keys move between tokens. What is pointed at or focused is told to `onToken`.

import { h, visible } from "./dom.js";
import { SOURCES, source, sourceClass } from "./sources.js";

export class TokenText {
  constructor(run, onToken) {
    this.run = run;
    this.onToken = onToken;
    this.shown = 0;
    this.active = -1;
    this.element = h("div", { class: "tokens", role: "listbox", "aria-label": "Text by tokens; arrow keys move", tabindex: "0", on: {
      keydown: (event) => this.#key(event),
      focus: () => { if (this.active < 0 && this.shown) this.select(0); },
      pointerover: (event) => this.#point(event.target),
      click: (event) => this.#point(event.target),
    } });
  }

  update() {
    const { tokens } = this.run;
    if (tokens.length === this.shown) return;
    const next = tokens.slice(this.shown).map((token, i) => makeToken(token, this.shown + i));
    this.element.append(...next);
    this.shown = tokens.length;
  }

  select(index) {
    if (index < 0 || index >= this.shown) return;
    this.element.children[this.active]?.setAttribute("aria-selected", "false");
    this.active = index;
    const chosen = this.element.children[index];
    chosen.setAttribute("aria-selected", "true");
    this.element.setAttribute("aria-activedescendant", chosen.id ||= `token-${crypto.randomUUID?.() ?? Math.random()}`);
    this.onToken(this.run, index);
  }

  // The tokens of one step stand out.
  markStep(step) {
    for (const each of this.element.querySelectorAll(".of-step")) each.classList.remove("of-step");
    this.run.tokens.forEach((token, i) => { if (token.step === step) this.element.children[i]?.classList.add("of-step"); });
  }

  #point(target) {
    const token = target.closest?.(".token");
    if (token) this.select(Number(token.dataset.index));
  }

  #key(event) {
    const moves = { ArrowRight: this.active + 1, ArrowLeft: this.active - 1, Home: 0, End: this.shown - 1 };
    const to = event.key === "ArrowDown" ? this.#line(1) : event.key === "ArrowUp" ? this.#line(-1) : moves[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.select(Math.max(0, Math.min(this.shown - 1, to)));
    this.element.children[this.active]?.scrollIntoView({ block: "nearest" });
  }

  // The token nearest above or below.
  #line(way) {
    const here = this.element.children[this.active]?.getBoundingClientRect();
    let best = this.active, nearest = Infinity;
    for (let i = this.active + way; here && i >= 0 && i < this.shown; i += way) {
      const there = this.element.children[i].getBoundingClientRect();
      const rows = Math.abs(there.top - here.top);
      if (rows < 4) continue;
      if (rows > 3 * here.height) break;
      const distance = rows * 4 + Math.abs(there.left - here.left);
      if (distance < nearest) [best, nearest] = [i, distance];
    }
    return best;
  }
}

function makeToken(token, index) {
  const text = token.text === "" ? "" : token.text;
  const name = `${visible(token.text)}, ${source(token.source).label}`;
  const classes = `token ${sourceClass(token.source)}${text === "" ? " part" : ""}`;
  return h("span", { class: classes, role: "option", "aria-selected": "false", "aria-label": name, data: { index } }, text);
}

// Which sources there are, with their marks, and how much of the text each made.
export class Legend {
  constructor() {
    this.element = h("ul", { class: "legend", "aria-label": "Sources of tokens" });
  }

  update(run) {
    const counts = new Map();
    for (const token of run.tokens) counts.set(token.source, (counts.get(token.source) ?? 0) + 1);
    const shown = Object.keys(SOURCES).filter((name) => counts.has(name) || (!run.tokens.length && ["target", "model", "lookup"].includes(name)));
    this.element.replaceChildren(...shown.map((name) => entry(name, counts.get(name), run.tokens.length)));
  }
}

function entry(name, count, all) {
  const { label, letter, why } = source(name);
  const share = count ? h("span", { class: "muted" }, `${Math.round((100 * count) / all)} %`) : null;
  return h("li", { title: why }, h("span", { class: `swatch ${sourceClass(name)}`, "aria-hidden": "true" }, letter), h("span", {}, label), share);
}
