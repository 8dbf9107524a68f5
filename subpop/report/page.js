// Sorting, filtering, deep links and the dialog of a number. Text from data goes through textContent or DataTable.render.text().
import DataTable from "itables";

const byId = (id) => document.getElementById(id);
const details = JSON.parse(byId("details").textContent);
const dialog = byId("detail");
const views = [...document.querySelectorAll("table.sorted")].map(viewOf);
let subpopulations = null;
let opened = "";
let restoring = false;

// A table with its filters. In the address, its settings begin with its name.
function viewOf(element) {
  const length = Number(element.dataset.length);
  const isShort = element.tBodies[0].rows.length <= 10 && !length;
  const table = new DataTable(element, {
    autoWidth: false,
    layout: { topStart: isShort ? null : "search", topEnd: null, bottomStart: length ? "info" : null, bottomEnd: length ? "paging" : null },
    order: [],
    pageLength: length || 10,
    paging: length > 0,
  });
  return {
    name: element.id,
    names: [...element.tHead.rows[0].cells].map((heading) => heading.dataset.name),
    selects: [...document.querySelectorAll("form.filters select")].filter((select) => select.dataset.table === element.id),
    table,
  };
}

// The address is the state: what a reader does changes it, and whatever changes it is shown.
function state() {
  const kept = new URLSearchParams();
  for (const { name, names, selects, table } of views) {
    if (table.search()) kept.set(`${name}.search`, table.search());
    for (const select of selects) if (select.value) kept.set(`${name}.${select.dataset.column}`, select.value);
    for (const [column, direction] of table.order()) if (direction) kept.append(`${name}.sort`, `${direction} ${names[column]}`);
  }
  if (opened) kept.set("open", opened);
  return kept.toString();
}

function keep() {
  if (!restoring && location.hash.slice(1) !== state()) history.replaceState(null, "", `#${state()}`);
}

function choose({ names, table }, select, value) {
  select.value = [...select.options].some((option) => option.value === value) ? value : "";
  table.column(names.indexOf(select.dataset.column)).search(select.value, { exact: Boolean(select.value) });
}

function restore() {
  const kept = new URLSearchParams(location.hash.slice(1));
  restoring = true;
  for (const view of views) {
    const { name, names, selects, table } = view;
    for (const select of selects) choose(view, select, kept.get(`${name}.${select.dataset.column}`) ?? "");
    const order = kept.getAll(`${name}.sort`).map((each) => [names.indexOf(each.replace(/^\w+ /, "")), each.split(" ")[0]]);
    table.order(order.filter(([column, direction]) => column >= 0 && ["asc", "desc"].includes(direction)));
    table.search(kept.get(`${name}.search`) ?? "").draw();
  }
  show(kept.get("open") ?? "");
  restoring = false;
  keep();
}

function rowsOf(detail) {
  if (detail.values) return detail.values.map((value, i) => [details[detail.names].names[i], value]);
  if (detail.rows) return detail.rows;
  return detail.of.flatMap((key) => details[key].rows.map(([name, ...rest]) => [`${details[key].where}: ${name}`, ...rest]));
}

function show(key) {
  const detail = Object.hasOwn(details, key) && details[key].title ? details[key] : null;
  opened = detail ? key : "";
  if (!detail) return dialog.close();
  byId("title").textContent = detail.title;
  byId("text").textContent = detail.text;
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
  const plain = ["what", "value"].map((title) => ({ title, orderable: false, render: DataTable.render.text() }));
  subpopulations = new DataTable("#subpopulations", {
    autoWidth: false,
    data: rowsOf(detail),
    columns: detail.values ? plain : [
      { title: "subpopulation", render: DataTable.render.text() },
      { ...number("damage in %", 1), render: withInterval },
      { ...number("half width", 1), visible: false },
      ...["without defense in %", "difference in %", "clean accuracy in %"].map((title) => number(title, 1)),
      ...["test rows", "poison rows"].map((title) => number(title, 0)),
    ],
    layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
    order: detail.values ? [] : [[1, "desc"]],
    paging: false,
  });
  if (!dialog.open) dialog.showModal();
}

for (const view of views) {
  for (const select of view.selects) {
    select.addEventListener("change", () => {
      choose(view, select, select.value);
      view.table.draw();
    });
  }
  view.table.on("draw", keep);
}
for (const form of document.querySelectorAll("form.filters")) form.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("click", (event) => {
  const key = event.target.closest("button[data-opens]")?.dataset.opens;
  if (!key) return;
  show(key);
  history.pushState(null, "", `#${state()}`); // so that the back button closes the dialog
});
dialog.addEventListener("close", () => {
  if (!dialog.open) opened = "";
  keep();
});
window.addEventListener("popstate", restore);
window.addEventListener("hashchange", restore);
restore();
document.documentElement.dataset.ready = "yes";
