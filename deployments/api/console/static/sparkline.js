// A figure with its course over the last minutes.

import { h, svg } from "./dom.js";

const WIDTH = 200, HEIGHT = 36, PAD = 2;

export function tile(name, value, unit, series, note) {
  return h("div", { class: "panel tile" },
    h("p", { class: "tile-name" }, name),
    h("p", { class: "tile-value" }, h("span", { class: "figure" }, value), unit ? h("span", { class: "muted" }, ` ${unit}`) : null),
    sparkline(series), h("p", { class: "muted note" }, note));
}

// From 0 to the largest; where a figure is not known the line has a gap.
export function sparkline(series) {
  const most = Math.max(1e-9, ...series.filter((value) => value !== null && value !== undefined));
  const count = Math.max(30, series.length);
  const x = (i) => PAD + ((WIDTH - 2 * PAD) * (i + count - series.length)) / (count - 1);
  const y = (value) => HEIGHT - PAD - ((HEIGHT - 2 * PAD) * value) / most;
  const parts = [];
  series.forEach((value, i) => {
    if (value === null || value === undefined) parts.push([]);
    else (parts.length ? parts.at(-1) : (parts.push([]), parts[0])).push([x(i), y(value)]);
  });
  const runs = parts.filter((part) => part.length);
  const line = (part) => part.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
  return svg("svg", { class: "sparkline", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT - PAD, y2: HEIGHT - PAD }),
    ...runs.map((part) => svg("path", { class: "area", d: `${line(part)}L${part.at(-1)[0].toFixed(1)} ${HEIGHT - PAD}L${part[0][0].toFixed(1)} ${HEIGHT - PAD}Z` })),
    ...runs.map((part) => svg("path", { class: "line", d: line(part) })));
}
