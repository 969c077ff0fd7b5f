// The network as a drawing: a box for each value, as tall as it has channels, coloured by how that number has changed.

const COLUMN = 48; // units between columns of the layout
const SIGNS = { summation: "+", concatenation: "≡", input: "", output: "", single: "" };

/** The end of a module path, where layers differ. */
const ending = (name, length) => name.length > length ? `…${name.slice(1 - length)}` : name;
/** Size of a group (by its index in run.groups) in a column of trials. */
function sizeAt(index, column) {
  const group = run.groups[index];
  return group.frozen === null ? sizesOf(group)[column] ?? group.found : group.before;
}
const startSize = box => box.parts.reduce((sum, [, channels]) => sum + channels, 0);
const boxSize = (box, column) => box.parts.reduce((sum, [index, channels]) =>
  sum + (known(index) ? channels * sizeAt(index, column) / run.groups[index].before : channels), 0);

/**
 * A long network is folded as text is: into so many lines that it can be drawn largest in `width`. `at` moves a point of
 * the layout to its line; a wire that passes the end of a line is drawn there and, once more, where the next begins.
 */
function fold({ boxes, wires, width: wide, height: high }, width) {
  const columns = wide / COLUMN + 1, pitch = high + 64, most = 560;
  let best = { scale: 0 };
  for (let lines = 1; lines <= Math.min(columns, 30); lines++) {
    const length = Math.ceil(columns / lines);
    const scale = Math.min(1.5, (width - 24) / ((length + 1) * COLUMN), most / (lines * pitch));
    if (scale > 1.1 * best.scale) best = { lines, length, scale };
  }
  const { lines, length, scale } = best;
  const at = (x, y) => {
    const column = Math.round(x / COLUMN), line = Math.floor(column / length);
    return [(column - line * length) * COLUMN, y + line * pitch];
  };
  const ways = wires.flatMap(([x, y, end, conv]) => {
    const [left, top] = at(x, y), [right, bottom] = at(x + COLUMN, end);
    if (right === left + COLUMN) return [[left, top, bottom, conv]];
    return [[left, top, top + end - y, conv], [right - COLUMN, bottom - end + y, bottom, conv]];
  });
  return { spots: boxes.map(box => at(...box.at)), ways, scale, wide: (length - 1) * COLUMN, high: lines * pitch - 64 };
}

/** What is to say of a box: its channels, and for each group what was decided and who writes and reads it. */
function boxRows(box) {
  const names = [...new Set(box.parts.map(([index]) => index).filter(known))];
  const before = startSize(box);
  const rows = before ? [["channels", `${before} → ${exact(Math.round(boxSize(box, moment)))}`]] : [];
  const few = list => list.length > 4 ? `${list.slice(0, 4).join(", ")} and ${list.length - 4} more` : list.join(", ");
  if (names.length === 1) {
    const group = run.groups[names[0]], decision = group.trials[moment];
    rows.push(["group", group.name], ["kept because", group.frozen]);
    if (decision) rows.push(["decision", `${decision.action}: ${decision.size} → ${decision.next}`], ["because", decision.reason]);
    else if (group.frozen === null) rows.push(["last decision", finalWords(group)]);
    rows.push( ["written by", few(group.writers)], ["read by", few(group.readers)]);
  } else {
    for (const index of names.slice(0, 6)) {
      rows.push([run.groups[index].name, `${run.groups[index].before} → ${sizeAt(index, moment)}`]);
    }
    if (names.length > 6) rows.push(["", `and ${names.length - 6} more groups`]);
  }
  return [...rows, ["operators", box.operators.length > 1 ? few(box.operators) : ""], ["at", box.source]];
}

function drawGraph() {
  const { boxes } = run.graph;
  const now = { k: 0, x: 0, y: 0 };
  let paint = () => {}, zoomTo = () => {}, fit = () => {};
  const top = Math.max(1, ...boxes.flatMap(box => [startSize(box), ...columns.map((_, i) => boxSize(box, i))]));
  const tall = size => 5 + 41 * Math.sqrt(size / top);
  const route = ([x, y, end]) => y === end ? `M${x} ${y}h${COLUMN}`
    : `M${x} ${y}C${x + COLUMN / 2} ${y} ${x + COLUMN / 2} ${end} ${x + COLUMN} ${end}`;
  chart("graph-chart", "The network from input to output, each value as tall as it has channels", width => {
    const { spots, ways, scale, wide, high } = fold(run.graph, width);
    const height = Math.round(Math.max(200, high * scale + 90));
    const svg = canvas(width, height, "graph");
    const layer = s("g", {}), names = s("g", { class: "names" });
    for (const conv of [0, 1]) {
      layer.append(s("path", { class: conv ? "wire conv" : "wire", d: ways.filter(way => way[3] === conv).map(route).join("") }));
    }
    const shapes = boxes.map((box, i) => {
      const frozen = !box.parts.some(([index]) => known(index) && run.groups[index].frozen === null);
      const before = startSize(box), height = tall(before), [x, y] = spots[i];
      const outline = s("rect", { class: "old", x: x - 10, y: y - height / 2, width: 20, height, rx: 3 });
      const bar = s("rect", { class: `box ${box.kind}${frozen ? " fixed" : ""}`, x: x - 10, width: 20, rx: box.kind === "summation" ? 9 : 3 });
      const label = s("text", { "text-anchor": "middle", class: "box-name" });
      layer.append(bar, outline);
      if (SIGNS[box.kind]) layer.append(s("text", { class: "box-sign", x, y: y + 0.5 }, SIGNS[box.kind]));
      names.append(label);
      const groups = new Set(box.parts.map(([index]) => known(index) ? free.indexOf(run.groups[index]) : -1));
      return { box, bar, label, groups, before, height, old: height, x, y };
    });
    svg.append(layer, names);
    const project = mark => ({ x: mark.x * now.k + now.x, y: mark.y * now.k + now.y });
    const settle = () => {
      layer.setAttribute("transform", `translate(${round(now.x)} ${round(now.y)}) scale(${now.k})`);
      const room = Math.floor(COLUMN * now.k / 6.4);
      names.setAttribute("visibility", room > 7 ? "visible" : "hidden");
      if (room > 7) for (const { box, label, height, old, x, y } of shapes) {
        const spot = project({ x, y: y + Math.max(height, old) / 2 });
        fill(label, { x: round(spot.x), y: round(spot.y + 13) }, []);
        label.textContent = ending(box.operators[0], room);
      }
      layer.style.setProperty("--wire-opacity", round(Math.min(1, Math.max(0.25, 1.6 * now.k)))); // many lines are a grey mass
      tip.hidden = true;
    };
    paint = () => {
      const shown = new Set(view.shown);
      for (const shape of shapes) {
        const size = boxSize(shape.box, moment);
        shape.height = tall(size);
        const change = Math.log2(size / shape.before || 1);
        fill(shape.bar, { y: shape.y - shape.height / 2, height: shape.height,
          "--t": round(Math.min(1, Math.abs(change) / 2)), "--to": change < 0 ? "var(--shrunk)" : "var(--grown)" }, []);
        shape.bar.classList.toggle("selected", charted && shape.groups.has(selected));
        shape.bar.classList.toggle("faded", view.wanted !== "" && ![...shape.groups].some(index => shown.has(index)));
      }
      settle();
    };
    zoomTo = (factor, x = width / 2, y = height / 2) => {
      const k = Math.min(6, Math.max(0.02, now.k * factor)), by = k / now.k;
      Object.assign(now, { k, x: x - (x - now.x) * by, y: y - (y - now.y) * by });
      settle();
    };
    fit = () => {
      Object.assign(now, { k: scale, x: (width - wide * scale) / 2, y: (height - high * scale) / 2 - 4 });
      settle();
    };
    let drag = null;
    svg.addEventListener("pointerdown", event => {
      drag = { x: event.clientX, y: event.clientY, moved: false };
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", event => {
      if (!drag || !event.buttons) { drag = null; return; }
      const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
      if (!drag.moved && Math.hypot(dx, dy) < 4) return;
      Object.assign(now, { x: now.x + dx, y: now.y + dy });
      drag = { x: event.clientX, y: event.clientY, moved: true };
      settle();
    });
    svg.addEventListener("wheel", event => {
      if (!event.ctrlKey && !event.metaKey) return; // the wheel alone scrolls the page
      event.preventDefault();
      const rect = svg.getBoundingClientRect();
      zoomTo(2 ** (-event.deltaY / 200), event.clientX - rect.left, event.clientY - rect.top);
    }, { passive: false });
    svg.addEventListener("dblclick", event => {
      const rect = svg.getBoundingClientRect();
      zoomTo(event.shiftKey ? 0.5 : 2, event.clientX - rect.left, event.clientY - rect.top);
    });
    svg.addEventListener("keydown", event => {
      const act = { "+": () => zoomTo(1.5), "=": () => zoomTo(1.5), "-": () => zoomTo(1 / 1.5), 0: () => fit() }[event.key];
      if (act) { event.preventDefault(); act(); }
    });
    const order = shapes.toSorted(({ box: { at: a } }, { box: { at: b } }) => a[0] - b[0] || a[1] - b[1]);
    const marks = order.map(({ box, groups, x, y }, col) => {
      const group = [...groups].find(index => index >= 0);
      return { x, y, row: 0, col, title: box.operators[0], rows: () => boxRows(box),
        group: charted && groups.size === 1 ? group : undefined };
    });
    const reveal = mark => {
      const spot = project(mark);
      if (spot.x < 20 || spot.x > width - 20) now.x += width / 2 - spot.x;
      if (spot.y < 20 || spot.y > height - 20) now.y += height / 2 - spot.y;
      settle();
    };
    explore(svg, marks, { project, reveal, busy: () => drag !== null && drag.moved });
    fit();
    paint();
    return svg;
  });
  follow(() => paint());
  onView(() => paint());
  onMoment(() => paint());
  place("zoom-in").addEventListener("click", () => zoomTo(1.5));
  place("zoom-out").addEventListener("click", () => zoomTo(1 / 1.5));
  place("zoom-fit").addEventListener("click", () => fit());
}
