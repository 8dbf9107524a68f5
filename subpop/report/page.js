// Sorting, filtering, deep links and the dialog of a cell. All text from data goes through textContent or DataTable.render.text().
import DataTable from "itables";

const byId = (id) => document.getElementById(id);
const board = byId("board");
if (board) start();

function start() {
  const cells = JSON.parse(byId("cells").textContent);
  const names = [...board.tHead.rows[0].cells].map((heading) => heading.dataset.name);
  const filters = [...document.querySelectorAll("#filters select")];
  const dialog = byId("cell");
  const table = new DataTable(board, {
    autoWidth: false,
    layout: { topStart: "search", topEnd: null, bottomStart: "info", bottomEnd: "paging" },
    order: [],
    pageLength: 25,
  });
  let subpopulations = null;
  let opened = "";
  let restoring = false;

  // The address is the state: what a reader does changes it, and whatever changes it is shown.
  function state() {
    const kept = new URLSearchParams();
    if (table.search()) kept.set("q", table.search());
    for (const select of filters) if (select.value) kept.set(select.dataset.column, select.value);
    for (const [column, direction] of table.order()) if (direction) kept.append("sort", `${direction} ${names[column]}`);
    if (opened) kept.set("open", opened);
    return kept.toString();
  }

  function keep() {
    if (!restoring && location.hash.slice(1) !== state()) history.replaceState(null, "", `#${state()}`);
  }

  function choose(select, value) {
    select.value = [...select.options].some((option) => option.value === value) ? value : "";
    const column = table.column(names.indexOf(select.dataset.column));
    column.search(select.value, { exact: Boolean(select.value) });
  }

  function restore() {
    const kept = new URLSearchParams(location.hash.slice(1));
    restoring = true;
    for (const select of filters) choose(select, kept.get(select.dataset.column) ?? "");
    const order = kept.getAll("sort").map((each) => [names.indexOf(each.replace(/^\w+ /, "")), each.split(" ")[0]]);
    table.order(order.filter(([column, direction]) => column >= 0 && ["asc", "desc"].includes(direction)));
    table.search(kept.get("q") ?? "").draw();
    show(kept.get("open") ?? "");
    restoring = false;
    keep();
  }

  function show(key) {
    const cell = Object.hasOwn(cells, key) ? cells[key] : null;
    opened = cell ? key : "";
    if (!cell) return dialog.close();
    byId("cell-title").textContent = cell.title;
    byId("cell-text").textContent = cell.text;
    subpopulations?.destroy();
    byId("subpopulations").replaceChildren();
    const number = (title, digits) => ({
      title,
      type: "num",
      className: "dt-right",
      render: (value, kind) => (kind !== "display" ? value : value === null ? "–" : value.toFixed(digits)),
    });
    const withInterval = (value, kind, row) => {
      if (kind !== "display" || value === null) return kind === "display" ? "–" : value;
      return value.toFixed(1) + (row[2] === null ? "" : ` ± ${row[2].toFixed(1)}`);
    };
    subpopulations = new DataTable("#subpopulations", {
      autoWidth: false,
      data: cell.rows,
      columns: [
        { title: "subpopulation", render: DataTable.render.text() },
        { ...number("damage in %", 1), render: withInterval },
        { ...number("half width", 1), visible: false },
        ...["without defense in %", "difference in %", "clean accuracy in %"].map((title) => number(title, 1)),
        ...["test rows", "poison rows"].map((title) => number(title, 0)),
      ],
      info: false,
      order: [[1, "desc"]],
      paging: false,
      searching: false,
    });
    if (!dialog.open) dialog.showModal();
  }

  for (const select of filters) {
    select.addEventListener("change", () => {
      choose(select, select.value);
      table.draw();
    });
  }
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  table.on("draw", keep);
  board.addEventListener("click", (event) => {
    const key = event.target.closest("button[data-cell]")?.dataset.cell;
    if (!key) return;
    show(key);
    history.pushState(null, "", `#${state()}`); // so that the back button closes the cell
  });
  dialog.addEventListener("close", () => {
    if (!dialog.open) opened = "";
    keep();
  });
  window.addEventListener("popstate", restore);
  window.addEventListener("hashchange", restore);
  restore();
  document.documentElement.dataset.ready = "yes";
}
