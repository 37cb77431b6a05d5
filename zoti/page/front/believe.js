// Timestep effects, live: a picture noised by as much as the reader likes, and what the model takes it for, told two
// captions. An anywidget front-end module. state: pictures [{ name, word, vector, z, captions [a, b] }], numbers packed as
// float32 in base64; window [low, high], the times that the chapter learns from.

const SWEEP = Array.from({ length: 20 }, (_, i) => 25 + 50 * i);

const inside = (pictures) => `
  <div class="zoti-choose"><label>Picture <select>${pictures.map(({ name }, i) => `<option value="${i}">${name}</option>`).join("")}</select></label>
    <label class="zoti-caption">Told first <input type="text" autocomplete="off" spellcheck="false"></label>
    <label class="zoti-caption">Told second <input type="text" autocomplete="off" spellcheck="false"></label></div>
  <div class="zoti-slider"><label>timestep t</label><output></output>
    <div><input type="range" min="0" max="999" step="1" value="575" aria-label="timestep t"></div></div>
  <div class="zoti-hands"><button type="button" class="zoti-all">Ask at twenty times</button>
    <button type="button" class="zoti-dice">Other noise</button></div>
  <div class="zoti-panels">${'<figure><canvas role="img"></canvas><figcaption></figcaption></figure>'.repeat(3)}</div>
  <div class="zoti-drawn"></div>`;

async function render({ model, el }) {
  if (!window.zotiLoad) {
    el.append("In the built book the page asks the model here, live; in a notebook, imagine() above does.");
    return;
  }
  const { axis, digits, numbers, panel, plot, show, svg } = await window.zotiLoad("live");
  const { pictures, window: [low, high] } = model.get("state");
  const { root, part, tell, run } = panel(el, inside(pictures), look);
  const [sitter, slider, shown] = ["select", '[type="range"]', "output"].map(part);
  const lines = [...root.querySelectorAll('[type="text"]')];
  const canvases = [...root.querySelectorAll("canvas")];
  let [seed, asked] = [0, []]; // asked: { t, won, seed }, of these captions

  const told = () => lines.map((line) => line.value.trim());
  const anew = () => { asked = []; draw(); };
  function sit() {
    lines.forEach((line, i) => { line.value = pictures[sitter.value].captions[i]; });
    anew();
  }

  // One question: the two losses at a time, in thousandths; pictures too where somebody looks.
  async function question(ask, t, pictured) {
    const { z, word, vector } = pictures[sitter.value];
    const given = { z: numbers(z), word: { name: word, vector: numbers(vector) }, captions: told(), t, seed, look: pictured };
    const { losses, pictures: seen } = await ask("believe", given);
    const [first, second] = losses.map((loss) => 1000 * loss);
    asked = asked.filter((one) => one.t !== t || one.seed !== given.seed);
    asked.push({ t, seed: given.seed, won: first - second });
    return { first, second, seen };
  }

  async function look(ask) {
    const t = Number(slider.value);
    const { first, second, seen } = await question(ask, t, true);
    const words = [`noised, t = ${t}`, ...told().map((caption) => `taken for, told “${caption}”`)];
    canvases.forEach((canvas, i) => show(canvas, seen[i], words[i]));
    draw();
    const less = first - second;
    tell(`At t = ${t} the loss is ${digits(first)} thousandths told the first, ${digits(second)} told the second: `
      + `${digits(Math.abs(less))} ${less < 0 ? "more" : "less"}.`);
  }

  async function sweep(ask, goesOn) {
    for (const t of SWEEP) {
      if (!goesOn()) return tell(`Asked at ${SWEEP.indexOf(t)} of ${SWEEP.length} times.`);
      await question(ask, t, false);
      draw();
    }
    const own = asked.filter((one) => one.seed === seed);
    const best = own.reduce((a, b) => (b.won > a.won ? b : a));
    tell(`With this noise the second caption wins most at t = ${best.t}: ${digits(best.won)} thousandths.`);
  }

  function draw() {
    const across = { ...axis([0, 1000]), name: "timestep t" };
    const up = { ...axis([0, 4, ...asked.map(({ won }) => won)]), name: "loss lower, told the second (thousandths)" };
    const { x, y, layer, drawing, box } = plot(part(".zoti-drawn"), across, up);
    drawing.setAttribute("aria-label", `What the second caption takes off the loss, at ${asked.length} times asked`);
    layer.append(svg("rect", { class: "zoti-window", x: x(low), width: x(high) - x(low), y: box.top, height: box.bottom - box.top }));
    layer.append(svg("line", { class: "zoti-zero", x1: box.left, x2: box.right, y1: y(0), y2: y(0) }));
    const here = Number(slider.value);
    for (const { t, won, seed: of } of asked) {
      const kind = of !== seed ? "zoti-old" : t === here ? "zoti-now" : "zoti-new";
      layer.append(svg("circle", { class: kind, cx: x(t), cy: y(won), r: kind === "zoti-now" ? 6 : 4 }));
    }
    shown.textContent = here;
  }

  slider.addEventListener("input", () => { shown.textContent = slider.value; run(look); });
  sitter.addEventListener("change", () => { sit(); run(look); });
  lines.forEach((line) => line.addEventListener("change", () => { anew(); run(look); }));
  part(".zoti-dice").addEventListener("click", () => { seed += 1; run(look); });
  part(".zoti-all").addEventListener("click", () => run(sweep));
  sit();
}

export default { render };
