// Sliders that choose among frames drawn beforehand. An anywidget front-end module: a kernel or a page's host calls it.
// state: axes [{name, values}], frames [markup] in row-major order, fixed [markup] above them, said [text], play, goal.
// value: the place on each axis, a list of whole numbers.

let made = 0;

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

function render({ model, el }) {
  el.addEventListener("focusin", (e) => (e.target.dataset.lmSuppressShortcuts = "")); // or JupyterLab takes its keys
  const { axes, frames, fixed = [], said = [], play, goal } = model.get("state");
  const id = `zoti-explorer-${++made}-${Math.random().toString(36).slice(2, 7)}`;
  const root = element("div", { class: "zoti-explorer" });
  const flat = (place) => place.reduce((sum, i, k) => sum * axes[k].values.length + i, 0);

  // One slider an axis: its name, its value, a track as wide as there is room, a tick for every stop.
  const sliders = axes.map(({ name, values }, k) => {
    const shown = element("output", { for: `${id}-${k}` });
    const input = element("input", {
      type: "range", id: `${id}-${k}`, min: 0, max: values.length - 1, step: 1, "aria-label": name,
      oninput: () => { stop(); choose(k, Number(input.value)); },
    });
    const ticks = element("span", { class: "zoti-ticks", "aria-hidden": "true" }, ...values.map(() => element("i")));
    const label = element("label", { for: input.id }, name);
    root.append(element("div", { class: "zoti-slider" }, label, shown, element("div", {}, input, ticks)));
    return { input, shown, values };
  });

  let timer = null;
  const button = element("button", { type: "button", class: "zoti-play", onclick: () => (timer ? stop() : start()) }, "Play");
  function stop() {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  }
  function start() {
    const last = axes[0].values.length - 1;
    if (model.get("value")[0] === last) choose(0, 0);
    button.textContent = "Pause";
    timer = setInterval(() => {
      const next = model.get("value")[0] + 1;
      choose(0, next);
      if (next >= last) stop();
    }, 600);
  }
  if (play) root.firstChild.append(button);

  const screen = element("div", { class: "zoti-screen" });
  screen.innerHTML = fixed.map((markup) => `<div class="zoti-view">${markup}</div>`).join("");
  const cells = frames.map(() => null); // a frame is built when it is first shown, and kept
  const status = element("p", { class: "zoti-said", role: "status" });
  root.append(screen, status);

  let found = () => {};
  if (goal) {
    const answer = element("details", {}, element("summary", {}, "Show the answer"), element("p", {}, goal.answer));
    const task = element("p", {}, element("strong", {}, "A goal. "), goal.task);
    const box = element("div", { class: "zoti-goal" }, task, answer);
    root.append(box);
    found = (place) => {
      if (!goal.solved.includes(place)) return;
      box.classList.add("zoti-found");
      answer.querySelector("summary").textContent = "You have found it";
      answer.open = true;
    };
  }

  function choose(k, i) {
    const value = [...model.get("value")];
    value[k] = i;
    model.set("value", value);
    model.save_changes();
    const place = flat(value);
    status.textContent = said[place] ?? "";
    found(place);
  }

  function draw() {
    const value = model.get("value");
    const place = flat(value);
    sliders.forEach(({ input, shown, values }, k) => {
      input.value = value[k];
      input.setAttribute("aria-valuetext", values[value[k]]);
      shown.textContent = values[value[k]];
    });
    if (frames.length) {
      if (!cells[place]) {
        cells[place] = element("div", { class: "zoti-view" });
        cells[place].innerHTML = frames[place];
        screen.append(cells[place]);
      }
      cells.forEach((cell, i) => { if (cell) cell.hidden = i !== place; });
    }
    for (const dot of screen.querySelectorAll("[data-follow]")) {
      const [x, y] = dot.dataset.follow.split(" ")[place].split(",");
      dot.setAttribute("cx", x);
      dot.setAttribute("cy", y);
    }
  }

  model.on("change:value", draw);
  el.append(root);
  draw();
  return stop;
}

export default { render };
