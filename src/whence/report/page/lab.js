"use strict";
// Makes the columns of the table sortable, within each group of methods; a page without it is complete.
(() => {
  const table = document.querySelector("table.lab");
  if (!table) return;
  const heads = [...table.querySelectorAll("th[data-sort]")];

  const value = (row, column, kind) => {
    const cell = row.children[column];
    if (kind === "text") return cell.textContent.trim();
    return "v" in cell.dataset ? Number(cell.dataset.v) : null;
  };

  function sort(column, kind, sign) {
    for (const body of table.tBodies) {
      const rows = [...body.rows].slice(1).map((row) => [value(row, column, kind), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null); // what was not measured comes last
        return sign * (kind === "text" ? a.localeCompare(b) : a - b);
      });
      body.append(...rows.map(([, row]) => row));
    }
  }

  heads.forEach((head, column) => {
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
      sort(column, head.dataset.sort, order === "ascending" ? 1 : -1);
    });
  });
})();
