// What became of the networks and of the channels: accuracy, channel evolution, size and decision maps.

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

/** Lines that belong to groups (`data-group`): the selected group's stand out, those under the pointer too, others that
 * are not shown fade. */
function bundle() {
  const lines = s("g", { class: "lines" });
  let hot = null;
  const paint = () => {
    const seen = new Set(view.shown), front = [];
    for (const line of lines.children) {
      const group = line.dataset.group === "" ? null : Number(line.dataset.group);
      line.classList.toggle("selected", group === selected);
      line.classList.toggle("hot", hot !== null && group === hot);
      line.classList.toggle("faded", group === null ? view.wanted !== "" : !seen.has(group));
      if (group === selected || (hot !== null && group === hot)) front.push(line);
    }
    lines.append(...front);
  };
  const onHover = mark => {
    const group = mark === null ? null : mark.group;
    if (group !== hot) { hot = group; paint(); }
  };
  return { lines, paint, onHover };
}

function drawSizes() {
  let paint = () => {}, cursor = null, x = null;
  const mark = () => {
    place("chosen").textContent = free[selected].name;
    paint();
  };
  const redraw = chart("sizes", "Size of every channel group by trial", width => {
    const left = 44, right = width - 22, top = 22, bottom = 320, marks = [];
    const svg = canvas(width, bottom + 44, free.length > 24 ? "many" : "");
    const [low, high] = extent(free.flatMap(sizesOf));
    const from = 2 ** Math.floor(Math.log2(low)), to = Math.max(2 * from, 2 ** Math.ceil(Math.log2(high)));
    const y = logarithmic(from, to, bottom, top);
    x = linear(0, columns.length - 1, left, right);
    const powers = [];
    for (let value = from; value <= to; value *= 2) powers.push(value);
    yAxis(svg, powers, y, left, right);
    svg.append(text(left, top - 9, "channels (doubling scale)"));
    xLabels(svg, columns, x, bottom + 20, (right - left) / columns.length, "trial");
    cursor = rule(x(moment), top, x(moment), bottom, "cursor");
    svg.append(cursor);
    const crowd = columns.map((_, i) => free.map(group => sizesOf(group)[i]));
    const { lines, onHover, ...rest } = bundle(), shown = new Set(view.shown);
    svg.append(lines);
    free.forEach((group, index) => {
      const sizes = sizesOf(group);
      const points = pieces(sizes).flat().map(([i, size]) => [x(i), y(size)]);
      lines.append(s("path", { class: "line", d: path(points), "data-group": index, "--c": depthColour(index) }));
      if (!shown.has(index)) return;
      sizes.forEach((size, i) => {
        if (!known(size)) return;
        const decision = group.trials[i], others = crowd[i].filter(other => other === size).length - 1;
        marks.push({ x: x(i), y: y(size), row: index, col: i, group: index, title: group.name, rows: [
          ["trial", columns[i]], ["size", plural(size, "channel")],
          ["decision", decision && decision.action], ["because", decision && decision.reason],
          ["same size", others ? plural(others, "other group") : ""]] });
      });
    });
    explore(svg, marks, { onHover });
    paint = rest.paint;
    paint();
    return svg;
  });
  follow(mark);
  onView(redraw);
  onMoment(() => {
    if (cursor) fill(cursor, { x1: x(moment), x2: x(moment) }, []);
  });
}

/** A table of groups and trials; `cell` draws what `field` gives of a group and a column into a box. */
function drawMap(id, label, names, cell, field) {
  let outline = null, column = null, rowTop = null, columnLeft = null;
  const mark = () => {
    if (!outline) return;
    outline.setAttribute("y", rowTop(view.shown.indexOf(selected)) - 0.5);
    fill(column, { x: columnLeft(moment), visibility: moment < names.length ? "visible" : "hidden" }, []);
  };
  const redraw = chart(id, label, width => {
    const shown = view.shown, rows = shown.length;
    const tall = rows <= 16 ? 26 : rows <= 40 ? 18 : rows <= 80 ? 12 : 9;
    const top = 22, font = Math.max(8, Math.min(12, tall - 1));
    const longest = Math.max(...shown.map(index => free[index].name.length));
    const left = Math.min(longest * font * 0.56 + 10, width * 0.36), wide = (width - left - 2) / names.length;
    const fits = Math.floor((left - 10) / (font * 0.56));
    const svg = canvas(width, top + rows * tall + 24), marks = [];
    rowTop = row => top + row * tall;
    columnLeft = i => left + i * wide;
    xLabels(svg, names, i => left + (i + 0.5) * wide, 14, wide, "");
    shown.forEach((index, row) => {
      const group = free[index], y = rowTop(row), middle = y + tall / 2;
      const label = s("text", { "text-anchor": "end", "dominant-baseline": "central", "--size": `${font}px` },
        shorten(group.name, fits));
      svg.append(fill(label, { x: left - 8, y: middle }, []));
      names.forEach((name, i) => {
        const value = field(group, i), gap = tall > 12 ? 1 : 0.5;
        if (!known(value)) return;
        const box = [left + i * wide + gap, y + gap, Math.max(1, wide - 2 * gap), tall - 2 * gap];
        cell(svg, value, box);
        marks.push({ x: left + (i + 0.5) * wide, y: middle, row, col: i, box, group: index, title: group.name,
          rows: () => [["trial", name], ...decisionRows(group, i)] });
      });
    });
    svg.append(text(left + (width - left) / 2, top + rows * tall + 18, "trial", "middle"));
    outline = s("rect", { class: "row-selected", x: 0.75, width: width - 1.5, height: tall + 1, rx: 3 });
    column = s("rect", { class: "column-selected", y: top - 1, width: wide, height: rows * tall + 2, rx: 3 });
    svg.append(column, outline);
    explore(svg, marks);
    mark();
    return svg;
  });
  follow(mark);
  onView(redraw);
  onMoment(mark);
}

/** What is to say of a group in column `i`: its size, and what was decided. */
function decisionRows(group, i) {
  const decision = group.trials[i], size = sizesOf(group)[i];
  if (!decision) return [["size", plural(size, "channel")]];
  return [["size", `${size} → ${decision.next} channels`], ["decision", decision.action], ["because", decision.reason],
    ["slope S", significant(decision.slope)], ["condition κ", significant(decision.condition)],
    ["factor φ", significant(decision.phi)]];
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

  const taken = new Set(free.flatMap(group => group.trials).filter(known).map(kind));
  for (const decision of Object.values(DECISIONS).filter(each => taken.has(each))) {
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
