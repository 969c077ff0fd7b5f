// Several runs: parameters against accuracy, a table, parameters by trial, and the settings that differ.

const { runs, series } = data;
const delta = run => known(run.delta) ? `δ = ${run.delta}` : "";
const network = (run, label) => run.networks.find(each => each.label === label);
const colour = run => `var(--series-${run.series % 6})`;
const evaluated = runs.some(run => run.networks.some(each => known(each.accuracy)));

/** The points of a run: its networks that were trained to the end, else its last trial. */
function points(run) {
  if (evaluated) return run.networks.filter(each => known(each.accuracy));
  const last = run.trials.at(-1);
  return last && known(last.accuracy)
    ? [{ ...last, label: "found", title: `trial ${last.number}`, text: `${significant(last.accuracy, 4)} %`, seeds: 1 }] : [];
}

/** What stands for a network in the chart: found filled, start hollow, uniform a diamond. */
function symbol(each, x, y) {
  if (each.label !== "uniform") return s("circle", { class: each.label === "found" ? "dot" : "dot hollow", cx: x, cy: y, r: each.label === "found" ? 5.5 : 4.5 });
  return s("path", { class: "dot hollow", d: `M${x} ${y - 6}L${x + 6} ${y}L${x} ${y + 6}L${x - 6} ${y}Z` });
}

function drawTradeoff() {
  const shown = runs.map(points);
  place("tradeoff-note").textContent = evaluated
    ? "Test accuracy of the networks that were trained to the end (the bar is one standard deviation over seeds). Filled: found; hollow: as handed in; diamond: one width, as many parameters. Found networks of one model on one data set are joined."
    : "No network has been trained to the end yet: this is the training accuracy of the last trial of each run.";
  if (!shown.flat().length) {
    place("tradeoff-note").textContent = "";
    place("tradeoff-chart").replaceWith(empty("No trial has ended yet."));
    return () => {};
  }
  place("series-legend").append(...series.map((name, i) => h("span", {},
    s("svg", { viewBox: "0 0 14 14" }, fill(s("circle", { class: "dot", cx: 7, cy: 7, r: 5 }), { "--c": `var(--series-${i % 6})` }, [])), name)));
  let paint = () => {};
  chart("tradeoff-chart", "Accuracy of each network by its parameters", width => {
    const left = 52, right = width - 24, top = 16, bottom = 380, svg = canvas(width, bottom + 46), marks = [];
    const all = shown.flat(), [few, many] = extent(all.map(each => each.params));
    const [low, high] = extent(all.flatMap(each => [each.accuracy - (each.spread ?? 0), each.accuracy + (each.spread ?? 0)]));
    const pad = Math.max(0.08 * (high - low), 0.05);
    const x = logarithmic(few / 1.25, many * 1.25, left, right), y = linear(low - pad, high + pad, bottom, top);
    yAxis(svg, ticks(low - pad, high + pad, 4), y, left, right, value => significant(value, 4));
    for (const value of logTicks(few / 1.25, many * 1.25, width / 90)) svg.append(rule(x(value), top, x(value), bottom), text(x(value), bottom + 18, count(value), "middle"));
    svg.append(text((left + right) / 2, bottom + 38, "parameters (logarithmic)", "middle"));
    svg.append(text(left, top - 4, evaluated ? "test accuracy, %" : "training accuracy, %"));
    series.forEach((_, i) => {
      const joined = runs.filter(run => run.series === i).flatMap(run => points(run).filter(each => each.label === "found"))
        .sort((a, b) => a.params - b.params).map(each => [x(each.params), y(each.accuracy)]);
      if (joined.length > 1) svg.append(s("path", { class: "line", d: path(joined), "--c": `var(--series-${i % 6})` }));
    });
    const groups = runs.map((run, row) => {
      const group = s("g", { class: "run", "--c": colour(run) });
      shown[row].forEach((each, col) => {
        const [cx, cy] = [x(each.params), y(each.accuracy)];
        if (each.spread) group.append(rule(cx, y(each.accuracy - each.spread), cx, y(each.accuracy + each.spread), "stem"));
        group.append(symbol(each, cx, cy));
        if (each.label === "found" && known(run.delta)) group.append(text(cx + 9, cy - 8, delta(run), "start", "strong"));
        marks.push({ x: cx, y: cy, row, col, group: row, title: run.name, rows: [["network", each.title], ["of", series[run.series]],
          ["δ", known(run.delta) ? String(run.delta) : ""], [evaluated ? "test accuracy" : "training accuracy", each.text],
          ["seeds", String(each.seeds)], ["parameters", exact(each.params)], ["MACs", count(each.macs)]] });
      });
      svg.append(group);
      return group;
    });
    explore(svg, marks);
    paint = () => groups.forEach((group, i) => group.classList.toggle("selected", i === selected));
    paint();
    return svg;
  });
  follow(() => paint());
}

function drawGrowth() {
  if (!runs.some(run => run.trials.length)) {
    place("growth").remove();
    return;
  }
  let paint = () => {};
  chart("growth-chart", "Parameters of each run by trial", width => {
    const left = 60, right = width - 20, top = 14, bottom = 290, svg = canvas(width, bottom + 44), marks = [];
    const all = runs.flatMap(run => run.trials), [few, many] = extent(all.map(trial => trial.params));
    const last = Math.max(2, ...all.map(trial => trial.number));
    const from = few / 1.25, to = many * 1.25;
    const x = linear(1, last, left, right), y = logarithmic(from, to, bottom, top);
    yAxis(svg, logTicks(from, to), y, left, right, count);
    xLabels(svg, Array.from({ length: last }, (_, i) => String(i + 1)), i => x(i + 1), bottom + 20, (right - left) / last, "trial");
    const lines = runs.map((run, row) => {
      const spots = run.trials.map(trial => [x(trial.number), y(trial.params)]);
      const line = s("g", { class: "run", "--c": colour(run) }, s("path", { class: "line", d: path(spots) }),
        spots.map(([cx, cy]) => s("circle", { class: "dot", cx, cy, r: 2.8 })));
      run.trials.forEach((trial, i) => marks.push({ x: spots[i][0], y: spots[i][1], row, col: trial.number, group: row, title: run.name,
        rows: [["trial", String(trial.number)], ["δ", known(run.delta) ? String(run.delta) : ""], ["parameters", exact(trial.params)],
          ["training accuracy", known(trial.accuracy) ? `${significant(trial.accuracy, 4)} %` : ""]] }));
      svg.append(line);
      return line;
    });
    explore(svg, marks);
    paint = () => {
      lines.forEach((line, i) => line.classList.toggle("selected", i === selected));
      lines[selected].parentNode?.append(lines[selected]);
    };
    paint();
    return svg;
  });
  follow(index => { place("chosen").textContent = runs[index].name; paint(); });
}

function fillRuns() {
  const numbers = ["δ", "parameters", "change", "MACs", "test accuracy", "seeds"];
  const rows = runs.map((run, index) => {
    const found = network(run, "found"), last = run.trials.at(-1), cost = found ?? last;
    const page = run.link ? h("a", { href: run.link }, "report") : "";
    return h("tr", {}, h("td", {}, h("button", { type: "button", onclick: () => select(index) }, run.name)), h("td", {}, series[run.series]),
      number(known(run.delta) ? String(run.delta) : ""), h("td", {}, run.state), number(cost ? count(cost.params) : ""), number(run.change),
      number(cost ? count(cost.macs) : ""), number(found ? found.text : "not trained"), number(found ? String(found.seeds) : ""),
      h("td", {}, run.verdict === "unknown" ? "" : run.verdict), h("td", {}, page));
  });
  place("run-table").append(head(["run", "network", "δ", "trials", "parameters", "change", "MACs", "test accuracy", "seeds", "judged", ""], numbers),
    h("tbody", {}, rows));
  follow(index => rows.forEach((row, i) => row.classList.toggle("selected", i === index)));
}

function fillSettings() {
  if (!data.settings.length) {
    place("settings-table").replaceWith(empty("All runs have the same settings."));
    return;
  }
  place("settings-table").append(head(["setting", ...runs.map(run => run.name)], []),
    h("tbody", {}, data.settings.map(row => h("tr", {}, row.map((cell, i) => h(i ? "td" : "th", i ? {} : { scope: "row" }, cell))))));
}

place("summary").textContent = series.join(" · ");
drawTradeoff();
fillRuns();
drawGrowth();
fillSettings();
document.body.dataset.ready = "yes";
