// The tables of one run, and then everything in its place.

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

/** Headings that order the groups: a click takes the first of their orders, the next click the other one. */
const HEADINGS = [["group", ["name", "network"]], ["also written by"], ["before"], ["over the trials"],
  ["found", ["widest", "narrowest"]], ["change", ["grown", "cut"]], ["last decision", ["decision", "network"]]];

function fillGroups() {
  const rowOf = new Map(run.groups.map(group => {
    const index = free.indexOf(group), shown = charted && index >= 0;
    const name = shown ? h("button", { type: "button", onclick: () => select(index) }, group.name) : group.name;
    const writers = group.writers.filter(writer => writer !== group.name);
    const why = group.frozen !== null ? `kept: ${group.frozen}` : finalWords(group);
    const change = group.frozen === null ? `${Math.round(100 * (ratio(group) - 1))} %`.replace("-", "−") : "";
    return [group, h("tr", { class: group.frozen === null ? null : "frozen" },
      h("td", {}, name), h("td", { class: "writers" }, writers.join(", ")), number(String(group.before)),
      h("td", {}, shown ? sparkline(group) : ""), number(h("b", {}, String(group.found))), number(change),
      h("td", { class: "why" }, why))];
  }));
  const headings = HEADINGS.map(([title, orders]) => {
    const next = () => look({ order: view.order === orders[0] ? orders[1] : orders[0] });
    const cell = h("th", { scope: "col", class: ["before", "found", "change"].includes(title) ? "number" : null },
      orders ? h("button", { type: "button", onclick: next }, title) : title);
    return { cell, orders };
  });
  const body = h("tbody", {});
  place("group-table").append(h("thead", {}, h("tr", {}, headings.map(({ cell }) => cell))), body);
  onView(() => {
    body.replaceChildren(...view.groups.map(group => rowOf.get(group)));
    for (const { cell, orders } of headings) {
      const at = orders ? orders.indexOf(view.order) : -1, falling = ["widest", "grown"].includes(view.order);
      if (at < 0 || view.order === "network") cell.removeAttribute("aria-sort");
      else cell.setAttribute("aria-sort", falling ? "descending" : "ascending");
    }
  });
  if (charted) follow(index => {
    for (const [group, row] of rowOf) row.classList.toggle("selected", group === free[index]);
  });
}

place("summary").textContent = run.summary;
place("advice").textContent = run.advice.join(" ");
place("advice").hidden = !run.advice.length;
place("tiles").append(...run.tiles.map(tile => h("div", {},
  h("dt", {}, tile.title),
  h("dd", {}, tile.from ? h("span", { class: "from" }, `${tile.from} → `) : null, tile.to),
  h("dd", { class: "note" }, tile.note))));
place("config").append(...run.config.map(([key, value]) => h("div", {},
  h("dt", {}, key), h("dd", {}, value))));
fillNetworks();
drawAccuracy();
if (charted) {
  drawSizes();
  drawMaps();
  drawRanks();
  drawRankGrid();
} else {
  const message = free.length ? "No trial has ended yet." : "No channel group is free to change: see the reasons in the list below.";
  for (const id of ["evolution", "maps", "ranks"]) place(id).remove();
  place("training").before(h("section", { class: "card" }, h("h2", {}, "Trials"), empty(message)));
  for (const id of ["group", "moment"]) place(id).parentElement.hidden = true;
}
if (trials.length) {
  drawEpochs();
  drawRates();
  drawTrends();
} else for (const id of ["costs", "training"]) place(id).remove();
if (run.graph) drawGraph();
else place("graph").remove();
fillGroups();
fillBar();
look({});
document.body.dataset.ready = "yes";
