// The run that is embedded in the page, and how elements, numbers and scales are made. All text reaches the
// document as text nodes, never as markup.

const run = JSON.parse(document.getElementById("run").textContent);
const free = run.groups.filter(group => group.frozen === null);
const trials = run.trials;
const place = id => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("--")) element.style.setProperty(key, value);
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter(child => child !== null && child !== undefined));
  return element;
}
const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const known = value => value !== null && value !== undefined;
const round = value => Math.round(value * 100) / 100;
function significant(value, digits = 3) {
  return known(value) ? String(Number(value.toPrecision(digits))) : "unknown";
}
function count(value) {
  for (const [unit, scale] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (value >= 0.9995 * scale) return `${Number((value / scale).toPrecision(3))} ${unit}`;
  }
  return significant(value);
}
const exact = value => value.toLocaleString("en").replaceAll(",", " ");
const plural = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

/** A long name without its middle: both ends of a module path tell groups apart. */
function shorten(name, length) {
  const half = Math.max(1, (length - 1) / 2);
  return name.length > length ? `${name.slice(0, Math.floor(half))}…${name.slice(-Math.ceil(half))}` : name;
}

const linear = (from, to, start, end) => value => start + (value - from) / (to - from || 1) * (end - start);
const logarithmic = (from, to, start, end) => {
  const scale = linear(Math.log2(from), Math.log2(to), start, end);
  return value => scale(Math.log2(value));
};
/** At least `wanted` round numbers that span [low, high]. */
function ticks(low, high, wanted = 4) {
  const raw = (high - low || 1) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [5, 2.5, 2, 1].find(factor => factor * power <= raw * (1 + 1e-9));
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(n * step);
  return found;
}
const extent = values => {
  const numbers = values.filter(known);
  return numbers.length ? [Math.min(...numbers), Math.max(...numbers)] : [0, 1];
};
/** The depth colour of the group at `index`: three stops that stay apart for colour-blind readers. */
function depthColour(index) {
  const t = free.length > 1 ? 2 * index / (free.length - 1) : 0;
  const from = Math.min(1, Math.floor(t));
  return `color-mix(in oklab, var(--depth-${from + 1}) ${round((t - from) * 100)}%, var(--depth-${from}))`;
}
