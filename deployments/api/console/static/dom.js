// Elements from data. Text is only ever set as text: what a model says is never read as markup.

const SVG = "http://www.w3.org/2000/svg";

// Properties: `on` is a map of listeners, `style` of custom properties, `data` of data attributes; all else are attributes.
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "style") for (const [key, said] of Object.entries(value)) element.style.setProperty(key, said);
    else if (name === "data") for (const [key, said] of Object.entries(value)) element.dataset[key] = said;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// A token's text so that blanks and line ends are seen.
export function visible(text) {
  if (text === "") return "∅";
  return text.replace(/^ +| +$|(?<=\n) +/g, (blanks) => "·".repeat(blanks.length)).replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

export function cut(text, length) {
  const characters = [...text];
  return characters.length > length ? `${characters.slice(0, length - 1).join("")}…` : text;
}

export function number(value, digits = 1) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

export function fixed(value, digits) {
  return Number.isFinite(value) ? value.toFixed(digits) : "–";
}

export function milliseconds(seconds) {
  const ms = seconds * 1000;
  return ms >= 10_000 ? `${number(seconds, 1)} s` : `${number(ms, ms < 10 ? 1 : 0)} ms`;
}

export function plural(count, one, many = `${one}s`) {
  return `${number(count, 0)} ${count === 1 ? one : many}`;
}
