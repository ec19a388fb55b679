// Comforts only: without a script everything is there but the slider and the copy buttons.
"use strict";
for (const slider of document.querySelectorAll(".slider")) {
  const range = slider.querySelector("input");
  const section = slider.closest("section");
  slider.hidden = false;
  range.addEventListener("input", () => {
    slider.querySelector("output").value = range.value;
    for (const item of section.querySelectorAll("[data-score]")) {
      item.classList.toggle("low", Number(item.dataset.score) < Number(range.value));
    }
  });
}
for (const block of document.querySelectorAll("pre")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    const code = block.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code); // not allowed to: at least selected
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  block.after(button);
}
