// Core ipywidgets in a static page: what html-manager leaves undone. Loaded before embed.js, on every page with widgets.

// 1. html-manager asks MathJax 2's queue to typeset; MathJax 3 knows no Hub and would raise a TypeError.
//    MathJax's configuration is set, and MathJax itself loaded, after this script, so we wait for the page.
addEventListener("DOMContentLoaded", () => {
  window.MathJax = window.MathJax || {};
  MathJax.Hub = { Queue: ([, , element]) => window.MathJax.typesetPromise?.([element]) };
});

function mend() {
  // 2. The theme's FontAwesome turns every <i class="fa"> into <svg>, and Play then looks in vain for its <i>.
  document.querySelectorAll(".jupyter-widgets i.fa").forEach((icon) => icon.setAttribute("data-fa-i2svg", ""));

  // 3. Play's buttons are icons without a name.
  document.querySelectorAll(".widget-play button:not([aria-label])").forEach((button) => {
    button.ariaLabel = button.querySelector("i").className.replace("fa fa-", "");
  });

  // 4. A slider's handle has neither name nor words for its value; the label and the read-out beside it have both.
  //    noUiSlider writes the bare index at every move; writing only what differs ends the exchange.
  document.querySelectorAll(".widget-slider").forEach((slider) => {
    const handle = slider.querySelector(".noUi-handle");
    if (!handle) return;
    const words = (part) => slider.querySelector(part)?.textContent ?? "";
    const [name, value] = [words(".widget-label"), words(".widget-readout")];
    if (handle.ariaLabel !== name) handle.ariaLabel = name;
    if (handle.ariaValueText !== value) handle.ariaValueText = value;
  });
}
new MutationObserver(mend).observe(document, {
  subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ["aria-valuetext"],
});
