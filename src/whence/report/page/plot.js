// Draws each view from the specification beside it, without eval; the buttons choose which one is seen.
const views = [...document.querySelectorAll(".view")];
const buttons = [...document.querySelectorAll("button[data-view]")];
const show = (name) => {
  for (const view of views) view.hidden = view.id !== "view-" + name;
  for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.view === name));
};
const options = { renderer: "svg", ast: true, actions: { export: true, source: false, compiled: false, editor: false } };
Promise.all(
  views.map((view) => vegaEmbed(view.querySelector(".chart"), JSON.parse(view.querySelector("script").textContent), options)),
).then(() => buttons.length && show(buttons[0].dataset.view));
for (const button of buttons) button.addEventListener("click", () => show(button.dataset.view));
