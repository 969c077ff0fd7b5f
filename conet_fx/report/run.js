// One run, and what all its charts share: the selected group, the groups that are shown and their order, the trial.

const run = data, trials = run.trials;
const free = run.groups.filter(group => group.frozen === null);
/** Whole numbers come as steps from one known value to the next. */
function sums(steps) {
  let sum = 0;
  return steps.map(step => step === null ? null : sum += step);
}
for (const entry of free.flatMap(group => group.trials)) {
  if (entry) entry.ranks = sums(entry.ranks).map(value => value / 1e5);
}
for (const layer of run.layers) layer.rates = layer.rates.map(sums);
const charted = trials.length > 0 && free.length > 0;

/** Each group's size in every trial and, last, as found; null where a trial does not have it. */
const sizesOf = group => [...group.trials.map(trial => trial && trial.size), group.found];
const columns = [...trials.map(trial => String(trial.number)), "found"];
/** The depth colour of the free group at `index`: three stops that stay apart for colour-blind readers. */
function depthColour(index) {
  const t = free.length > 1 ? 2 * index / (free.length - 1) : 0;
  const from = Math.min(1, Math.floor(t));
  return `color-mix(in oklab, var(--depth-${from + 1}) ${round((t - from) * 100)}%, var(--depth-${from}))`;
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
/** The decision that counts at the end, with its column: the one that stopped a group, else the last. */
function finalDecision(group) {
  const stop = group.trials.findIndex(entry => entry && entry.action === "stop");
  const column = stop < 0 ? group.trials.length - 1 : stop;
  return { column, decision: group.trials[column] };
}
function finalWords(group) {
  const { column, decision } = finalDecision(group);
  return decision ? `${decision.action}, trial ${columns[column]}: ${decision.reason}` : "";
}

// --- which groups are shown, in which order ---------------------------------------------------------------------

const ratio = group => group.found / group.before;
const by = (key, down) => (a, b) => {
  const first = key(a), second = key(b);
  return (first < second ? -1 : first > second ? 1 : 0) * (down ? -1 : 1);
};
const lastCause = group => Object.keys(DECISIONS).indexOf(finalDecision(group).decision?.cause);
/** Orders: what the list calls them, and how two groups compare. Array.sort keeps the network's order among equals. */
const ORDERS = {
  network: { label: "network order", compare: () => 0 },
  name: { label: "name", compare: by(group => group.name.toLowerCase()) },
  grown: { label: "most grown first", compare: by(ratio, true) },
  cut: { label: "most cut first", compare: by(ratio) },
  widest: { label: "widest first", compare: by(group => group.found, true) },
  narrowest: { label: "narrowest first", compare: by(group => group.found) },
  decision: { label: "last decision", compare: by(lastCause) },
};
/** `groups`: all that match, in order (of the table); `shown`: indices of the free ones among them (of the charts). */
const view = { order: "network", wanted: "", groups: run.groups, shown: free.map((_, i) => i) };
const viewers = [];
function onView(callback) { viewers.push(callback); }
function look(changes) {
  Object.assign(view, changes);
  const words = group => [group.name, ...group.writers, group.trials.at(-1)?.action ?? ""];
  const matches = group => words(group).some(word => word.toLowerCase().includes(view.wanted));
  const found = run.groups.filter(matches);
  view.matches = found.length;
  view.groups = found.toSorted(ORDERS[view.order].compare);
  const any = found.some(group => group.frozen === null); // charts are never empty: they show all where none matches
  view.shown = free.map((_, i) => i).filter(i => !any || matches(free[i]))
    .sort((a, b) => ORDERS[view.order].compare(free[a], free[b]));
  for (const viewer of viewers) viewer();
  if (charted && !view.shown.includes(selected)) select(view.shown[0]);
}

// --- which trial is shown ---------------------------------------------------------------------------------------

let moment = columns.length - 1;
const clocks = [];
function onMoment(callback) { clocks.push(callback); callback(); }
function turn(index) {
  moment = index;
  for (const clock of clocks) clock();
}

function fillBar() {
  const filter = place("filter"), note = place("filter-note"), order = place("order"), group = place("group");
  order.append(...Object.entries(ORDERS).map(([key, { label }]) => h("option", { value: key }, label)));
  order.addEventListener("change", () => look({ order: order.value }));
  filter.addEventListener("input", () => look({ wanted: filter.value.trim().toLowerCase() }));
  group.addEventListener("change", () => select(Number(group.value)));
  const step = by => () => {
    const at = view.shown.indexOf(selected) + by;
    select(view.shown[(at + view.shown.length) % view.shown.length]);
  };
  place("previous").addEventListener("click", step(-1));
  place("next").addEventListener("click", step(1));
  onView(() => {
    order.value = view.order;
    note.textContent = view.wanted ? `${view.matches} of ${run.groups.length}` : plural(run.groups.length, "group");
    group.replaceChildren(...view.shown.map(i => h("option", { value: i }, free[i].name)));
    group.value = String(selected);
  });
  follow(index => { group.value = String(index); });
  const slider = place("moment");
  slider.max = columns.length - 1;
  slider.addEventListener("input", () => turn(Number(slider.value)));
  onMoment(() => {
    slider.value = moment;
    const name = moment < trials.length ? `trial ${columns[moment]}` : "found";
    place("moment-name").textContent = name;
    slider.setAttribute("aria-valuetext", name);
  });
}
