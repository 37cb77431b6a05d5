// What the explorers have in common that ask the model itself, live: a panel, the page's engine behind it, and a plot.

// ---- A panel -------------------------------------------------------------------------------------------------------------

const FRAME = `
  <div class="zoti-asks" hidden></div>
  <div class="zoti-hands"><button type="button" class="zoti-load">Load the model: 19 MB, once, into this page</button>
    <button type="button" class="zoti-stop" hidden>Stop</button></div>
  <progress max="1" value="0" aria-label="how much is loaded" hidden></progress>
  <p class="zoti-told" role="status"></p>`;

// In `el`: a button that loads the engine, and once it is there the explorer's own markup, `inside`. first: what is to be
// done then. A panel is { root, part, tell, run }.
export function panel(el, inside, first) {
  const root = document.createElement("div");
  root.className = "zoti-explorer zoti-live";
  root.innerHTML = FRAME;
  el.append(root);
  const part = (selector) => root.querySelector(selector);
  const [load, stop, bar, asks, told] = [".zoti-load", ".zoti-stop", "progress", ".zoti-asks", ".zoti-told"].map(part);
  asks.innerHTML = inside;
  const tell = (words) => { told.textContent = words; };
  let [pupil, next, giveUp] = [null, null, null];

  async function open() {
    const { engine } = await window.zotiLoad("engine");
    tell("Loading the model …");
    bar.hidden = false;
    ({ pupil } = await engine((share) => {
      if (share !== undefined) { bar.value = share; return; }
      tell("All is here; the model wakes up …");
      bar.removeAttribute("value");
    }, giveUp.signal));
    asks.hidden = false;
    load.hidden = true;
  }

  // Do this, after what is being done; of several that wait, the last. doing(ask, goesOn, signal): `ask` promises an answer of
  // assets/engine/explore.js; goesOn() is false once the reader has had enough, which aborts the signal, or wants
  // something else.
  async function run(doing) {
    next = doing;
    if (root.dataset.state === "busy") return;
    root.dataset.state = "busy";
    const hand = document.activeElement;
    while (next) {
      const now = next;
      [next, giveUp] = [null, new AbortController()];
      const { signal } = giveUp;
      const slow = setTimeout(() => { stop.hidden = false; }, 300); // nobody stops what is over at once
      try {
        if (!pupil) await open();
        await now((what, given) => pupil.ask("explore", { what, ...given }), () => !next && !signal.aborted, signal);
      } catch (error) {
        tell(signal.aborted ? "Stopped." : `It did not work: ${error.message}`);
      }
      clearTimeout(slow);
      bar.hidden = true;
    }
    const lost = [stop, load, document.body].includes(document.activeElement); // what is hidden loses a keyboard's focus
    stop.hidden = true;
    root.dataset.state = "idle";
    if (lost && root.contains(hand)) (hand.hidden ? asks.querySelector("select, input, button") : hand).focus({ preventScroll: true });
  }

  load.addEventListener("click", () => run(first));
  stop.addEventListener("click", () => giveUp.abort());
  root.dataset.state = "idle";
  tell("Nothing is loaded before you ask, and nothing ever leaves this page.");
  return { root, part, tell, run };
}

// ---- What it shows ---------------------------------------------------------------------------------------------------------

// Numbers as a chapter packs them: float32 in base64.
export const numbers = (text) => new Float32Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);

// A number for the eye, with a minus that is one.
export const digits = (x, n = 2) => x.toFixed(n).replace("-", "−");

export const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);

// A list of facts, by name.
export function facts(list, told) {
  list.innerHTML = Object.keys(told).map((name) => `<div><dt>${name}</dt><dd></dd></div>`).join("");
  Object.values(told).forEach((value, i) => { list.querySelectorAll("dd")[i].textContent = value; });
}

// Bytes of RGBA on a canvas of a figure, and what is seen there.
export function show(canvas, pixels, words) {
  const side = Math.sqrt(pixels.length / 4);
  Object.assign(canvas, { width: side, height: side });
  canvas.setAttribute("aria-label", words);
  canvas.getContext("2d").putImageData(new ImageData(pixels, side, side), 0, 0);
  canvas.nextElementSibling.textContent = words;
}

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Ends of an axis that holds all these, a little wider, with the round steps on it.
export function axis(values, steps = 4) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const rough = Math.max(most - least, 1e-12) / steps;
  const ten = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((x) => x * ten).find((x) => x >= rough);
  const [low, high] = [Math.floor(least / step) * step, Math.ceil(most / step) * step];
  const ticks = Array.from({ length: Math.round((high - low) / step) + 1 }, (_, i) => low + i * step);
  return { low, high, ticks, places: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

// A plot to draw on: axes of `axis`, each with a name. x(value) and y(value) are places on it; draw by its `layer`.
export function plot(place, across, up, [width, height] = [340, 240]) {
  const [left, right, top, bottom] = [54, 18, 26, 42];
  const x = (value) => left + ((value - across.low) / (across.high - across.low)) * (width - left - right);
  const y = (value) => height - bottom - ((value - up.low) / (up.high - up.low)) * (height - top - bottom);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "zoti-asked" });
  for (const value of across.ticks) {
    drawing.append(svg("line", { class: "zoti-grid", x1: x(value), x2: x(value), y1: top, y2: height - bottom }));
    drawing.append(svg("text", { x: x(value), y: height - bottom + 17, "text-anchor": "middle" }, digits(value, across.places)));
  }
  for (const value of up.ticks) {
    drawing.append(svg("line", { class: "zoti-grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    drawing.append(svg("text", { x: left - 6, y: y(value) + 5, "text-anchor": "end" }, digits(value, up.places)));
  }
  drawing.append(svg("text", { class: "zoti-name", x: width - right, y: height - 5, "text-anchor": "end" }, across.name));
  drawing.append(svg("text", { class: "zoti-name", x: 4, y: 14 }, up.name));
  const layer = svg("g");
  drawing.append(layer);
  place.replaceChildren(drawing);
  return { x, y, layer, drawing, box: { left, right: width - right, top, bottom: height - bottom } };
}
