// The mean rank of channel groups within trials, its plateau and its slope: of one group in all trials, and of all in one.

function drawRanks() {
  const redraw = chart("rank-chart", "Mean rank of the selected group over the epochs of each trial", width => {
    const group = free[selected], entries = group.trials;
    const left = 52, right = width - 76, wide = (right - left) / entries.length, marks = [];
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
      const { ranks, peak } = entry, last = ranks.length - 1;
      const x = last ? linear(0, last, start + inner, start + wide - inner) : () => start + wide / 2;
      const name = kind(entry).name, middle = start + wide / 2, title = `${group.name}, trial ${columns[i]}`;
      if (peak > 0) svg.append(rule(x(0), rank(ranks[0]), x(peak), rank(ranks[peak]), "slope"));
      const curve = ranks.map((value, epoch) => [x(epoch), rank(value)]);
      svg.append(s("path", { class: `line curve ${name}`, d: path(curve) }));
      svg.append(s("circle", { class: `dot hollow ${name}`, cx: x(peak), cy: rank(ranks[peak]), r: 4 }));
      const shared = [["slope S", significant(entry.slope)], ["condition κ", significant(entry.condition)],
        ["decision", `${entry.action}: ${entry.size} → ${entry.next}`], ["because", entry.reason]];
      ranks.forEach((value, epoch) => {
        if (last < 8 && epoch !== peak) {
          svg.append(s("circle", { class: `dot ${name}`, cx: x(epoch), cy: rank(value), r: 2.8 }));
        }
        marks.push({ x: x(epoch), y: rank(value), row: 0, col: i * 1000 + epoch, title, rows: [
          ["epoch", `${epoch + 1}${epoch === peak ? ", the plateau t₂" : ""}`],
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
    const { name, writers } = free[index];
    place("rank-group").textContent = name;
    place("group-note").textContent = writers.length > 1 ? `${writers.length} layers share it` : "";
    redraw();
  });
}

/** One small chart for each shown group: its ranks in the trial that is selected (the last one for "found"). */
function drawRankGrid() {
  const redraw = chart("rank-grid", "Mean rank of every group over the epochs of the selected trial", width => {
    const trial = Math.min(moment, trials.length - 1), marks = [];
    place("rank-trial").textContent = `trial ${columns[trial]}`;
    const across = Math.max(1, Math.floor((width + 14) / 150)), wide = (width + 14) / across - 14, tall = 84;
    const svg = canvas(width, Math.ceil(view.shown.length / across) * tall);
    const entries = view.shown.map(index => [index, free[index].trials[trial]]);
    const high = extent(entries.flatMap(([, entry]) => entry ? entry.ranks : []))[1] || 1;
    entries.forEach(([index, entry], i) => {
      const left = i % across * (wide + 14), top = Math.floor(i / across) * tall, bottom = top + 70;
      const name = free[index].name;
      svg.append(s("rect", { class: "plot", x: left, y: top + 16, width: wide, height: 54, rx: 3 }));
      svg.append(fill(text(left + 1, top + 11, shorten(name, Math.floor(wide / 6)), "start", "cell-name"),
        { "data-group": index }, []));
      if (!entry || !entry.ranks.length) return;
      const { ranks, peak } = entry, last = ranks.length - 1, cause = kind(entry).name;
      const x = last ? linear(0, last, left + 5, left + wide - 5) : () => left + wide / 2;
      const y = linear(0, high, bottom - 4, top + 22);
      if (peak > 0) svg.append(rule(x(0), y(ranks[0]), x(peak), y(ranks[peak]), "slope"));
      svg.append(s("path", { class: `line curve ${cause}`, d: path(ranks.map((value, epoch) => [x(epoch), y(value)])) }));
      svg.append(s("circle", { class: `dot hollow ${cause}`, cx: x(peak), cy: y(ranks[peak]), r: 3 }));
      ranks.forEach((value, epoch) => marks.push({ x: x(epoch), y: y(value), row: Math.floor(i / across),
        col: i % across * 1000 + epoch, group: index, title: name, rows: () => [
          ["epoch", `${epoch + 1}${epoch === peak ? ", the plateau t₂" : ""}`],
          ["mean rank R", significant(value, 4)], ...decisionRows(free[index], trial)] }));
    });
    explore(svg, marks);
    return svg;
  });
  onView(redraw);
  onMoment(redraw);
}

