// A question to answer before going on: a choice, or a curve to draw. An anywidget front-end module.
// state: name, question (markup), and choices [text] or curve {x [text], xLabel, yLabel, low, high}. value: the answer.
// An answer is kept in the reader's own browser, and told to the page by the event "zoti-predicted".

const SVG = "http://www.w3.org/2000/svg";
const key = (name) => `zoti ${location.pathname} ${name}`;

export function remembered(name) {
  try { return JSON.parse(localStorage.getItem(key(name))); } catch { return null; }
}

function remember(name, value) {
  try {
    if (value == null) localStorage.removeItem(key(name));
    else localStorage.setItem(key(name), JSON.stringify(value));
  } catch { /* a page that may keep nothing still asks */ }
}

// As zoti.page.predictions.mark does it; the tests hold the two equal.
export function verdict(answer, guess) {
  if (typeof answer === "string") {
    const right = guess === answer;
    return { right, text: right ? `You were right: ${answer}.` : `You predicted ${guess}. Measured: ${answer}.` };
  }
  const mean = (gaps) => gaps.reduce((a, b) => a + Math.abs(b), 0) / gaps.length;
  const sorted = [...answer].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  const off = mean(answer.map((y, i) => guess[i] - y));
  const flat = mean(answer.map((y) => y - median));
  const right = off < flat / 2;
  const told = (x) => String(Number(x.toPrecision(3)));
  return {
    right,
    text: `${right ? "You were right" : "Not quite"}: your curve is off by ${told(off)} on average, the best flat line by ${told(flat)}.`,
  };
}

function render({ model, el }) {
  el.addEventListener("focusin", (e) => (e.target.dataset.lmSuppressShortcuts = "")); // or JupyterLab takes its keys
  const { name, question, choices, curve } = model.get("state");
  const root = document.createElement("div");
  root.className = "zoti-predict";
  root.innerHTML = `<p><strong>Predict.</strong> ${question}</p>`;
  el.append(root);

  const commit = (value) => {
    model.set("value", value);
    model.save_changes();
    remember(name, value);
    document.dispatchEvent(new CustomEvent("zoti-predicted", { detail: { name, value } }));
  };
  const again = document.createElement("button");
  Object.assign(again, { type: "button", className: "zoti-again", textContent: "Answer again" });
  again.addEventListener("click", () => { commit(null); root.querySelector("button:not(.zoti-again), [tabindex]")?.focus(); });

  const draw = choices ? asChoice(root, choices, commit) : asCurve(root, curve, commit);
  root.append(again);
  const show = () => {
    const value = model.get("value");
    draw(value);
    again.hidden = value == null;
    root.classList.toggle("zoti-answered", value != null);
  };
  if (model.get("value") == null && remembered(name) != null) commit(remembered(name));
  model.on("change:value", show);
  show();
}

function asChoice(root, choices, commit) {
  const group = document.createElement("div");
  group.className = "zoti-choices";
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", "Your prediction");
  const buttons = choices.map((text) => {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: text });
    button.addEventListener("click", () => commit(text));
    group.append(button);
    return button;
  });
  root.append(group);
  return (value) => buttons.forEach((button) => {
    button.setAttribute("aria-pressed", button.textContent === value);
    button.disabled = value != null && button.textContent !== value;
  });
}

function asCurve(root, { x, xLabel, yLabel, low, high }, commit) {
  const [width, height, left, bottom] = [340, 190, 34, 34];
  const across = (i) => left + ((width - left - 14) * i) / (x.length - 1);
  const up = (y) => 10 + (height - bottom - 10) * (1 - (y - low) / (high - low));
  const step = (high - low) / 20;
  let ys = x.map(() => (low + high) / 2);
  let open = true;
  const node = (tag, attributes, text) => {
    const made = document.createElementNS(SVG, tag);
    for (const [k, v] of Object.entries(attributes)) made.setAttribute(k, v);
    if (text != null) made.textContent = text;
    svg.append(made);
    return made;
  };
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("class", "zoti-curve");
  svg.setAttribute("role", "group");
  svg.setAttribute("aria-label", `Draw ${yLabel} against ${xLabel}`);
  node("path", { class: "zoti-axes", d: `M${left} 8V${height - bottom}H${width - 8}` });
  node("text", { x: left - 5, y: height - bottom, "text-anchor": "end" }, low);
  node("text", { x: left - 5, y: 18, "text-anchor": "end" }, high);
  node("text", { x: left, y: height - 18 }, x[0]);
  node("text", { x: width - 8, y: height - 18, "text-anchor": "end" }, x.at(-1));
  node("text", { x: (width + left) / 2, y: height - 4, "text-anchor": "middle" }, xLabel);
  node("text", { x: left + 8, y: 18 }, yLabel);
  const line = node("path", { class: "zoti-drawn" });
  const knobs = x.map((name, i) => {
    const knob = node("circle", {
      r: 7, cx: across(i), tabindex: 0, role: "slider", "aria-label": `${yLabel} at ${name}`,
      "aria-valuemin": low, "aria-valuemax": high, "aria-orientation": "vertical",
    });
    knob.addEventListener("keydown", (event) => {
      const by = { ArrowUp: step, ArrowRight: step, ArrowDown: -step, ArrowLeft: -step }[event.key];
      if (!by || !open) return;
      event.preventDefault();
      move(i, ys[i] + by);
    });
    return knob;
  });
  const done = document.createElement("button");
  Object.assign(done, { type: "button", className: "zoti-done", textContent: "That is my curve" });
  done.addEventListener("click", () => commit(ys.map((y) => Number(y.toPrecision(4)))));
  root.append(svg, done);

  function redraw() {
    line.setAttribute("d", ys.map((y, i) => `${i ? "L" : "M"}${across(i)} ${up(y)}`).join(""));
    knobs.forEach((knob, i) => {
      knob.setAttribute("cy", up(ys[i]));
      knob.setAttribute("aria-valuenow", Number(ys[i].toPrecision(3)));
    });
  }
  function move(i, y) {
    ys[i] = Math.min(high, Math.max(low, y));
    redraw();
  }
  // Drawing: a hand that moves across the chart takes the nearest points along.
  const follow = (event) => {
    if (!open || !(event.buttons & 1)) return;
    const box = svg.getBoundingClientRect();
    const [px, py] = [((event.clientX - box.left) * width) / box.width, ((event.clientY - box.top) * height) / box.height];
    const i = Math.round(((px - left) * (x.length - 1)) / (width - left - 14));
    if (i < 0 || i >= x.length) return;
    move(i, low + (high - low) * (1 - (py - 10) / (height - bottom - 10)));
  };
  svg.addEventListener("pointerdown", (event) => { svg.setPointerCapture?.(event.pointerId); follow(event); });
  svg.addEventListener("pointermove", follow);
  return (value) => {
    open = value == null;
    if (value) ys = [...value];
    done.hidden = !open;
    redraw();
  };
}

export default { render };
