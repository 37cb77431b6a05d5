// What a built page does by itself: it hosts figures that answer, asks before it reveals, enlarges pictures, opens code.

const stored = (name) => new Blob([window.zotiModules[name]], { type: "text/javascript" });
const modules = {};
// From a Blob, because a page opened from a folder (file://) may not import a module by its address.
// Modules ask for each other by it, too, and each is one to all.
const load = window.zotiLoad = (name) => (modules[name] ??= import(URL.createObjectURL(stored(name))));

// The host: anywidget's model, with the state that the page holds in place of a kernel.
function host(element) {
  const { state, value } = JSON.parse(element.querySelector("script").textContent);
  const strip = element.querySelector("details");
  const frames = [...element.querySelectorAll("[data-frame]")].map((frame) => frame.innerHTML);
  strip?.remove();
  const values = { state: { ...state, frames }, value };
  const listeners = {};
  const model = {
    get: (key) => values[key],
    set: (key, v) => { values[key] = v; (listeners[`change:${key}`] ?? []).forEach((f) => f()); },
    on: (event, f) => { (listeners[event] ??= []).push(f); },
    off: (event, f) => { listeners[event] = (listeners[event] ?? []).filter((g) => g !== f); },
    save_changes() {},
  };
  return load(element.dataset.module).then(({ default: module }) => module.render({ model, el: element }));
}

// A prediction covers what is put out between it and the claim that marks it.
function covered(question) {
  const name = JSON.parse(question.querySelector("script").textContent).state.name;
  const verdict = document.querySelector(`.zoti-verdict[data-predict="${name}"]`);
  if (!verdict) return null;
  const after = Node.DOCUMENT_POSITION_FOLLOWING;
  const outputs = [...document.querySelectorAll(".cell_output")].filter((output) =>
    !output.contains(question) && !output.querySelector('[data-module="predict"]')
    && question.compareDocumentPosition(output) & after
    && (output.contains(verdict) || output.compareDocumentPosition(verdict) & after));
  return { name, verdict, outputs };
}

function cover({ name, verdict, outputs }, predict) {
  const note = document.createElement("p");
  note.className = "zoti-cover";
  note.innerHTML = 'Covered until you have predicted. <button type="button">Show it all the same</button>';
  note.lastChild.addEventListener("click", () => reveal());
  outputs[0].before(note);
  const hide = (yes) => {
    outputs.forEach((output) => output.classList.toggle("zoti-covered", yes));
    note.hidden = !yes;
  };
  const unmarked = verdict.innerHTML;
  function reveal(guess = predict.remembered(name)) {
    hide(false);
    verdict.innerHTML = unmarked;
    if (guess == null) return;
    const { right, text } = predict.verdict(JSON.parse(verdict.dataset.answer), guess);
    verdict.dataset.right = right;
    verdict.textContent = text;
  }
  document.addEventListener("zoti-predicted", ({ detail }) => {
    if (detail.name !== name) return;
    delete verdict.dataset.right;
    if (detail.value == null) hide(true);
    else reveal(detail.value);
    score();
  });
  hide(predict.remembered(name) == null);
  if (predict.remembered(name) != null) reveal();
}

function score() {
  const all = [...document.querySelectorAll(".zoti-verdict[data-predict]")];
  const answered = all.filter((verdict) => verdict.dataset.right);
  const right = answered.filter((verdict) => verdict.dataset.right === "true").length;
  const open = all.length - answered.length;
  document.querySelectorAll(".zoti-score").forEach((line) => {
    line.textContent = answered.length
      ? `You predicted ${right} of ${all.length}.` + (open ? ` ${open} still open.` : "")
      : "";
  });
}

// A tap on a picture shows it as large as the window.
function enlarge() {
  const dialog = document.createElement("dialog");
  dialog.className = "zoti-large";
  dialog.addEventListener("click", () => dialog.close());
  document.body.append(dialog);
  const open = (img) => {
    const large = img.cloneNode();
    large.removeAttribute("tabindex");
    large.removeAttribute("style");
    large.style.imageRendering = img.style.imageRendering;
    const words = document.createElement("p");
    words.textContent = img.alt;
    const close = document.createElement("button");
    Object.assign(close, { type: "button", textContent: "Close" });
    dialog.replaceChildren(large, words, close);
    dialog.setAttribute("aria-label", img.alt);
    dialog.showModal();
  };
  document.addEventListener("click", ({ target }) => { if (target.matches?.("article img.zoti-pixels")) open(target); });
}

// One button for the page opens every folded cell.
function showAllCode() {
  const folded = [...document.querySelectorAll("div.cell details.hide")];
  const strip = document.querySelector(".zoti-masthead");
  if (!folded.length || !strip) return;
  const setup = document.querySelectorAll("div.cell.tag_setup"); // nothing to see before all code is asked for
  setup.forEach((cell) => { cell.hidden = true; });
  const button = document.createElement("button");
  Object.assign(button, { type: "button", className: "zoti-all-code", textContent: "Show all code" });
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", open);
    button.textContent = open ? "Fold the code" : "Show all code";
    folded.forEach((details) => { details.open = open; });
    setup.forEach((cell) => { cell.hidden = !open; });
  });
  strip.append(button);
}

addEventListener("DOMContentLoaded", async () => {
  enlarge();
  showAllCode();
  const { dataset } = document.documentElement;
  let theme = dataset.theme;
  addEventListener("afterprint", () => { dataset.theme = theme; });
  addEventListener("beforeprint", () => {
    theme = dataset.theme;
    dataset.theme = "light"; // paper is white
    document.querySelectorAll("div.cell details.hide").forEach((details) => { details.open = true; });
    document.querySelectorAll("div.cell.tag_setup").forEach((cell) => { cell.hidden = false; });
  });
  const widgets = [...document.querySelectorAll(".zoti-widget")];
  const questions = widgets.filter((element) => element.dataset.module === "predict");
  if (questions.length) {
    const predict = await load("predict");
    questions.map(covered).filter(Boolean).forEach((q) => cover(q, predict));
  }
  await Promise.all(widgets.map(host));
  score();
  document.documentElement.dataset.zoti = "ready";
});
