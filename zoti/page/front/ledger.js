// The bill of a training step: every choice is a switch, and the bar follows.
// An anywidget front-end module. state: models {name: {weights: {lying: {U-Net, ...}, moving: {...}}}} in bytes,
// context in bytes, start, goal {task, answer, model, weights, below}. value: {model, weights, method, cached, checkpointing,
// together, cut}.

let made = 0;

export const METHODS = ["DreamBooth", "Textual inversion", "Forward passes"];

// What lies in memory at the highest moment of a step, [[name, bytes], ...]; null where the method cannot be.
// The chapter's Python has the same function, and a test holds the two equal.
export function bill({ models }, { model, weights, method, cached, checkpointing, together, cut }) {
  const { lying, moving } = models[model][weights];
  const parts = Object.entries(lying).filter(([name]) => !(name === "VAE" && cached) && !(name === "token table" && cut));
  const unet = lying["U-Net"];
  if (method === "DreamBooth") {
    if (!["32", "16"].includes(weights)) return null; // whole numbers have no gradient
    return [...parts, ["gradients", unet], ["Adam's state", 2 * unet], ["working space", unet]];
  }
  const phases = cached ? [] : [[0, moving.encode]];
  if (method === "Forward passes") phases.push([0, together ? moving.three : moving.one]);
  else phases.push(checkpointing ? moving.checkpointed : moving.backward);
  const [kept, rest] = phases.reduce((a, b) => (b[0] + b[1] > a[0] + a[1] ? b : a));
  return [...parts, ["kept for the way back", kept], ["working space", rest]].filter(([, bytes]) => bytes > 0);
}

export const total = (parts) => parts.reduce((sum, [, bytes]) => sum + bytes, 0);

const CARDS = [2, 4, 6, 8, 12, 16, 24, 48, 80];
const COLOURS = {
  "U-Net": "blue", "text encoder": "sky", "token table": "green", VAE: "pink", gradients: "orange", "Adam's state": "red",
  "kept for the way back": "orange", "working space": "grey",
};
const gb = (bytes) => (bytes / 1e9).toFixed(2);

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
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
  if (model.get("value") == null) model.set("value", state.start);
  const id = `zoti-ledger-${++made}-${Math.random().toString(36).slice(2, 7)}`;
  const choose = (change) => {
    model.set("value", { ...model.get("value"), ...change });
    model.save_changes();
    show();
  };

  const one = (key, title, options) => {
    const labels = options.map(([value, told]) =>
      element("label", {},
        element("input", { type: "radio", name: `${id}-${key}`, value, onchange: () => choose({ [key]: value }) }), told));
    return element("fieldset", {}, element("legend", {}, title), ...labels);
  };
  const yes = (key, told) =>
    element("label", {}, element("input", { type: "checkbox", "data-key": key, onchange: (e) => choose({ [key]: e.target.checked }) }), told);

  const names = Object.keys(state.models);
  const switches = element("div", { class: "zoti-switches" },
    one("model", "model", names.map((name) => [name, name])),
    one("weights", "bits of a weight", Object.keys(state.models[names[0]]).map((bits) => [bits, bits])),
    one("method", "method", METHODS.map((name) => [name, name])),
    element("fieldset", {}, element("legend", {}, "bookkeeping"),
      yes("cached", "cached latents"), yes("cut", "token table cut"), yes("checkpointing", "checkpointing"),
      yes("together", "three candidates at once")));
  const bar = element("div", { class: "zoti-bar", role: "img" });
  const card = element("p", { class: "zoti-card" });
  const facts = element("dl", { class: "zoti-facts" });
  const said = element("p", { class: "zoti-said", "aria-live": "polite" });
  const root = element("div", { class: "zoti-explorer zoti-ledger" }, switches, card, bar, facts, said);
  const answer = element("details", {}, element("summary", {}, "Answer"), element("p", {}, state.goal.answer));
  const goal = element("div", { class: "zoti-goal" },
    element("p", {}, element("strong", {}, "Goal. "), state.goal.task), answer);
  root.append(goal);
  el.replaceChildren(root);

  function show() {
    const value = model.get("value");
    root.querySelectorAll("input[type=radio]").forEach((input) => {
      input.checked = value[input.name.slice(id.length + 1)] === input.value;
    });
    root.querySelectorAll("input[type=checkbox]").forEach((input) => {
      const { key } = input.dataset;
      input.checked = Boolean(value[key]);
      const idle = { checkpointing: value.method !== "Textual inversion", together: value.method !== "Forward passes" };
      input.disabled = Boolean(idle[key]); // it changes nothing for the other methods
      input.parentElement.classList.toggle("zoti-idle", input.disabled);
    });
    const parts = bill(state, value);
    bar.replaceChildren();
    facts.replaceChildren();
    if (!parts) {
      card.textContent = "Whole numbers have no gradient: DreamBooth cannot train weights of 8 or 4 bits.";
      bar.setAttribute("aria-label", card.textContent);
      said.textContent = card.textContent;
      return;
    }
    const all = [...parts, ["CUDA context", state.context]];
    const sum = total(all);
    const size = CARDS.find((gigabytes) => gigabytes * 1e9 >= sum) ?? Math.ceil(sum / 1e9);
    const told = `${gb(total(parts))} GB live, ${gb(sum)} GB with the CUDA context`;
    card.textContent = `${told}; in a card of ${size} GB:`;
    for (const [name, bytes] of all) {
      const colour = COLOURS[name] ? `background: var(--zoti-tint-${COLOURS[name]})` : "";
      bar.append(element("i", { style: `width: ${(100 * bytes) / (size * 1e9)}%; ${colour}`, title: `${name} ${gb(bytes)} GB` }));
      facts.append(element("div", {},
        element("dt", {}, element("i", { style: colour }), name), element("dd", {}, `${gb(bytes)} GB`)));
    }
    const listed = all.map(([name, bytes]) => `${name} ${gb(bytes)}`).join(", ");
    bar.setAttribute("aria-label", `${told}: ${listed}`);
    said.textContent = told;
    if (value.model === state.goal.model && value.weights === state.goal.weights && sum < state.goal.below && !goal.classList.contains("zoti-found")) {
      goal.classList.add("zoti-found");
      answer.querySelector("summary").textContent = "Found";
      answer.open = true;
    }
  }
  model.on?.("change:value", show);
  show();
}

export default { render };
