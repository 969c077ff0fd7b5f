// The data that is embedded in the page, and how elements, numbers, scales and charts are made. All text reaches
// the document as text nodes, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
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
/** Round numbers for a logarithmic axis: 1, 2 and 5 of each power of ten where there is room, else fewer. */
function logTicks(low, high, most = 7) {
  for (const factors of [[1, 2, 5], [1, 3], [1]]) {
    const found = [];
    for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10) {
      found.push(...factors.map(factor => factor * power).filter(value => value >= low && value <= high));
    }
    if (found.length <= most || factors.length === 1) return found;
  }
}
const extent = values => {
  const numbers = values.filter(known);
  return numbers.length ? [Math.min(...numbers), Math.max(...numbers)] : [0, 1];
};
/** Runs of known values of a list, each as [index, value] pairs: a line that is broken where one is missing. */
function pieces(values) {
  const found = [];
  values.forEach((value, i) => {
    if (!known(value)) return;
    if (i === 0 || !known(values[i - 1])) found.push([]);
    found.at(-1).push([i, value]);
  });
  return found;
}

/** Keep a chart as wide as its place: `draw(width)` returns the svg, again whenever the width changes. */
function chart(id, label, draw) {
  const host = typeof id === "string" ? place(id) : id;
  let width = 0;
  const redraw = () => {
    const svg = draw(width);
    fill(svg, { role: "img", "aria-label": label }, []);
    tip.hidden = true;
    host.replaceChildren(svg);
  };
  new ResizeObserver(([entry]) => {
    const now = Math.round(entry.contentRect.width);
    if (now && now !== width) { width = now; redraw(); }
  }).observe(host);
  return () => { if (width) redraw(); };
}
const canvas = (width, height, name = "") => s("svg", { viewBox: `0 0 ${width} ${height}`, class: name });
const text = (x, y, content, anchor = "start", name = "") =>
  s("text", { x, y, "text-anchor": anchor, class: name }, content);
const rule = (x1, y1, x2, y2, name = "grid-line") => s("line", { x1, y1, x2, y2, class: name });
const path = points => points.map(([x, y], i) => `${i ? "L" : "M"}${round(x)} ${round(y)}`).join("");
function yAxis(svg, values, y, left, right, format = significant) {
  for (const value of values) {
    svg.append(rule(left, y(value), right, y(value)), text(left - 8, y(value) + 4, format(value), "end"));
  }
}
/** Labels of a row of columns, as many as fit. */
function xLabels(svg, labels, x, y, room, title) {
  const widest = Math.max(...labels.map(label => label.length)) * 7 + 8;
  const every = Math.max(1, Math.ceil(widest / room));
  labels.forEach((label, i) => {
    const clash = i !== labels.length - 1 && labels.length - 1 - i < every;
    if (i === labels.length - 1 || (i % every === 0 && !clash)) svg.append(text(x(i), y, label, "middle"));
  });
  if (title) svg.append(text((x(0) + x(labels.length - 1)) / 2, y + 17, title, "middle"));
}
const empty = message => h("p", { class: "empty" }, message);

const number = content => h("td", { class: "number" }, content);
/** The heading of a table; `numbers` are the columns that are set flush right. */
const head = (titles, numbers) => h("thead", {}, h("tr", {},
  titles.map(title => h("th", { scope: "col", class: numbers.includes(title) ? "number" : null }, title))));
