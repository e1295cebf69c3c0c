"use strict";
// Tables that sort by a click on their heads and narrow by words; a page without it is complete.
(() => {
  const value = (row, column, kind) => {
    const cell = row.cells[column];
    if (kind === "text") return cell.textContent.trim();
    return "v" in cell.dataset ? Number(cell.dataset.v) : null;
  };

  function sort(table, column, kind, sign) {
    for (const body of table.tBodies) {
      const rows = [...body.rows].map((row) => [value(row, column, kind), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null); // what is not known comes last
        return sign * (kind === "text" ? a.localeCompare(b) : a - b);
      });
      body.append(...rows.map(([, row]) => row));
    }
  }

  for (const table of document.querySelectorAll("table.grid")) {
    const heads = [...table.querySelectorAll("thead th")];
    heads.forEach((head, column) => {
      if (!head.dataset.sort) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const first = head.dataset.sort === "text" ? "ascending" : "descending";
        const other = first === "ascending" ? "descending" : "ascending";
        const order = head.getAttribute("aria-sort") === first ? other : first;
        for (const each of heads) each.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", order);
        sort(table, column, head.dataset.sort, order === "ascending" ? 1 : -1);
      });
    });
  }

  for (const box of document.querySelectorAll("[data-find]")) {
    const list = document.getElementById(box.dataset.find);
    const rows = () => list.querySelectorAll(":scope > [data-row], :scope > tbody > [data-row]"); // none of tables within
    const said = box.querySelector("output");
    const input = box.querySelector("input");
    box.hidden = false;
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows()) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      const all = rows().length;
      said.textContent = words.length ? `${shown} shown of ${all}` : `${all} in all`;
    });
  }

  const open = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  };
  window.addEventListener("hashchange", open);
  open();
})();
