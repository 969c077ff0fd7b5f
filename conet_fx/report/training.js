// Cost of each candidate, and how its training went: loss, accuracy and learning rates, epoch by epoch.

function drawTrends() {
  const last = run.networks.find(network => network.label === "found");
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
  trend("Parameters", trials.map(trial => trial.params), count, last && last.params);
  trend("MACs per image", trials.map(trial => trial.macs), count, last && last.macs);
}

/** Values of every epoch, trial after trial: where each trial begins, and `x` of [trial, epoch]. */
function epochAxis(svg, left, right, top, bottom) {
  const lengths = trials.map(trial => trial.loss.length), starts = [];
  let total = 0;
  for (const length of lengths) { starts.push(total); total += length; }
  const scale = linear(0, total, left, right);
  starts.forEach((start, i) => { if (i) svg.append(rule(scale(start), top, scale(start), bottom, "axis-line")); });
  const middle = i => scale(starts[i] + lengths[i] / 2);
  xLabels(svg, columns.slice(0, -1), middle, bottom + 18, (right - left) / trials.length, "trial, epochs from left to right");
  return (trial, epoch) => scale(starts[trial] + epoch + 0.5);
}

function drawEpochs() {
  const panel = (title, field, unit) => {
    if (!trials.some(trial => trial[field].some(known))) return;
    const host = h("div", { class: "chart" });
    place("epochs").append(host);
    chart(host, `${title}, every epoch of every trial`, width => {
      const left = 52, right = width - 16, top = 28, bottom = 190, svg = canvas(width, 228), marks = [];
      const [low, high] = extent(trials.flatMap(trial => trial[field]));
      const from = field === "loss" ? Math.min(0, low) : Math.max(0, low - 0.08 * (high - low)), to = high + 0.05 * (high - from) || 1;
      const y = linear(from, to, bottom, top);
      yAxis(svg, ticks(from, to, 3), y, left, right);
      svg.append(text(0, 12, title, "start", "title"));
      const x = epochAxis(svg, left, right, top, bottom);
      trials.forEach((trial, i) => {
        for (const piece of pieces(trial[field])) {
          svg.append(s("path", { class: "line curve", d: path(piece.map(([epoch, value]) => [x(i, epoch), y(value)])) }));
          if (piece.length === 1) svg.append(s("circle", { class: "dot", cx: x(i, piece[0][0]), cy: y(piece[0][1]), r: 3 }));
        }
        trial[field].forEach((value, epoch) => {
          if (known(value)) marks.push({ x: x(i, epoch), y: y(value), row: 0, col: i * 1000 + epoch, title, rows: [
            ["trial", columns[i]], ["epoch", String(epoch + 1)], ["value", `${significant(value, 4)}${unit}`]] });
        });
      });
      explore(svg, marks);
      return svg;
    });
  };
  panel("Training loss", "loss", "");
  panel("Training accuracy, %", "accuracy", " %");
}

function drawRates() {
  if (!run.layers.length) {
    place("rates").remove();
    return;
  }
  let paint = () => {};
  const rateOf = value => 10 ** (value / 1000), lowest = -4000; // four decades below the highest: what is less stands still
  const redraw = chart("rate-chart", "Learning rate of every layer in every epoch, logarithmic", width => {
    const left = 62, right = width - 16, top = 14, bottom = 270, svg = canvas(width, 310), marks = [];
    const [least, high] = extent(run.layers.flatMap(layer => layer.rates.flat()));
    const from = Math.max(least, high + lowest) - 50, to = high + 50, y = linear(from, to, bottom, top);
    const values = logTicks(rateOf(from), rateOf(to));
    yAxis(svg, values, value => y(1000 * Math.log10(value)), left, right);
    const x = epochAxis(svg, left, right, top, bottom);
    const { lines, onHover, ...rest } = bundle(), shown = new Set(view.shown);
    svg.append(lines);
    run.layers.forEach((layer, row) => {
      const group = known(layer.group) ? free.indexOf(run.groups[layer.group]) : -1;
      const owner = group < 0 ? null : group, high = value => y(Math.max(from, value));
      const d = layer.rates.flatMap((rates, i) =>
        pieces(rates).map(piece => path(piece.map(([epoch, value]) => [x(i, epoch), high(value)])))).join("");
      lines.append(s("path", { class: "line", d, "data-group": owner ?? "",
        "--c": owner === null ? "var(--soft)" : depthColour(owner) }));
      if (owner === null ? view.wanted : !shown.has(owner)) return;
      layer.rates.forEach((rates, i) => rates.forEach((value, epoch) => {
        if (known(value)) marks.push({ x: x(i, epoch), y: high(value), row, col: i * 1000 + epoch, group: owner,
          title: layer.name, rows: () => [["learning rate", rateOf(value).toPrecision(3)], ["trial", columns[i]],
            ["epoch", String(epoch + 1)], ["group", owner === null ? "" : free[owner].name]] });
      }));
    });
    svg.classList.toggle("many", run.layers.length > 24);
    explore(svg, marks, { onHover });
    paint = rest.paint;
    paint();
    return svg;
  });
  follow(() => paint());
  onView(redraw);
}
