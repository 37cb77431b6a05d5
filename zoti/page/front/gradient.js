// A landscape to stand on: theta can be dragged, random directions are tried, their slopes add up to a gradient.
// An anywidget front-end module. state: grid [[loss]] from below, box [left, right, bottom, top], shades [SVG path],
// places [{x, y, name}], xLabel, yLabel, ns, mus, rate, start. value: [x, y, which n, which mu, which throw].
// All chance comes from the throw's number, so a value shows the same everywhere.

let made = 0;

// ---- The loss between the places where it was measured: a cubic through four neighbours, each way --------------------

function cubic(a, b, c, d, t) {
  return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)));
}

export function landscape({ grid, box: [left, right, bottom, top] }) {
  const [rows, columns] = [grid.length, grid[0].length];
  const inside = (i, n) => Math.min(n - 1, Math.max(0, i));
  return (x, y) => {
    const u = Math.min(columns - 1, Math.max(0, ((x - left) / (right - left)) * (columns - 1)));
    const v = Math.min(rows - 1, Math.max(0, ((y - bottom) / (top - bottom)) * (rows - 1)));
    const [i, j] = [Math.min(columns - 2, Math.floor(u)), Math.min(rows - 2, Math.floor(v))];
    const along = [-1, 0, 1, 2].map((k) => {
      const row = grid[inside(j + k, rows)];
      return cubic(...[-1, 0, 1, 2].map((m) => row[inside(i + m, columns)]), u - i);
    });
    return cubic(...along, v - j);
  };
}

// ---- Chance, and the estimate of zoti.rge in two dimensions ------------------------------------------------------------

function dice(seed) { // mulberry32, and Box and Muller's way from two uniform numbers to two normal ones
  let a = seed >>> 0;
  const uniform = () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return () => {
    const [r, phi] = [Math.sqrt(-2 * Math.log(1 - uniform())), 2 * Math.PI * uniform()];
    return [r * Math.cos(phi), r * Math.sin(phi)];
  };
}

export function directions(n, seed) {
  const roll = dice(seed * 7919 + n);
  return Array.from({ length: n }, roll);
}

export function estimate(loss, [x, y], e, mu) {
  const here = loss(x, y);
  const slopes = e.map(([a, b]) => (loss(x + mu * a, y + mu * b) - here) / mu);
  const mean = (k) => slopes.reduce((sum, slope, i) => sum + slope * e[i][k], 0) / e.length;
  return { slopes, grad: [mean(0), mean(1)] };
}

export function slope(loss, [x, y], h = 1e-3) {
  return [(loss(x + h, y) - loss(x - h, y)) / (2 * h), (loss(x, y + h) - loss(x, y - h)) / (2 * h)];
}

const long = ([x, y]) => Math.hypot(x, y);
export const cosine = (a, b) => (a[0] * b[0] + a[1] * b[1]) / (long(a) * long(b) || 1);

// ---- The figure ----------------------------------------------------------------------------------------------------------

const SIDE = 340; // units of the drawing; a phone shows them at 0.9 pixels each
const digits = (x, n = 2) => x.toFixed(n).replace("-", "−");

function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "line", "circle", "text", "title", "polyline", "rect"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

function render({ model, el }) {
  el.addEventListener("focusin", (e) => (e.target.dataset.lmSuppressShortcuts = "")); // or JupyterLab takes its keys
  const state = model.get("state");
  const { box: [left, right, bottom, top], shades, places, ns, mus, rate } = state;
  const loss = landscape(state);
  if (model.get("value") == null) model.set("value", state.start);
  const id = `zoti-gradient-${++made}-${Math.random().toString(36).slice(2, 7)}`;
  const unit = SIDE / (right - left); // as wide as it is high
  const across = (x) => (x - left) * unit;
  const up = (y) => (top - y) * unit;
  const within = (x, low, high) => Math.min(high, Math.max(low, x));

  let trail = [];
  let asked = 0; // forward passes
  let thrown = { count: 0, squares: 0 }; // at one place, with one n and one mu
  let timer = null;

  const root = element("div", { class: "zoti-explorer zoti-gradient" });
  const svg = element("svg", { class: "zoti-map", viewBox: `0 0 ${SIDE} ${SIDE}`, role: "group", "aria-label": `The loss over ${state.xLabel} and ${state.yLabel}` });
  shades.forEach((d) => svg.append(element("path", { class: "zoti-shade", d, "fill-rule": "evenodd" })));
  svg.append(element("text", { x: SIDE - 8, y: SIDE - 9, "text-anchor": "end" }, `${state.xLabel} →`));
  svg.append(element("text", { x: 10, y: 20 }, `↑ ${state.yLabel}`));
  places.forEach(({ x, y, name }) => svg.append(
    element("path", { class: "zoti-place", d: `M${across(x) - 5} ${up(y)}h10m-5 -5v10` }),
    element("text", { x: across(x) + 8, y: up(y) + 17 }, name),
  ));
  const path = element("polyline", { class: "zoti-trail" });
  const arrows = element("g");
  const handle = element("circle", { class: "zoti-here", r: 8 });
  const grip = element("circle", {
    class: "zoti-grip", r: 24, tabindex: 0, role: "slider", "aria-label": "θ: the arrow keys move it over the landscape",
    "aria-valuemin": digits(Math.min(...state.grid.flat()), 4), "aria-valuemax": digits(Math.max(...state.grid.flat()), 4),
  });
  svg.append(path, handle, arrows, grip);

  const said = element("p", { class: "zoti-said", role: "status" });
  const readout = {};
  const facts = element("dl", { class: "zoti-facts" });
  for (const [key, name] of [["loss", "loss at θ"], ["cosine", "cosine of ĝ with g"], ["mean", "root mean square"], ["passes", "forward passes so far"]]) {
    readout[key] = element("dd");
    readout[`${key} of`] = element("dt", {}, name);
    facts.append(element("div", {}, readout[`${key} of`], readout[key]));
  }
  const key = element("p", { class: "zoti-key" });
  key.innerHTML = '<span><i class="zoti-tried"></i>directions tried, <b>θ</b> + µe at their dots</span>'
    + '<span><i class="zoti-guess"></i>−ĝ, from forward passes</span><span><i class="zoti-truth"></i>−g, the slope itself</span>';

  const sliders = [["directions n", ns], ["step µ", mus]].map(([name, values], k) => {
    const shown = element("output", { for: `${id}-${k}` });
    const input = element("input", {
      type: "range", id: `${id}-${k}`, min: 0, max: values.length - 1, step: 1, "aria-label": name,
      oninput: () => { stop(); set({ [k + 2]: Number(input.value) }); },
    });
    const ticks = element("span", { class: "zoti-ticks", "aria-hidden": "true" }, ...values.map(() => element("i")));
    const label = element("label", { for: input.id }, name);
    return { input, shown, values, box: element("div", { class: "zoti-slider" }, label, shown, element("div", {}, input, ticks)) };
  });
  const button = (text, act) => element("button", { type: "button", onclick: act }, text);
  const walk = button("Walk 30 steps", () => (timer ? stop() : start()));
  const buttons = element("div", { class: "zoti-buttons" },
    button("Throw again", () => { stop(); set({ 4: model.get("value")[4] + 1 }); }),
    button("Throw 200", many), button("One step", () => { stop(); step(); }), walk,
    button("Back", () => { stop(); trail = []; asked = 0; set({ 0: state.start[0], 1: state.start[1] }); }));
  root.append(element("div", { class: "zoti-sides" }, element("div", {}, svg, key),
    element("div", {}, ...sliders.map((s) => s.box), buttons, facts)), said);
  el.append(root);

  // ---- What is chosen, and what follows from it
  function set(changes) {
    const value = [...model.get("value")];
    for (const [k, v] of Object.entries(changes)) value[k] = v;
    value[0] = within(value[0], left, right);
    value[1] = within(value[1], bottom, top);
    model.set("value", value);
    model.save_changes();
  }
  function now() {
    const [x, y, n, mu, seed] = model.get("value");
    const e = directions(ns[n], seed);
    return { at: [x, y], n: ns[n], mu: mus[mu], seed, e, ...estimate(loss, [x, y], e, mus[mu]), g: slope(loss, [x, y]) };
  }
  function count({ at, n, mu, seed, grad, g }) {
    const which = JSON.stringify([at, n, mu]);
    if (which !== thrown.which) thrown = { which, count: 0, squares: 0 };
    if (thrown.seed === seed) return;
    thrown.seed = seed;
    thrown.count += 1;
    thrown.squares += cosine(grad, g) ** 2;
    asked += n + 1;
  }
  function many() {
    stop();
    for (let i = 0; i < 199; i++) {
      const value = [...model.get("value")];
      value[4] += 1;
      const [x, y, n, mu, seed] = value;
      const e = directions(ns[n], seed);
      count({ at: [x, y], n: ns[n], mu: mus[mu], seed, ...estimate(loss, [x, y], e, mus[mu]), g: slope(loss, [x, y]) });
      if (i < 198) model.get("value")[4] = seed; else model.set("value", value);
    }
    set({ 4: model.get("value")[4] + 1 });
  }
  function step() {
    const { at: [x, y], grad, seed } = now();
    trail.push([x, y]);
    set({ 0: x - rate * grad[0], 1: y - rate * grad[1], 4: seed + 1 });
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    walk.textContent = "Walk 30 steps";
  }
  function start() {
    let left = 30;
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      while (left--) step();
      return;
    }
    walk.textContent = "Stop";
    timer = setInterval(() => { step(); if (--left <= 0) stop(); }, 90);
  }

  // ---- Drawing
  function arrow(from, by, kind) {
    const size = long(by);
    if (size * unit < 2) return;
    const [x, y, dx, dy] = [across(from[0]), up(from[1]), by[0] * unit, -by[1] * unit];
    const [ux, uy] = [dx / (size * unit), dy / (size * unit)];
    const head = Math.min(11, size * unit);
    const [bx, by2] = [x + dx - head * ux, y + dy - head * uy];
    arrows.append(element("path", { class: kind, d: `M${x} ${y}L${bx} ${by2}` }));
    arrows.append(element("path", { class: `${kind} zoti-head`, d: `M${x + dx} ${y + dy}L${bx - 0.45 * head * uy} ${by2 + 0.45 * head * ux}L${bx + 0.45 * head * uy} ${by2 - 0.45 * head * ux}Z` }));
  }
  function draw() {
    const seen = now();
    count(seen);
    const { at, e, mu, grad, g, n } = seen;
    arrows.replaceChildren();
    e.forEach((one) => {
      const [a, b] = one.map((v) => (0.55 * v) / (long(one) || 1)); // all as long, for their lengths do not matter to the eye
      arrows.append(element("line", { class: "zoti-tried", x1: across(at[0]), y1: up(at[1]), x2: across(at[0] + a), y2: up(at[1] + b) }));
      arrows.append(element("circle", { class: "zoti-probe", r: 3.5, cx: across(at[0] + mu * one[0]), cy: up(at[1] + mu * one[1]) }));
    });
    const size = Math.min(0.6 / (long(g) || 1), 1.3 / (long(grad) || 1)); // both arrows by the same measure
    arrow(at, g.map((v) => -size * v), "zoti-truth");
    arrow(at, grad.map((v) => -size * v), "zoti-guess");
    for (const dot of [handle, grip]) { dot.setAttribute("cx", across(at[0])); dot.setAttribute("cy", up(at[1])); }
    path.setAttribute("points", [...trail, at].map(([x, y]) => `${across(x).toFixed(1)},${up(y).toFixed(1)}`).join(" "));
    sliders.forEach(({ input, shown, values }, k) => {
      const i = model.get("value")[k + 2];
      input.value = i;
      input.setAttribute("aria-valuetext", values[i]);
      shown.textContent = values[i];
    });
    const [height, c] = [loss(...at), cosine(grad, g)];
    readout.loss.textContent = digits(height, 4);
    readout.cosine.textContent = `${digits(c)} (${Math.round((Math.acos(within(c, -1, 1)) * 180) / Math.PI)}°)`;
    const rms = Math.sqrt(thrown.squares / thrown.count);
    readout["mean of"].textContent = `root mean square of ${thrown.count.toLocaleString("en")} throw${thrown.count > 1 ? "s" : ""}`;
    readout.mean.textContent = `${digits(rms, 3)}, law ${digits(Math.sqrt(n / (n + 1)), 3)}`;
    readout.passes.textContent = asked.toLocaleString("en");
    grip.setAttribute("aria-valuenow", digits(height, 4));
    grip.setAttribute("aria-valuetext", `loss ${digits(height, 4)} at ${digits(at[0])}, ${digits(at[1])}`);
    said.textContent = `Loss ${digits(height, 4)}, cosine ${digits(c)}.`;
  }

  // ---- A hand, a finger, the keys
  let held = false;
  const follow = (event) => {
    const seen = svg.getBoundingClientRect();
    trail = [];
    set({ 0: left + ((event.clientX - seen.left) / seen.width) * (right - left), 1: top - ((event.clientY - seen.top) / seen.height) * (top - bottom) });
  };
  grip.addEventListener("pointerdown", (event) => { stop(); held = true; grip.setPointerCapture?.(event.pointerId); });
  grip.addEventListener("pointermove", (event) => { if (held) follow(event); });
  for (const end of ["pointerup", "pointercancel"]) grip.addEventListener(end, () => { held = false; });
  svg.addEventListener("click", (event) => { if (event.target !== grip) { stop(); follow(event); } });
  grip.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!by) return;
    event.preventDefault();
    stop();
    trail = [];
    const [x, y] = model.get("value");
    set({ 0: x + 0.05 * by[0], 1: y + 0.05 * by[1] });
  });

  model.on("change:value", draw);
  draw();
  return stop;
}

export default { render };
