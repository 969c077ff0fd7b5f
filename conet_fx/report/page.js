// The tables, and then everything in its place.

const number = content => h("td", { class: "number" }, content);
/** The heading of a table; `numbers` are the columns that are set flush right. */
const head = (titles, numbers) => h("thead", {}, h("tr", {},
  titles.map(title => h("th", { scope: "col", class: numbers.includes(title) ? "number" : null }, title))));

function fillNetworks() {
  if (!run.networks.length) {
    place("networks").replaceWith(empty("No network has been trained to the end yet."));
    return;
  }
  const numbers = ["parameters", "MACs", "test accuracy", "seeds", "epochs"];
  place("networks").append(
    head(["network", ...numbers], numbers),
    h("tbody", {}, run.networks.map(network => h("tr", { class: network.label === "found" ? "found" : null },
      h("td", {}, network.title), number(count(network.params)), number(count(network.macs)),
      number(network.accuracy), number(String(network.accuracies.length)), number(String(network.epochs))))));
}

/** A small line of the sizes of one group. */
function sparkline(group) {
  const sizes = sizesOf(group).filter(known), [low, high] = extent(sizes);
  const x = linear(0, sizes.length - 1, 2, 94), y = low === high ? () => 11 : linear(low, high, 19, 3);
  return s("svg", { viewBox: "0 0 96 22", role: "img", "aria-label": sizes.join(", ") },
    s("path", { class: "line", d: path(sizes.map((size, i) => [x(i), y(size)])) }),
    s("circle", { class: "dot", cx: x(sizes.length - 1), cy: y(sizes.at(-1)), r: 2.5 }));
}

function fillGroups() {
  const rows = run.groups.map(group => {
    const index = free.indexOf(group), last = group.trials.at(-1);
    const charted = index >= 0 && trials.length > 0;
    const name = charted ? h("button", { type: "button", onclick: () => select(index) }, group.name) : group.name;
    const writers = group.writers.filter(writer => writer !== group.name);
    const why = group.frozen !== null ? `kept: ${group.frozen}` : last ? `${last.action}: ${last.reason}` : "";
    return h("tr", { class: group.frozen === null ? null : "frozen" },
      h("td", {}, name), h("td", { class: "writers" }, writers.join(", ")), number(String(group.before)),
      h("td", {}, charted ? sparkline(group) : ""), number(h("b", {}, String(group.found))),
      h("td", { class: "why" }, why));
  });
  const table = place("group-table");
  const titles = ["group", "also written by", "before", "over the trials", "found", "last decision"];
  table.append(head(titles, ["before", "found"]), h("tbody", {}, rows));
  const filter = place("filter"), note = place("filter-note");
  const apply = () => {
    const wanted = filter.value.trim().toLowerCase();
    let visible = 0;
    run.groups.forEach((group, i) => {
      rows[i].hidden = ![group.name, ...group.writers].some(name => name.toLowerCase().includes(wanted));
      visible += rows[i].hidden ? 0 : 1;
    });
    note.textContent = wanted ? `${visible} of ${run.groups.length}` : plural(run.groups.length, "group");
  };
  filter.addEventListener("input", apply);
  apply();
  if (trials.length && free.length) {
    follow(index => run.groups.forEach((group, i) => {
      rows[i].classList.toggle("selected", group === free[index]);
    }));
  }
}

place("summary").textContent = run.summary;
place("tiles").append(...run.tiles.map(tile => h("div", {},
  h("dt", {}, tile.title),
  h("dd", {}, tile.from ? h("span", { class: "from" }, `${tile.from} → `) : null, tile.to),
  h("dd", { class: "note" }, tile.note))));
place("config").append(...run.config.map(([key, value]) => h("div", {},
  h("dt", {}, key), h("dd", {}, value))));
fillNetworks();
drawAccuracy();
if (trials.length && free.length) {
  drawSizes();
  drawMaps();
  drawRanks();
} else {
  const message = free.length ? "No trial has been run yet."
    : "No channel group is free to change: see the reasons in the list below.";
  for (const id of ["evolution", "maps", "ranks"]) place(id).remove();
  place("costs").before(h("section", { class: "card" }, h("h2", {}, "Trials"), empty(message)));
}
if (trials.length) drawTrends();
else place("costs").remove();
fillGroups();
document.body.dataset.ready = "yes";
