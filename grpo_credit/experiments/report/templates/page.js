"use strict";
for (const filter of document.querySelectorAll(".filter")) {
  const items = [...document.querySelectorAll(filter.dataset.of)];
  const count = filter.querySelector("output");
  const fits = (item) => [...filter.elements ?? filter.querySelectorAll("select, input")].every((field) => {
    if (!field.name || field.value === "") return true;
    const reward = parseFloat(item.dataset.reward);
    if (field.name === "from") return reward >= Number(field.value);
    if (field.name === "to") return reward <= Number(field.value);
    if (field.name === "text") return item.textContent.toLowerCase().includes(field.value.toLowerCase());
    return item.dataset[field.name] === field.value;
  });
  const apply = () => {
    let shown = 0;
    for (const item of items) { item.hidden = !fits(item); shown += !item.hidden; }
    count.textContent = `${shown} of ${items.length} shown`;
  };
  filter.addEventListener("input", apply);
  filter.addEventListener("submit", (event) => event.preventDefault());
  filter.hidden = false;
  apply();
}
for (const article of document.querySelectorAll("article.shaded")) {
  const rows = [...article.querySelectorAll(".tokens")];
  const readout = article.querySelector(".readout");
  let at = -1;
  const show = (place) => {
    if (place < 0 || place >= rows[0].children.length) return;
    for (const row of rows) { row.children[at]?.classList.remove("on"); row.children[place].classList.add("on"); }
    at = place;
    const text = document.createElement("b");
    text.textContent = `token ${place + 1} “${rows[0].children[place].textContent}”`;
    const numbers = rows.map((row) => {
      const credit = row.children[place].title, share = Math.abs(parseFloat(credit)) / parseFloat(row.dataset.scale);
      return `${row.dataset.name}: ${credit}${share >= 0 ? ` (${Math.round(100 * share)} %)` : ""}`;
    });
    readout.replaceChildren(text, "   " + numbers.join("   ·   "));
  };
  for (const row of rows) {
    row.addEventListener("mouseover", (event) => {
      if (event.target.parentElement === row) show([...row.children].indexOf(event.target));
    });
    row.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) { event.preventDefault(); show(at + step); }
    });
    row.tabIndex = 0;
  }
}
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, place) => row.cells[place].textContent.replace(/,/g, "").replace("−", "-");
  const order = (place, sign) => (a, b) => {
    const [x, y] = [parseFloat(key(a, place).replace(/^\[/, "")), parseFloat(key(b, place).replace(/^\[/, ""))];
    if (isNaN(x) && isNaN(y)) return sign * key(a, place).localeCompare(key(b, place));
    return isNaN(x) ? 1 : isNaN(y) ? -1 : sign * (x - y);
  };
  for (const [place, head] of heads.entries()) {
    const sort = () => {
      const sign = head.ariaSort === "ascending" ? -1 : 1;
      for (const other of heads) other.ariaSort = null;
      head.ariaSort = sign > 0 ? "ascending" : "descending";
      body.append(...[...body.rows].sort(order(place, sign)));
    };
    head.classList.add("sorts");
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  }
}
const open = () => {
  const target = document.getElementById(location.hash.slice(1));
  const inner = target?.querySelector(":scope > details") ?? target;
  for (let each = inner; each; each = each.parentElement) if (each.tagName === "DETAILS") each.open = true;
  target?.scrollIntoView();
};
addEventListener("hashchange", open);
open();
