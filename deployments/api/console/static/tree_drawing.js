// A step's tree as a drawing. One tab stop: arrow keys move between nodes.

import { cut, fixed, svg, visible } from "./dom.js";
import { source, sourceClass } from "./sources.js";
import { BONUS, ROOT, layout } from "./tree_layout.js";

const WIDE = 116, HIGH = 34, ACROSS = 152, DOWN = 44, PAD = 8;

export class TreeDrawing {
  constructor(onNode) {
    this.onNode = onNode;
    this.element = svg("svg", { class: "tree", role: "group", "aria-label": "Token tree; arrow keys move between nodes" });
    this.element.addEventListener("keydown", (event) => this.#key(event));
  }

  // `before`: the text of the last token before the step. Returns how many nodes are not shown.
  draw(step, before, most) {
    const { nodes, rows, depths, hidden } = layout(step, most);
    const width = depths * ACROSS + WIDE + 2 * PAD, height = (rows - 1) * DOWN + HIGH + 2 * PAD;
    for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) this.element.setAttribute(name, value);
    this.places = new Map(nodes.map((node) => [node.index, { ...node, x: PAD + node.depth * ACROSS, y: PAD + node.row * DOWN }]));
    this.nodes = nodes;
    const accepted = new Set(step.accepted);
    const edges = nodes.filter((node) => node.parent !== null).map((node) => this.#edge(node, step, accepted));
    this.groups = new Map(nodes.map((node) => [node.index, this.#node(this.places.get(node.index), step, before, accepted)]));
    this.element.replaceChildren(...edges, ...this.groups.values());
    this.chosen = ROOT;
    this.groups.get(ROOT).setAttribute("tabindex", "0");
    return hidden;
  }

  choose(index, focus = false) {
    if (!this.groups.has(index)) return;
    const former = this.groups.get(this.chosen);
    former?.setAttribute("tabindex", "-1");
    former?.classList.remove("on");
    this.chosen = index;
    const group = this.groups.get(index);
    group.setAttribute("tabindex", "0");
    group.classList.add("on");
    if (focus) {
      group.focus({ preventScroll: true });
      group.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
    this.onNode(index);
  }

  #edge({ index, parent }, step, accepted) {
    const from = this.places.get(parent), to = this.places.get(index);
    const [x1, y1, x2, y2] = [from.x + WIDE, from.y + HIGH / 2, to.x, to.y + HIGH / 2];
    const bend = (x2 - x1) / 2;
    const lit = index === BONUS || accepted.has(index);
    const kind = index === BONUS ? "lit" : lit ? "lit" : step.nodes[index].verified ? "" : "offered";
    return svg("path", { class: `edge ${kind}`, d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}` });
  }

  #node(place, step, before, accepted) {
    const { index, x, y } = place;
    const node = step.nodes[index];
    const token = index === ROOT ? before : index === BONUS ? step.tokens.at(-1).text : node.text;
    const kind = index === ROOT ? "root" : index === BONUS ? "bonus" : accepted.has(index) ? "accepted" : node.verified ? "verified" : "offered";
    const from = index >= 0 ? node.source : "target";
    const words = { root: "before the step", bonus: "the target's own", accepted: "accepted", verified: "verified", offered: "drafted only" }[kind];
    const confidence = node ? fixed(node.confidence, 2) : kind === "bonus" ? "T" : "";
    const label = `${visible(token)}, ${words}${node ? `, ${source(from).label}, confidence ${confidence}` : ""}`;
    const listeners = { click: () => this.choose(index, true), focus: () => { if (this.chosen !== index) this.choose(index); } };
    return svg("g", { class: `node ${kind}`, role: "button", tabindex: "-1", "aria-label": label, transform: `translate(${x} ${y})`, on: listeners },
      svg("rect", { class: "card", width: WIDE, height: HIGH, rx: 7 }),
      index >= 0 ? svg("rect", { class: `stripe ${sourceClass(from)}`, x: 4, y: 6, width: 4, height: HIGH - 12, rx: 2 }) : null,
      svg("text", { class: "word", x: 15, y: 22 }, cut(visible(token), confidence ? 9 : 12)),
      svg("text", { class: "share", x: WIDE - 9, y: 22, "text-anchor": "end" }, confidence));
  }

  #key(event) {
    const here = this.nodes.find((node) => node.index === this.chosen);
    const order = this.nodes.filter((node) => node.depth === here.depth).sort((a, b) => a.row - b.row);
    const at = order.findIndex((node) => node.index === here.index);
    const to = {
      ArrowLeft: () => here.parent,
      ArrowRight: () => this.nodes.find((node) => node.parent === here.index)?.index,
      ArrowUp: () => order[at - 1]?.index,
      ArrowDown: () => order[at + 1]?.index,
      Home: () => ROOT,
    }[event.key]?.();
    if (to === undefined || to === null) return;
    event.preventDefault();
    this.choose(to, true);
  }
}
