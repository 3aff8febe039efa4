"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 860, HEIGHT = 520, LEFT = 90, RIGHT = 130, TOP = 12, BOTTOM = 62;
const find = (id) => document.getElementById(id);
const dimensions = data.dimensions;
const wide = dimensions.map((d, i) => i).filter((i) => dimensions[i].values.length > 1);
if (wide.length < 1) wide.push(0);
const state = { quantity: "", x: wide[0], y: wide.length > 1 ? wide[1] : -1, at: dimensions.map(() => 0) };
const names = Object.keys(data.quantities);
state.quantity = names.includes("gradient_growth") ? "gradient_growth" : names[0];

function make(parent, kind, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== "") made.textContent = text;
  parent.appendChild(made);
  return made;
}

function number(value) {
  if (value === null || value === undefined) return "not known";
  if (typeof value === "string") return value === "inf" ? "∞" : value === "-inf" ? "−∞" : value;
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

function index(place) {
  return dimensions.reduce((sum, d, i) => sum * d.values.length + place[i], 0);
}

function colour(stops, t) {
  const at = Math.min(Math.max(t, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2), part = at - low;
  const channel = (text, k) => parseInt(text.slice(1 + 2 * k, 3 + 2 * k), 16);
  const mixed = [0, 1, 2].map((k) => Math.round(channel(stops[low], k) * (1 - part) + channel(stops[low + 1], k) * part));
  return `rgb(${mixed.join(",")})`;
}

function scale(kind, values) {
  const known = values.filter((v) => typeof v === "number" && (kind === "linear" || v > 0));
  let low = Math.min(...known), high = Math.max(...known);
  if (!known.length) [low, high] = [1, 1];
  if (kind === "one") {
    const reach = Math.max(high, 1 / low, 1.000001);
    [low, high] = [1 / reach, reach];
  }
  const stops = kind === "one" ? data.diverging : data.sequential;
  const way = (v) => (kind === "linear" ? v : Math.log(v));
  const span = way(high) - way(low);
  const place = (v) => {
    if (v === "inf") return 1;
    if (v === "-inf" || (kind !== "linear" && v <= 0)) return 0;
    return span > 0 ? (way(v) - way(low)) / span : 0.5;
  };
  const back = (t) => (kind === "linear" ? low + t * span : Math.exp(Math.log(low) + t * span));
  return { of: (v) => colour(stops, place(v)), back, stops };
}

function ticks(svg, d, across, from, step) {
  const every = Math.max(1, Math.ceil(d.values.length / (across ? 12 : 16)));
  d.values.forEach((value, k) => {
    if (k % every) return;
    const text = typeof value === "number" ? number(value) : String(value).slice(0, 16);
    const middle = from + (k + 0.5) * step;
    if (across) make(svg, "text", { x: middle, y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, text);
    else make(svg, "text", { x: LEFT - 8, y: middle + 4, "text-anchor": "end" }, text);
  });
}

function tell(place) {
  const i = index(place);
  const lines = [dimensions.map((d, k) => `${d.name} = ${number(d.values[place[k]])}`).join(", ")];
  const failed = data.failed[i];
  if (failed === null) lines.push("not finished");
  else if (failed) lines.push(`failed: ${failed}`);
  else {
    lines.push(names.filter((n) => data.labels[n] && !/^[A-Z]{3}\d/.test(n)).map((n) => `${n} ${number(data.quantities[n][i])}`).join(", "));
    lines.push(data.findings[i] ? `findings: ${data.findings[i]}` : "no findings");
  }
  find("told").textContent = lines.join("\n");
}

function draw() {
  const holder = find("map");
  holder.textContent = "";
  const x = dimensions[state.x], y = state.y < 0 ? { name: "", values: [""] } : dimensions[state.y];
  const column = data.quantities[state.quantity], kind = data.scales[state.quantity];
  const label = `${state.quantity}: ${data.labels[state.quantity]}`;
  const svg = make(holder, "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": `Heat map of ${label}, over ${x.name}${y.name ? ` and ${y.name}` : ""}` });
  const hatch = make(make(svg, "defs"), "pattern", { id: "failed", width: 6, height: 6, patternUnits: "userSpaceOnUse" });
  make(hatch, "path", { d: "M0 6L6 0", stroke: "#888", "stroke-width": 1.5 });
  const colours = scale(kind, column);
  const w = (WIDTH - LEFT - RIGHT) / x.values.length, h = (HEIGHT - TOP - BOTTOM) / y.values.length;
  const cells = [];
  y.values.forEach((_, j) => x.values.forEach((_, i) => {
    const place = [...state.at];
    place[state.x] = i;
    if (state.y >= 0) place[state.y] = j;
    const value = column[index(place)];
    const fill = value === null ? (data.failed[index(place)] ? "url(#failed)" : "none") : colours.of(value);
    const top = TOP + (y.values.length - 1 - j) * h;
    const cell = make(svg, "rect", { class: "cell", x: LEFT + i * w, y: top, width: w, height: h, fill, tabindex: i || j ? -1 : 0, role: "img", "aria-label": `${x.name} ${number(x.values[i])}${y.name ? `, ${y.name} ${number(y.values[j])}` : ""}: ${number(value)}` });
    cell.addEventListener("mouseenter", () => tell(place));
    cell.addEventListener("focus", () => tell(place));
    cell.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!move) return;
      event.preventDefault();
      const [to, up] = [i + move[0], j + move[1]];
      if (to >= 0 && to < x.values.length && up >= 0 && up < y.values.length) cells[up * x.values.length + to].focus();
    });
    cells.push(cell);
  }));
  make(svg, "rect", { x: LEFT, y: TOP, width: WIDTH - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM, fill: "none", stroke: "#888" });
  ticks(svg, x, true, LEFT, w);
  if (y.name) ticks(svg, { values: [...y.values].reverse() }, false, TOP, h);
  make(svg, "text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 14, "text-anchor": "middle", "font-weight": "bold" }, x.name);
  const middle = (TOP + HEIGHT - BOTTOM) / 2;
  if (y.name) make(svg, "text", { x: 18, y: middle, transform: `rotate(-90 18 ${middle})`, "text-anchor": "middle", "font-weight": "bold" }, y.name);
  const steps = 60, tall = (HEIGHT - TOP - BOTTOM) / steps, side = WIDTH - RIGHT + 28;
  for (let k = 0; k < steps; k++) make(svg, "rect", { x: side, y: TOP + (steps - 1 - k) * tall, width: 16, height: tall + 0.5, fill: colour(colours.stops, (k + 0.5) / steps) });
  for (let k = 0; k <= 4; k++) make(svg, "text", { x: side + 22, y: TOP + 4 + (1 - k / 4) * (HEIGHT - TOP - BOTTOM) }, number(colours.back(k / 4)));
}

function choice(label, options, chosen, then) {
  const box = document.createElement("label"), select = document.createElement("select");
  box.textContent = `${label} `;
  select.setAttribute("aria-label", label);
  options.forEach(([value, text]) => select.add(new Option(text, value, false, String(value) === String(chosen))));
  select.addEventListener("change", () => { then(select.value); choices(); draw(); });
  box.appendChild(select);
  find("choices").appendChild(box);
}

function choices() {
  find("choices").textContent = "";
  choice("Quantity", names.map((n) => [n, `${n}: ${data.labels[n]}`]), state.quantity, (v) => { state.quantity = v; });
  if (wide.length < 2) return;
  const list = wide.map((i) => [i, dimensions[i].name]);
  const swap = (mine, other) => (v) => { if (Number(v) === state[other]) state[other] = state[mine]; state[mine] = Number(v); };
  choice("Across", list, state.x, swap("x", "y"));
  choice("Up", list, state.y, swap("y", "x"));
  wide.filter((i) => i !== state.x && i !== state.y).forEach((i) => {
    choice(dimensions[i].name, dimensions[i].values.map((v, k) => [k, number(v)]), state.at[i], (k) => { state.at[i] = Number(k); });
  });
}

find("title").textContent = `Sweep of ${data.target}`;
const failures = data.failed.filter((f) => f).length, open = data.failed.filter((f) => f === null).length;
find("about").textContent = `${data.failed.length} cells, ${failures} failed, ${open} not finished; input ${data.inputs}; Initio ${data.version}`;
data.remarks.forEach((text) => { find("remarks").appendChild(document.createElement("li")).textContent = text; });
if (names.length) { choices(); draw(); } else find("map").textContent = "No cell has a result.";
document.documentElement.dataset.ready = "";
