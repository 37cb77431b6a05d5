// Gradient noise, live: slopes of the real loss along directions drawn by the reader's dice, each against the exact one.
// An anywidget front-end module. state: word { name, vector }, caption, z, noise, t, the draw that is asked about; gradient,
// the exact one there; numbers packed as float32 in base64; mus, the steps to choose among; start, which of them first.

const SOME = 16; // directions a question, so that the reader sees them come

const inside = (mus) => `
  <div class="zoti-slider"><label>step µ</label><output></output>
    <div><input type="range" min="0" max="${mus.length - 1}" step="1" aria-label="step µ">
      <span class="zoti-ticks" aria-hidden="true">${"<i></i>".repeat(mus.length)}</span></div></div>
  <div class="zoti-hands"><button type="button" data-n="2">Ask along 2</button><button type="button" data-n="64">Ask along 64</button>
    <button type="button" class="zoti-dice">Start anew</button></div>
  <div class="zoti-drawn"></div>
  <dl class="zoti-facts"></dl>`;

async function render({ model, el }) {
  if (!window.zotiLoad) {
    el.append("In the built book the page asks the model here, live; in a notebook, my_rge above does.");
    return;
  }
  const { axis, digits, dot, facts, numbers, panel, plot, svg } = await window.zotiLoad("live");
  const { word, caption, t, mus, start, ...packed } = model.get("state");
  const [z, noise, gradient] = ["z", "noise", "gradient"].map((name) => numbers(packed[name]));
  const draw = { z, noise, t, gradient, caption, word: { name: word.name, vector: numbers(word.vector) } };
  const length = Math.sqrt(dot(gradient, gradient));
  const { root, part, tell, run } = panel(el, inside(mus), ask); // ask: as many directions as are wanted
  const [slider, shown] = ['[type="range"]', "output"].map(part);
  let [seed, wanted, passes] = [0, 2, 0];
  let asked = { slopes: [], sum: new Float64Array(gradient.length) }; // slopes: { exact, found }, along this seed's directions

  const mu = () => mus[slider.value];
  const nothing = () => { asked = { slopes: [], sum: new Float64Array(gradient.length) }; };

  async function ask(question, _, signal) {
    const now = asked;
    while (now.slopes.length < wanted) {
      if (signal.aborted) { wanted = now.slopes.length; break; }
      const n = Math.min(SOME, wanted - now.slopes.length);
      const seen = await question("slopes", { ...draw, mu: Number(mu().value), seed, skip: now.slopes.length, n });
      if (now !== asked) return; // µ or the dice have changed meanwhile
      seen.directional.forEach((found, i) => now.slopes.push({ found, exact: seen.exact[i] }));
      seen.grad.forEach((x, i) => { now.sum[i] += n * x; });
      passes += seen.evaluations;
      show();
    }
    const { near, along } = told();
    tell(`µ = ${mu().name}: over ${wanted} directions the correlation is ${near}, the estimate's cosine ${along}.`);
  }

  // What two losses found against what is exact; and their estimate, the mean of slope times direction, against the gradient.
  function told() {
    const { slopes, sum } = asked;
    const [x, y] = ["exact", "found"].map((name) => centred(slopes.map((one) => one[name])));
    const near = slopes.length > 2 ? digits(dot(x, y) / Math.sqrt(dot(x, x) * dot(y, y)), 4) : "–";
    const along = slopes.length ? digits(dot(sum, gradient) / Math.sqrt(dot(sum, sum)) / length, 3) : "–";
    return { near, along };
  }
  const centred = (list) => list.map((x) => x - list.reduce((sum, one) => sum + one, 0) / list.length);

  function show() {
    const { slopes } = asked;
    const wide = 3 * length;
    const across = { ...axis([-wide, wide, ...slopes.map(({ exact }) => exact)]), name: "slope by backpropagation" };
    const up = { ...axis([-wide, wide, ...slopes.map(({ found }) => found)]), name: "slope from two losses" };
    const { x, y, layer, drawing } = plot(part(".zoti-drawn"), across, up, [340, 300]);
    drawing.setAttribute("aria-label", `${slopes.length} slopes from two losses against exact ones, and the line on which both are equal`);
    layer.append(svg("line", { class: "zoti-same", x1: x(-wide), x2: x(wide), y1: y(-wide), y2: y(wide) }));
    for (const { exact, found } of slopes) {
      const title = svg("title", {}, `exact ${digits(exact, 6)}, from two losses ${digits(found, 6)}`);
      layer.append(svg("circle", { class: "zoti-new", cx: x(exact), cy: y(found), r: 4 }, title));
    }
    shown.textContent = mu().name;
    slider.setAttribute("aria-valuetext", mu().name);
    const [k, { near, along }] = [slopes.length, told()];
    facts(part(".zoti-facts"), {
      "directions asked": k,
      "correlation with the exact slopes": near,
      "cosine of ĝ with g": k ? `${along}, law ${digits(Math.sqrt(k / (gradient.length + k - 1)), 3)}` : along,
      "forward passes; backward": `${passes.toLocaleString("en")}; 0`,
    });
  }

  slider.value = start;
  slider.addEventListener("input", () => { nothing(); show(); run(ask); });
  root.querySelectorAll("[data-n]").forEach((button) =>
    button.addEventListener("click", () => { wanted += Number(button.dataset.n); run(ask); }));
  part(".zoti-dice").addEventListener("click", () => {
    [seed, wanted, passes] = [seed + 1, 2, 0];
    nothing();
    run(ask);
  });
  show();
}

export default { render };
