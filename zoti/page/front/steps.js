// ZOODiP, a step at a click: the page learns the teapot, and its word's path is drawn among paths that were recorded. An
// anywidget front-end module. state: start, the word's vector, and towards, the way from it to a goal, packed as float32 in
// base64; runs, the recorded paths, [[along that way, sideways]] from [0, 0] on.

const LAST = 20; // losses to average: one says more of its draw than of the word

const NAMES = ["towards the word of backpropagation", "sideways, in all other directions"];

const INSIDE = `
  <div class="zoti-hands"><button type="button" data-n="1">One step</button><button type="button" data-n="10">Ten steps</button>
    <button type="button" class="zoti-again">Again from the start</button>
    <button type="button" class="zoti-dice">Other dice</button></div>
  <div class="zoti-drawn"></div>
  <dl class="zoti-facts"></dl>`;

async function render({ model, el }) {
  if (!window.zotiLoad) {
    el.append("In the built book the page learns here, step by step; in a notebook, my_invert above does.");
    return;
  }
  const { axis, digits, dot, facts, numbers, panel, plot, svg } = await window.zotiLoad("live");
  const { runs, ...packed } = model.get("state");
  const [start, towards] = [numbers(packed.start), numbers(packed.towards)];
  const far = Math.sqrt(dot(towards, towards));
  const place = (theta) => {
    const moved = theta.map((x, i) => x - start[i]);
    const along = dot(moved, towards) / far;
    return [along, Math.sqrt(Math.max(0, dot(moved, moved) - along ** 2))];
  };
  const { root, part, tell, run } = panel(el, INSIDE, walk);
  let [seed, wanted, path, before] = [0, 1, [], []]; // path: { loss, passes, at }, a step each. before: paths with other dice

  async function walk(question, _, signal) {
    const now = path;
    while (now.length < wanted) {
      if (signal.aborted) { wanted = now.length; break; }
      const { theta, loss, passes } = await question("step", { seed, anew: !now.length });
      if (now !== path) return; // it is to begin again
      now.push({ loss, passes, at: place(theta) });
      show();
    }
    const { loss, passes } = now.at(-1);
    tell(`Step ${now.length}: loss ${digits(loss, 4)} on its draw; ${passes.toLocaleString("en")} forward passes, none backward.`);
  }

  function show() {
    const ours = path.map(({ at }) => at);
    const all = [[0, 0], ...runs.flat(), ...before.flat(), ...ours];
    const [across, up] = [0, 1].map((i) => ({ ...axis(all.map((at) => at[i])), name: NAMES[i] }));
    const { x, y, layer, drawing } = plot(part(".zoti-drawn"), across, up, [340, 300]);
    drawing.setAttribute("aria-label", `The word's path: ${path.length} steps from the class word, among ${runs.length} recorded ones`);
    const line = (kind, places) => layer.append(svg("polyline", {
      class: kind, points: [[0, 0], ...places].map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ") }));
    const mark = (kind, [a, b], r, words) =>
      layer.append(svg("circle", { class: kind, cx: x(a), cy: y(b), r }, svg("title", {}, words)));
    runs.forEach((places) => {
      line("zoti-recorded", places);
      mark("zoti-old", places.at(-1), 4, `recorded, after ${places.length - 1} steps`);
    });
    before.forEach((places) => line("zoti-before", places));
    line("zoti-path", ours);
    path.forEach(({ at, loss }, i) => mark(i === path.length - 1 ? "zoti-now" : "zoti-new", at, i === path.length - 1 ? 6 : 2.5,
      `step ${i + 1}: loss ${digits(loss, 6)}, at ${at.map((one) => digits(one, 5)).join(", ")}`));
    const end = path.at(-1);
    const some = path.slice(-LAST);
    facts(part(".zoti-facts"), {
      step: path.length,
      "loss on this step's draw": end ? digits(end.loss, 4) : "–",
      [`mean of the last ${LAST}`]: end ? digits(some.reduce((sum, { loss }) => sum + loss, 0) / some.length, 4) : "–",
      "forward passes": end ? end.passes.toLocaleString("en") : "0",
      "backward passes": "0",
    });
  }

  function anew(next) {
    if (next !== seed && path.length) before = [...before, path.map(({ at }) => at)].slice(-5);
    [seed, wanted, path] = [next, 1, []];
    run(walk);
  }

  root.querySelectorAll("[data-n]").forEach((button) =>
    button.addEventListener("click", () => { wanted += Number(button.dataset.n); run(walk); }));
  part(".zoti-again").addEventListener("click", () => anew(seed));
  part(".zoti-dice").addEventListener("click", () => anew(seed + 1));
  show();
}

export default { render };
