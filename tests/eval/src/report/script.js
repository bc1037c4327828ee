// The page is complete without this: it lets legends hide systems in all plots.
"use strict";
(() => {
  const hidden = new Set();
  const buttons = document.querySelectorAll(".legend button");
  const show = () => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(!hidden.has(button.dataset.system)));
    for (const group of document.querySelectorAll("g[class^=sys-]")) {
      group.classList.toggle("gone", hidden.has(group.classList[0].slice(4)));
    }
  };
  for (const button of buttons) {
    button.title = "show or hide in all plots";
    button.addEventListener("click", () => {
      const id = button.dataset.system;
      if (!hidden.delete(id)) hidden.add(id);
      show();
    });
  }
  show();
})();
