// One selected item for all charts (a group, a run); the tooltip, and how a chart answers to pointer and keyboard.

let selected = 0;
const followers = [];
function select(index) {
  selected = index;
  for (const follow of followers) follow(index);
}
function follow(callback) {
  followers.push(callback);
  callback(selected);
}

const tip = place("tip");
function showTip(title, rows, x, y) {
  const line = ([key, value]) => h("tr", {}, h("td", {}, key), h("td", {}, value));
  const filled = (typeof rows === "function" ? rows() : rows).filter(([, value]) => known(value) && value !== "");
  const body = h("tbody", {}, filled.map(line));
  tip.replaceChildren(h("b", {}, title), h("table", {}, body));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 16 + width > innerWidth ? x - 16 - width : x + 16;
  const top = y + 16 + height > innerHeight ? y - 16 - height : y + 16;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

/**
 * Let `svg` be read with a pointer or the arrow keys. A mark has a place (x, y), a position for the keys
 * (row, col), the tooltip's `title` and `rows` (or what makes them), perhaps a `box` [x, y, width, height] to outline,
 * and perhaps the `group` to select. In a chart that moves, `project` says where a mark is now, `reveal` brings it into
 * view, and `busy` is true while it is dragged.
 */
function explore(svg, marks, { onHover = () => {}, project = mark => mark, reveal = () => {}, busy = () => false } = {}) {
  if (!marks.length) return;
  const ring = s("circle", { class: "ring", r: 5.5, visibility: "hidden" });
  const box = s("rect", { class: "ring", visibility: "hidden", rx: 2 });
  svg.append(ring, box);
  let current = null;
  const frame = () => {
    const rect = svg.getBoundingClientRect();
    return { rect, zoom: rect.width / svg.viewBox.baseVal.width };
  };
  const show = mark => {
    current = mark;
    const spot = project(mark);
    if (mark.box) {
      const [left, top, width, height] = mark.box;
      fill(box, { x: left, y: top, width, height, visibility: "visible" }, []);
    } else {
      fill(ring, { cx: spot.x, cy: spot.y, visibility: "visible" }, []);
    }
    const { rect, zoom } = frame();
    showTip(mark.title, mark.rows, rect.left + spot.x * zoom, rect.top + spot.y * zoom);
    onHover(mark);
  };
  const hide = () => {
    tip.hidden = true;
    for (const outline of [ring, box]) outline.setAttribute("visibility", "hidden");
    onHover(null);
  };
  const at = event => {
    const { rect, zoom } = frame();
    const x = (event.clientX - rect.left) / zoom, y = (event.clientY - rect.top) / zoom;
    let best = null, least = Infinity;
    for (const mark of marks) {
      const spot = project(mark), distance = (spot.x - x) ** 2 + (spot.y - y) ** 2;
      if (distance < least) [best, least] = [mark, distance];
    }
    return best;
  };
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  /** The nearest mark one step on: along the row first, or in the next row that has any. */
  const beyond = ([down, right]) => {
    let best = null, least = Infinity;
    for (const mark of marks) {
      const rows = mark.row - current.row, cols = mark.col - current.col;
      const along = right ? cols * right : rows * down, aside = Math.abs(right ? rows : cols);
      const cost = right ? along + 1e6 * aside : 1e3 * along + aside;
      if (along > 0 && !(right && aside) && cost < least) [best, least] = [mark, cost];
    }
    return best;
  };
  const pick = mark => { if (mark && known(mark.group)) select(mark.group); };
  svg.setAttribute("tabindex", "0");
  svg.addEventListener("pointermove", event => busy() ? hide() : show(at(event)));
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("mousedown", event => event.preventDefault()); // focus is for the keyboard
  svg.addEventListener("click", event => {
    if (busy()) return;
    const mark = at(event);
    pick(mark);
    if (svg.isConnected) show(mark);
  });
  const walk = mark => { reveal(mark); show(mark); };
  svg.addEventListener("focus", () => walk(current ?? marks[0]));
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", event => {
    if (event.key === "Escape") hide();
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick(current); }
    if (!(event.key in steps)) return;
    event.preventDefault();
    const next = beyond(steps[event.key]);
    if (next) walk(next);
  });
}
