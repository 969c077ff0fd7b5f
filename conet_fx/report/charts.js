// The charts: accuracy, channel evolution, size and decision maps, rank evolution, trends.

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

function drawAccuracy() {
  const rows = run.networks.filter(network => network.accuracies.length);
  if (!rows.length) {
    place("accuracy").remove();
    return;
  }
  chart("accuracy", "Test accuracy of each network, one dot a seed", width => {
    const left = 8, right = width - 14, rowHeight = 52, height = rows.length * rowHeight + 46;
    const svg = canvas(width, height), marks = [];
    const [low, high] = extent(rows.flatMap(row => row.accuracies));
    const pad = Math.max((high - low) * 0.12, 0.05);
    const x = linear(low - pad, high + pad, left, right);
    for (const value of ticks(low - pad, high + pad, Math.min(5, width / 90))) {
      svg.append(rule(x(value), 4, x(value), height - 40));
      svg.append(text(x(value), height - 22, significant(value, 4), "middle"));
    }
    svg.append(text((left + right) / 2, height - 4, "test accuracy, %", "middle"));
    rows.forEach((row, i) => {
      const y = i * rowHeight + 36, n = row.accuracies.length;
      const mean = row.accuracies.reduce((sum, value) => sum + value, 0) / n;
      svg.append(text(left, y - 18, row.title, "start", row.label === "found" ? "strong" : ""));
      if (n > 1) {
        const squares = row.accuracies.reduce((sum, value) => sum + (value - mean) ** 2, 0);
        const deviation = Math.sqrt(squares / (n - 1)), from = x(mean - deviation), to = x(mean + deviation);
        svg.append(s("rect", { class: "band", x: from, y: y - 10, width: Math.max(1, to - from), height: 20, rx: 3 }));
        svg.append(rule(x(mean), y - 10, x(mean), y + 10, "mean"));
      }
      row.accuracies.forEach((value, j) => {
        svg.append(s("circle", { class: "dot", cx: x(value), cy: y, r: 4.5 }));
        marks.push({ x: x(value), y, row: i, col: j, title: row.title, rows: [
          ["test accuracy", `${value.toFixed(2)} %`], ["seed", String(row.seeds[j] ?? j)],
          ["all seeds", row.accuracy], ["parameters", exact(row.params)]] });
      });
    });
    explore(svg, marks);
    return svg;
  });
}

/** Each free group's size in every trial and, last, as found; null where a trial does not have it. */
const sizesOf = group => [...group.trials.map(trial => trial && trial.size), group.found];
const columns = [...trials.map(trial => String(trial.number)), "found"];

function drawSizes() {
  let svg = null;
  const mark = index => {
    place("chosen").textContent = free[index].name;
    if (!svg) return;
    for (const line of svg.querySelectorAll(".line")) {
      line.classList.toggle("selected", Number(line.dataset.group) === index);
    }
    const line = svg.querySelector(".line.selected");
    if (line) svg.querySelector(".lines").append(line);
  };
  chart("sizes", "Size of every channel group by trial", width => {
    const left = 44, right = width - 22, top = 22, bottom = 320, marks = [];
    svg = canvas(width, bottom + 44, free.length > 24 ? "many" : "");
    const [low, high] = extent(free.flatMap(sizesOf));
    const from = 2 ** Math.floor(Math.log2(low)), to = Math.max(2 * from, 2 ** Math.ceil(Math.log2(high)));
    const x = linear(0, columns.length - 1, left, right), y = logarithmic(from, to, bottom, top);
    const powers = [];
    for (let value = from; value <= to; value *= 2) powers.push(value);
    yAxis(svg, powers, y, left, right);
    svg.append(text(left, top - 9, "channels (doubling scale)"));
    xLabels(svg, columns, x, bottom + 20, (right - left) / columns.length, "trial");
    const crowd = columns.map((_, i) => free.map(group => sizesOf(group)[i]));
    const lines = s("g", { class: "lines" });
    svg.append(lines);
    free.forEach((group, index) => {
      const points = [];
      sizesOf(group).forEach((size, i) => {
        if (!known(size)) return;
        points.push([x(i), y(size)]);
        const decision = group.trials[i], others = crowd[i].filter(other => other === size).length - 1;
        marks.push({ x: x(i), y: y(size), row: index, col: i, group: index, title: group.name, rows: [
          ["trial", columns[i]], ["size", plural(size, "channel")],
          ["decision", decision ? decision.action : ""], ["because", decision ? decision.reason : ""],
          ["same size", others ? plural(others, "other group") : ""]] });
      });
      lines.append(s("path", { class: "line", d: path(points), "data-group": index, "--c": depthColour(index) }));
    });
    explore(svg, marks, hover => {
      mark(selected);
      for (const line of [...lines.children]) {
        const hot = hover !== null && Number(line.dataset.group) === hover.group;
        line.classList.toggle("hot", hot);
        if (hot) lines.append(line);
      }
    });
    mark(selected);
    return svg;
  });
  follow(mark);
}

/** Which colour and sign a decision has. */
const UP = [[0, -1], [1, 0.8], [-1, 0.8]], DOWN = [[0, 1], [1, -0.8], [-1, -0.8]];
const DIAMOND = [[0, 1], [1, 0], [0, -1], [-1, 0]];
const SQUARE = [[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8]];
const DECISIONS = {
  rising: { name: "rising-cause", label: "expand: S ≥ δ", sign: UP },
  floor: { name: "floor-cause", label: "expand: at the smallest size", sign: UP },
  slope: { name: "slope-cause", label: "shrink: S < δ", sign: DOWN },
  condition: { name: "condition-cause", label: "shrink: κ ≥ μ", sign: DIAMOND },
  limit: { name: "limit-cause", label: "shrink: above the largest size", sign: DOWN },
  stop: { name: "stop-cause", label: "stop: φ < γ", sign: SQUARE },
};
const kind = decision => DECISIONS[decision.cause];
const sign = (shape, x, y, size) =>
  s("path", { class: "glyph", d: `${path(shape.map(([dx, dy]) => [x + dx * size, y + dy * size]))}Z` });

/** A table of groups and trials; `cell` draws what `field` gives of a group and a column into a box. */
function drawMap(id, label, names, cell, field) {
  let outline = null;
  const tall = free.length <= 16 ? 26 : free.length <= 40 ? 18 : free.length <= 80 ? 12 : 9;
  const top = 22, rowTop = index => top + index * tall;
  const mark = index => outline && outline.setAttribute("y", rowTop(index) - 0.5);
  chart(id, label, width => {
    const font = Math.max(8, Math.min(12, tall - 1));
    const longest = Math.max(...free.map(group => group.name.length));
    const left = Math.min(longest * font * 0.56 + 10, width * 0.36), wide = (width - left - 2) / names.length;
    const fits = Math.floor((left - 10) / (font * 0.56));
    const svg = canvas(width, top + free.length * tall + 24), marks = [];
    xLabels(svg, names, i => left + (i + 0.5) * wide, 14, wide, "");
    free.forEach((group, index) => {
      const y = rowTop(index), middle = y + tall / 2;
      const label = s("text", { "text-anchor": "end", "dominant-baseline": "central", "--size": `${font}px` },
        shorten(group.name, fits));
      svg.append(fill(label, { x: left - 8, y: middle }, []));
      names.forEach((column, i) => {
        const value = field(group, i), gap = tall > 12 ? 1 : 0.5;
        if (!known(value)) return;
        const box = [left + i * wide + gap, y + gap, Math.max(1, wide - 2 * gap), tall - 2 * gap];
        cell(svg, value, box);
        const decision = group.trials[i], size = sizesOf(group)[i];
        const rows = decision ? [["size", `${size} → ${decision.next} channels`], ["decision", decision.action],
          ["because", decision.reason], ["slope S", significant(decision.slope)],
          ["condition κ", significant(decision.condition)], ["factor φ", significant(decision.phi)],
        ] : [["size", plural(size, "channel")]];
        marks.push({ x: left + (i + 0.5) * wide, y: middle, row: index, col: i, box, group: index,
          title: group.name, rows: [["trial", column], ...rows] });
      });
    });
    svg.append(text(left + (width - left) / 2, top + free.length * tall + 18, "trial", "middle"));
    outline = s("rect", { class: "row-selected", x: 0.75, width: width - 1.5, height: tall + 1, rx: 3 });
    svg.append(outline);
    explore(svg, marks);
    mark(selected);
    return svg;
  });
  follow(mark);
}

function drawMaps() {
  const [low, high] = extent(free.flatMap(sizesOf));
  const shade = linear(Math.log2(low), Math.log2(high) || 1, 0.04, 1);
  place("size-legend").append(h("span", {}, String(low), h("span", { class: "ramp heat-ramp" }), `${high} channels`));
  const drawSize = (svg, size, [x, y, width, height]) => {
    const t = low === high ? 0.3 : shade(Math.log2(size));
    svg.append(s("rect", { class: "heat", x, y, width, height, rx: Math.min(3, height / 4), "--t": round(t) }));
    if (height >= 16 && width >= 26) {
      const name = t > 0.5 ? "on deep" : "on";
      svg.append(s("text", { class: name, x: x + width / 2, y: y + height / 2 + 0.5 }, String(size)));
    }
  };
  drawMap("size-map", "Size of every group in every trial", columns, drawSize, (group, i) => sizesOf(group)[i]);

  const shown = new Set(free.flatMap(group => group.trials).filter(known).map(kind));
  for (const decision of Object.values(DECISIONS).filter(each => shown.has(each))) {
    place("action-legend").append(h("span", {}, s("svg", { viewBox: "0 0 14 14" },
      s("rect", { class: `act ${decision.name}`, width: 14, height: 14, rx: 3 }),
      sign(decision.sign, 7, 7, 3.6)), decision.label));
  }
  const drawAction = (svg, decision, [x, y, width, height]) => {
    svg.append(s("rect", { class: `act ${kind(decision).name}`, x, y, width, height, rx: Math.min(3, height / 4) }));
    if (width >= 9) svg.append(sign(kind(decision).sign, x + width / 2, y + height / 2, Math.min(4.5, height * 0.3)));
  };
  drawMap("action-map", "Decision on every group after every trial", columns.slice(0, -1), drawAction,
    (group, i) => group.trials[i]);
}

function drawRanks() {
  const choice = place("group");
  choice.append(...free.map((group, i) => h("option", { value: i }, group.name)));
  choice.addEventListener("change", () => select(Number(choice.value)));
  const redraw = chart("rank-chart", "Mean rank of the selected group over the epochs of each trial", width => {
    const group = free[selected], entries = group.trials;
    const left = 52, right = width - 66, wide = (right - left) / entries.length, marks = [];
    const svg = canvas(width, 436);
    const panel = (top, bottom, title, values, wanted, least = 0) => {
      const high = Math.max(least, extent(values)[1]) * 1.08 || 1;
      const y = linear(0, high, bottom, top);
      yAxis(svg, ticks(0, high, wanted), y, left, right);
      svg.append(text(left, top - 8, title, "start", "title"));
      return y;
    };
    const decided = entries.filter(known), conditions = decided.map(entry => entry.condition);
    const rank = panel(26, 220, "mean rank R", decided.flatMap(entry => entry.ranks), 3);
    const slope = panel(262, 322, "rank slope S, per epoch", decided.map(entry => entry.slope), 1, run.delta ?? 0);
    const condition = panel(364, 400, "condition κ", conditions, 1, run.mu < 3 * extent(conditions)[1] ? run.mu : 0);
    const guard = (y, value, name, top) => {
      if (!known(value) || y(value) < top) return;
      svg.append(rule(left, y(value), right, y(value), "threshold"));
      svg.append(text(right + 6, y(value) + 4, `${name} = ${value}`, "start", "strong"));
    };
    guard(slope, run.delta, "δ", 262);
    guard(condition, run.mu, "μ", 364);
    entries.forEach((entry, i) => {
      const start = left + i * wide, inner = Math.min(10, wide * 0.12);
      if (i) svg.append(rule(start, 14, start, 404, "axis-line"));
      if (!entry || !entry.ranks.length) return;
      const last = entry.ranks.length - 1, peak = entry.ranks.indexOf(Math.max(...entry.ranks));
      const x = last ? linear(0, last, start + inner, start + wide - inner) : () => start + wide / 2;
      const name = kind(entry).name, middle = start + wide / 2, title = `${group.name}, trial ${columns[i]}`;
      if (peak > 0) svg.append(rule(x(0), rank(entry.ranks[0]), x(peak), rank(entry.ranks[peak]), "slope"));
      const curve = entry.ranks.map((value, epoch) => [x(epoch), rank(value)]);
      svg.append(s("path", { class: `line curve ${name}`, d: path(curve) }));
      svg.append(s("circle", { class: `dot hollow ${name}`, cx: x(peak), cy: rank(entry.ranks[peak]), r: 4 }));
      const shared = [["slope S", significant(entry.slope)], ["condition κ", significant(entry.condition)],
        ["decision", `${entry.action}: ${entry.size} → ${entry.next}`], ["because", entry.reason]];
      entry.ranks.forEach((value, epoch) => {
        if (last < 8 && epoch !== peak) {
          svg.append(s("circle", { class: `dot ${name}`, cx: x(epoch), cy: rank(value), r: 2.8 }));
        }
        marks.push({ x: x(epoch), y: rank(value), row: 0, col: i * 1000 + epoch, title, rows: [
          ["epoch", `${epoch + 1}${epoch === peak ? ", the peak" : ""}`],
          ["mean rank R", significant(value, 4)], ...shared] });
      });
      for (const [row, y, value] of [[1, slope, entry.slope], [2, condition, entry.condition]]) {
        if (!known(value)) continue;
        svg.append(rule(middle, y(0), middle, y(value), `stem ${name}`));
        svg.append(s("circle", { class: `dot ${name}`, cx: middle, cy: y(value), r: 4 }));
        marks.push({ x: middle, y: y(value), row, col: i * 1000, title, rows: shared });
      }
    });
    xLabels(svg, columns.slice(0, -1), i => left + (i + 0.5) * wide, 420, wide, "");
    svg.append(text((left + right) / 2, 435, "trial, epochs from left to right", "middle"));
    explore(svg, marks);
    return svg;
  });
  follow(index => {
    choice.value = String(index);
    const writers = free[index].writers;
    place("group-note").textContent = writers.length > 1 ? `${writers.length} layers share it` : "";
    redraw();
  });
}

function drawTrends() {
  const found = run.networks.find(network => network.label === "found");
  const trend = (title, values, format, end) => {
    if (!values.some(known)) return;
    const labels = known(end) ? columns : columns.slice(0, -1), all = known(end) ? [...values, end] : values;
    const host = h("div", { class: "chart" });
    place("trends").append(host);
    chart(host, `${title} by trial`, width => {
      const left = 52, right = width - 16, top = 28, bottom = 150, svg = canvas(width, 190), marks = [];
      const high = extent(all)[1] * 1.08 || 1;
      const x = all.length > 1 ? linear(0, all.length - 1, left + 8, right) : () => (left + right) / 2;
      const y = linear(0, high, bottom, top);
      yAxis(svg, ticks(0, high, 2), y, left, right, format);
      svg.append(text(0, 12, title, "start", "title"));
      xLabels(svg, labels, x, bottom + 18, (right - left) / labels.length, "trial");
      const points = all.map((value, i) => known(value) ? [x(i), y(value)] : null).filter(known);
      svg.append(s("path", { class: "line selected", d: path(points) }));
      all.forEach((value, i) => {
        if (!known(value)) return;
        const name = i < values.length ? "dot" : "dot hollow";
        svg.append(s("circle", { class: name, cx: x(i), cy: y(value), r: 3.5 }));
        marks.push({ x: x(i), y: y(value), row: 0, col: i, title,
          rows: [["trial", labels[i]], ["value", format(value)]] });
      });
      explore(svg, marks);
      return svg;
    });
  };
  trend("Parameters", trials.map(trial => trial.params), count, found && found.params);
  trend("MACs per image", trials.map(trial => trial.macs), count, found && found.macs);
  trend("Training loss, last epoch", trials.map(trial => trial.loss), significant);
  trend("Training accuracy, last epoch, %", trials.map(trial => trial.accuracy), significant);
}
