"use strict";
// Adds three things to a page that is complete without them: one answer at a time, shading the answer by one document,
// and opening what a link points into. Reads numbers from attributes; writes text and classes only.
(() => {
  const LEVELS = 8;
  const root = document.documentElement;
  const sections = [...document.querySelectorAll("section.trace")];
  const links = [...document.querySelectorAll(".queries a")];
  root.classList.add("js");

  function show(section) {
    for (const other of sections) other.classList.toggle("open", other === section);
    for (const link of links) {
      if (link.getAttribute("href") === "#" + section.id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    const text = section.querySelector(".query");
    const first = text && text.querySelector("i:not([data-x])");
    if (first) text.scrollTop = Math.max(0, first.offsetTop - text.offsetTop - text.clientHeight / 2);
  }

  function follow() {
    const target = document.getElementById(location.hash.slice(1));
    const section = target && target.closest("section.trace");
    if (!section) return sections.length && !document.querySelector(".trace.open") && show(sections[0]);
    if (!section.classList.contains("open")) show(section);
    if (target !== section) target.scrollIntoView({ block: "center" });
  }

  function paint(tokens, values) {
    const largest = Math.max(0, ...values.map(Math.abs));
    tokens.forEach((token, i) => {
      const step = largest > 0 ? Math.round((LEVELS * values[i]) / largest) : 0;
      const shade = step ? (step > 0 ? "p" : "n") + Math.abs(step) : "";
      token.className = shade || ("x" in token.dataset ? "x" : "");
      token.title = values[i] > 0 ? "+" + values[i] : String(values[i]).replace("-", "\u2212");
    });
  }

  for (const section of sections) {
    const tokens = [...section.querySelectorAll(".query > i")];
    const by = section.querySelector(".by");
    const words = by.textContent;
    const saved = tokens.map((token) => [token.className, token.title]);

    const restore = () => {
      tokens.forEach((token, i) => ([token.className, token.title] = saved[i]));
      by.textContent = words;
    };
    const choose = (card, on) => {
      for (const other of section.querySelectorAll(".card")) {
        const chosen = on && other === card;
        other.classList.toggle("chosen", chosen);
        const button = other.querySelector(".shade");
        if (button) button.setAttribute("aria-pressed", String(chosen));
      }
      if (!on) return restore();
      paint(tokens, card.dataset.q.split(",").map(Number));
      const side = card.closest(".side-o") ? "opponent" : "proponent";
      by.textContent = "Shaded by " + side + " " + card.querySelector(".rank").textContent + ": " + card.querySelector(".id").textContent;
    };

    for (const card of section.querySelectorAll(".card[data-q]")) {
      if (card.dataset.q.split(",").length !== tokens.length) continue;
      const button = card.querySelector(".shade");
      button.hidden = false;
      card.addEventListener("click", (event) => {
        const other = event.target.closest("summary, a, details, button");
        if (other && other !== button) return;
        if (!other && String(getSelection())) return; // the reader is selecting text
        choose(card, !card.classList.contains("chosen"));
      });
    }
    section.addEventListener("keydown", (event) => {
      const card = event.key === "Escape" && section.querySelector(".card.chosen");
      if (card) choose(card, false);
    });
  }

  addEventListener("hashchange", follow);
  follow();
})();
