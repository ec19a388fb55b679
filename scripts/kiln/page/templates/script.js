// Comforts only: without a script everything is there but the slider and the copy buttons.
"use strict";
for (const slider of document.querySelectorAll(".slider")) {
  const range = slider.querySelector("input");
  const section = slider.closest("section");
  const apply = () => {
    slider.querySelector("output").value = range.value;
    const least = Number(range.value) > Number(range.min) ? Number(range.value) : 0;
    for (const item of section.querySelectorAll("[data-score]")) {
      item.classList.toggle("low", Number(item.dataset.score) < least);
    }
  };
  slider.hidden = false;
  range.addEventListener("input", apply);
  addEventListener("pageshow", apply); // a page that is loaded again keeps its slider's place
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
