/* The module tree as a table that draws only the rows in sight. */
const HEIGHT = 30;
const COLUMNS = [
  {name: "module", key: null},
  {name: "class", key: "kind", text: i => M.kind[i]},
  {name: "parameters", key: "params", text: i => amount(M.params[i])},
  {name: "rms", key: "rms", text: i => M.claim[i] === "unknown" ? "no claim" : number(M.rms[i]), spread: true},
  {name: "grad rms", key: "grad", text: i => number(M.grad[i]), spread: true},
  {name: "grad/weight", key: "ratio", text: i => number(M.ratio[i]), spread: true},
  {name: "corr.", key: "correlation", text: i => number(M.correlation[i])},
  {name: "MACs", key: "macs", text: i => amount(M.macs[i])},
  {name: "saved", key: "saved", text: i => bytes(M.saved[i])},
];
const children = M.path.map(() => []);
M.parent.forEach((parent, i) => { if (parent >= 0) children[parent].push(i); });

/* Neighbours that hold the same modules at the same cost are one block, repeated. */
const alike = new Array(COUNT).fill("");
{
  const order = [], stack = COUNT ? [0] : [];
  while (stack.length) { const i = stack.pop(); order.push(i); stack.push(...children[i]); }
  const ids = new Map();
  for (const i of order.reverse()) {
    const text = JSON.stringify([M.kind[i], M.params[i], M.macs[i], M.saved[i], M.calls[i], M.shape[i], children[i].map(c => [last(c), alike[c]])]);
    if (!ids.has(text)) ids.set(text, ids.size);
    alike[i] = ids.get(text);
  }
}
function last(i) {
  const holder = M.parent[i] >= 0 ? M.path[M.parent[i]] : "";
  return holder && M.path[i].startsWith(holder) ? M.path[i].slice(holder.length).replace(/^\./, "") : M.path[i];
}
const opened = new Set(), groups = new Map();  // groups: "first:last" → open
function blocks(i) {
  const found = [];
  const list = children[i];
  for (let k = 0; k < list.length;) {
    let end = k + 1;
    while (end < list.length && alike[list[end]] === alike[list[k]]) end++;
    if (end - k > 2) found.push(list.slice(k, end)); else for (const one of list.slice(k, end)) found.push(one);
    k = end;
  }
  return found;
}
let rows = [], sortBy = null, descending = true, query = "";
function flatten() {
  rows = [];
  if (query || sortBy !== null) {
    const wanted = query.toLowerCase();
    for (let i = 0; i < COUNT; i++) if (!wanted || M.path[i].toLowerCase().includes(wanted) || M.kind[i].toLowerCase().includes(wanted)) rows.push({at: i, level: 0, flat: true});
    if (sortBy !== null) {
      const column = COLUMNS[sortBy], sign = descending ? -1 : 1;
      const value = column.key ? row => M[column.key][row.at] : row => M.path[row.at];
      const rank = x => x === "inf" ? Infinity : x;
      const missing = x => x === null || x === undefined || x === "";
      rows.sort((p, q) => {
        const a = rank(value(p)), b = rank(value(q));
        if (missing(a) || missing(b)) return missing(a) - missing(b) || p.at - q.at;
        return sign * (typeof a === "string" ? a.localeCompare(b) : a === b ? 0 : a < b ? -1 : 1) || p.at - q.at;
      });
    }
    return;
  }
  const walk = (i, level) => {
    rows.push({at: i, level});
    if (!opened.has(i)) return;
    for (const block of blocks(i)) {
      if (!Array.isArray(block)) { walk(block, level + 1); continue; }
      const key = `${block[0]}:${block[block.length - 1]}`;
      rows.push({at: block[0], members: block, level: level + 1, key});
      if (groups.get(key)) for (const one of block) walk(one, level + 2);
    }
  };
  if (COUNT) walk(0, 0);
}
function range(column, members) {
  const values = members.map(i => M[column.key][i]).filter(known);
  if (!values.length) return "–";
  const low = Math.min(...values), high = Math.max(...values), short = x => number(+x.toPrecision(2));
  return low === high || short(low) === short(high) ? number(low) : `${short(low)}…${short(high)}`;
}
function cell(row, column) {
  if (!row.members) return column.text(row.at);
  if (column.spread) return range(column, row.members);
  if (column.key === "kind") return M.kind[row.at];
  if (column.key === "correlation") return "";
  const total = row.members.reduce((sum, i) => sum + M[column.key][i], 0);
  return column.key === "saved" ? bytes(total) : amount(total);
}
const isOpen = row => row.members ? !!groups.get(row.key) : opened.has(row.at);
const hasBelow = row => !row.flat && (row.members || children[row.at].length > 0);
function turn(row, open) {
  if (!hasBelow(row)) return;
  if (row.members) groups.set(row.key, open); else if (open) opened.add(row.at); else opened.delete(row.at);
  refresh();
}
const rowIsOn = row => selected >= 0 && (row.members ? row.members.some(i => within(selected, i)) && !isOpen(row) : row.at === selected);

const table = $("table"), body = el("div", {class: "body", role: "rowgroup"});
const head = el("div", {class: "row head", role: "row"});
COLUMNS.forEach((column, k) => {
  const button = el("button", {type: "button", onclick: () => {
    if (sortBy !== k) { sortBy = k; descending = k > 1; } else if (descending === (k > 1)) descending = !descending; else sortBy = null;
    refresh();
    table.scrollTop = 0;
  }}, column.name);
  head.append(el("div", {role: "columnheader", "aria-sort": "none"}, button));
});
table.append(el("div", {role: "rowgroup", class: "heads"}, head), body);
table.querySelector(".heads").style.cssText = "position:sticky;top:0;z-index:3";

function line(row, k) {
  const twist = hasBelow(row) ? el("span", {class: "twist", "aria-hidden": "true", onclick: event => { event.stopPropagation(); turn(row, !isOpen(row)); }}, isOpen(row) ? "▾" : "▸") : el("span", {class: "twist"});
  const label = row.flat ? nameOf(row.at) : row.members ? `${last(row.at)} … ${last(row.members[row.members.length - 1])}` : last(row.at) || "(model)";
  const name = el("div", {role: "gridcell", style: `padding-left:${8 + row.level * 14}px`, title: brief(nameOf(row.at), 300)}, twist, label.length > 400 ? brief(label, 400) : label,
    row.members ? el("span", {class: "times"}, ` × ${row.members.length}`) : M.calls[row.at] > 1 ? el("span", {class: "times"}, ` ${M.calls[row.at]} calls`) : null);
  const node = el("div", {class: "row" + (rowIsOn(row) ? " on" : ""), role: "row", id: `row-${k}`, "aria-level": row.level + 1, "aria-rowindex": k + 2, "aria-selected": rowIsOn(row) ? "true" : "false",
    "aria-expanded": hasBelow(row) ? String(!!isOpen(row)) : null, style: `top:${k * HEIGHT}px`, "data-at": row.at}, name,
    ...COLUMNS.slice(1).map(column => { const text = cell(row, column); return el("div", {role: "gridcell", class: text === "–" || text === "no claim" ? "muted" : null, title: text === "no claim" ? brief(M.reason[row.at] || "", 300) : null}, text); }));
  node.addEventListener("click", () => { quiet = true; select(row.at); quiet = false; if (row.members) turn(row, !isOpen(row)); });
  node.addEventListener("dblclick", () => turn(row, !isOpen(row)));
  return node;
}
let everything = false, quiet = false;
function paint() {
  const from = everything ? 0 : Math.max(Math.floor(table.scrollTop / HEIGHT) - 8, 0);
  const to = everything ? Math.min(rows.length, 3000) : Math.min(rows.length, from + Math.ceil((table.clientHeight || 600) / HEIGHT) + 18);
  const shown = [];
  for (let k = from; k < to; k++) shown.push(line(rows[k], k));
  body.replaceChildren(...shown);
  const on = shown.find(node => node.classList.contains("on"));
  if (on) table.setAttribute("aria-activedescendant", on.id); else table.removeAttribute("aria-activedescendant");
}
function refresh() {
  flatten();
  body.style.height = `${rows.length * HEIGHT}px`;
  table.setAttribute("aria-rowcount", rows.length + 1);
  head.querySelectorAll("[role=columnheader]").forEach((cellOf, k) => {
    cellOf.setAttribute("aria-sort", sortBy !== k ? "none" : descending ? "descending" : "ascending");
    cellOf.firstChild.textContent = COLUMNS[k].name + (sortBy !== k ? "" : descending ? " ↓" : " ↑");
  });
  $("rows").textContent = `${rows.length} row${rows.length === 1 ? "" : "s"} of ${COUNT} modules`;
  paint();
}
function reveal(i) {
  if (query || sortBy !== null) return;
  for (let up = M.parent[i], below = i; up >= 0; below = up, up = M.parent[up]) {
    opened.add(up);
    const block = blocks(up).find(one => Array.isArray(one) && one.includes(below));
    if (block) groups.set(`${block[0]}:${block[block.length - 1]}`, true);
  }
}
followers.push(i => {
  if (i >= 0 && !quiet) { reveal(i); refresh(); }
  const at = rows.findIndex(row => row.at === i && !row.members);
  if (at >= 0 && !quiet) {
    const top = at * HEIGHT, room = table.clientHeight - 80;
    if (top < table.scrollTop || top > table.scrollTop + room) table.scrollTop = Math.max(top - room / 2, 0);
  }
  paint();
});
table.addEventListener("keydown", event => {
  if (event.target !== table) return;
  const at = rows.findIndex(row => rowIsOn(row));
  const go = k => { const row = rows[Math.min(Math.max(k, 0), rows.length - 1)]; if (row) select(row.at); };
  const row = rows[at];
  const actions = {
    ArrowDown: () => go(at + 1 < rows.length && rows[at + 1].members ? at + 2 : at + 1), ArrowUp: () => go(at > 0 && rows[at - 1].members ? at - 2 : at - 1),
    Home: () => go(0), End: () => go(rows.length - 1), PageDown: () => go(at + 15), PageUp: () => go(at - 15),
    ArrowRight: () => row && turn(row, true), ArrowLeft: () => row && (isOpen(row) && hasBelow(row) ? turn(row, false) : M.parent[row.at] >= 0 && select(M.parent[row.at])),
  };
  if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
});
function modules() {
  let level = COUNT ? [0] : [];
  while (level.length) {
    level.forEach(i => opened.add(i));
    flatten();
    if (rows.length > 120) { level.forEach(i => opened.delete(i)); opened.add(0); break; }
    level = rows.filter(row => !row.members && children[row.at].length && !opened.has(row.at)).map(row => row.at);
  }
  table.addEventListener("scroll", () => requestAnimationFrame(paint), {passive: true});
  let waiting = 0;
  $("search").addEventListener("input", event => { clearTimeout(waiting); waiting = setTimeout(() => { query = event.target.value.trim(); table.scrollTop = 0; refresh(); }, 60); });
  const openAll = open => { sortBy = null; opened.clear(); groups.clear(); if (COUNT) opened.add(0); for (let i = 0; open && i < COUNT; i++) { if (children[i].length) opened.add(i); for (const block of blocks(i)) if (Array.isArray(block)) groups.set(`${block[0]}:${block[block.length - 1]}`, true); } refresh(); };
  $("unfold").addEventListener("click", () => openAll(true));
  $("fold").addEventListener("click", () => openAll(false));
  window.addEventListener("beforeprint", () => { everything = true; paint(); }, {signal: life.signal});
  window.addEventListener("afterprint", () => { everything = false; paint(); }, {signal: life.signal});
  refresh();
}
