// A run's steps side by side: above the line what was drafted, verified and accepted, below it how long the step took.
// One control, as a slider is: arrow keys go from step to step.

import { h, milliseconds, plural, svg } from "./dom.js";

const WIDTH = 14, GAP = 4, UP = 56, DOWN = 34, PAD = 2;

export class StepLane {
  constructor(onStep) {
    this.onStep = onStep;
    this.run = null;
    this.step = -1;
    this.drawing = svg("svg", { "aria-hidden": "true", height: UP + DOWN + 2 * PAD });
    this.slider = h("div", { class: "lane", role: "slider", tabindex: "0", "aria-label": "Step", "aria-valuemin": "1", on: {
      keydown: (event) => this.#key(event), click: (event) => this.#click(event),
    } }, this.drawing);
    this.says = h("p", { class: "muted lane-says" });
    this.element = h("div", { class: "lane-box" }, this.slider, h("div", { class: "lane-foot" }, this.says, key()));
    this.update(null);
  }

  update(run) {
    this.run = run;
    const steps = run?.steps ?? [];
    this.element.hidden = !steps.length;
    if (!steps.length) return;
    const most = Math.max(4, ...steps.map((step) => step.nodes.length + step.nodes_left_out));
    const longest = Math.max(...steps.map(seconds));
    this.drawing.setAttribute("width", steps.length * (WIDTH + GAP) + GAP);
    this.drawing.replaceChildren(
      svg("line", { class: "axis", x1: 0, x2: steps.length * (WIDTH + GAP) + GAP, y1: UP + PAD, y2: UP + PAD }),
      ...steps.map((step, i) => column(step, i, most, longest, i === this.step)));
    this.slider.setAttribute("aria-valuemax", steps.length);
    this.#tell();
  }

  select(index, quietly = false) {
    const steps = this.run?.steps ?? [];
    if (!steps.length) return;
    this.step = Math.max(0, Math.min(steps.length - 1, index));
    this.drawing.querySelector(".column.on")?.classList.remove("on");
    this.drawing.querySelectorAll(".column")[this.step]?.classList.add("on");
    this.#tell();
    const left = this.step * (WIDTH + GAP);
    if (left < this.slider.scrollLeft || left + WIDTH > this.slider.scrollLeft + this.slider.clientWidth) {
      this.slider.scrollLeft = left - this.slider.clientWidth / 2;
    }
    if (!quietly) this.onStep(this.run, this.step);
  }

  #tell() {
    const step = this.run.steps[this.step];
    const text = step ? `Step ${this.step + 1} of ${this.run.steps.length}: ${summary(step)}` : `${plural(this.run.steps.length, "step")}; choose one`;
    this.says.textContent = text;
    this.slider.setAttribute("aria-valuenow", this.step + 1 || 1);
    this.slider.setAttribute("aria-valuetext", text);
  }

  #key(event) {
    const moves = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10, Home: -1e9, End: 1e9 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.select(this.step + moves[event.key]);
  }

  #click(event) {
    this.select(Math.floor((event.clientX - this.drawing.getBoundingClientRect().left - GAP / 2) / (WIDTH + GAP)));
  }
}

export function summary(step) {
  const drafted = step.nodes.length + step.nodes_left_out;
  const verified = step.nodes.filter((node) => node.verified).length;
  return `${drafted} drafted, ${verified} verified, ${step.accepted.length} accepted; ${plural(step.tokens.length, "token")} in ${milliseconds(seconds(step))}`;
}

function seconds(step) {
  return step.timings.wait_s + step.timings.step_s;
}

function column(step, index, most, longest, on) {
  const x = GAP + index * (WIDTH + GAP);
  // By the square root: a step of a few nodes is seen beside one of hundreds.
  const high = (count) => (count ? Math.max(3, UP * Math.sqrt(count / most)) : 0);
  const bar = (name, count) => svg("rect", { class: name, x, y: PAD + UP - high(count), width: WIDTH, height: high(count), rx: 2 });
  const long = (DOWN - 2) * (seconds(step) / longest), run = (DOWN - 2) * (step.timings.step_s / longest);
  return svg("g", { class: `column${on ? " on" : ""}` },
    svg("rect", { class: "hit", x: x - GAP / 2, y: 0, width: WIDTH + GAP, height: UP + DOWN + 2 * PAD, rx: 3 }),
    bar("drafted", step.nodes.length + step.nodes_left_out), bar("verified", step.nodes.filter((node) => node.verified).length),
    bar("accepted", step.accepted.length),
    svg("rect", { class: "waited", x, y: UP + PAD + 2, width: WIDTH, height: Math.max(1, long), rx: 2 }),
    svg("rect", { class: "ran", x, y: UP + PAD + 2, width: WIDTH, height: Math.max(1, run), rx: 2 }));
}

function key() {
  const names = [["drafted", "drafted"], ["verified", "verified"], ["accepted", "accepted"], ["ran", "step"], ["waited", "wait before it"]];
  return h("ul", { class: "legend small" }, names.map(([name, label]) => h("li", {}, h("span", { class: `box ${name}`, "aria-hidden": "true" }), label)));
}
