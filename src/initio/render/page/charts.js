/* Profiles along depth, drawn by uPlot. */
const clean = column => column.map(x => known(x) && x > 0 ? x : null);
const charts = [];
let limit = "in range";

/** Decades between two numbers, with 2 and 5 times them where there are few. */
function decades(low, high) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high)), step = Math.ceil((last - first) / 8), found = [];
  for (let k = Math.floor(first / step) * step; k <= last; k += step) for (const m of last - first <= 3 ? [1, 2, 5] : [1]) {
    const value = +`${m}e${k}`;
    if (value >= low && value <= high) found.push(value);
  }
  return found;
}
const tick = v => v === 0 || (Math.abs(v) >= 1e-3 && Math.abs(v) < 1e5) ? String(+v.toPrecision(3)) : v.toExponential(0).replace("e+", "e");

function spanOf(columns, extra) {
  let low = Infinity, high = -Infinity;
  for (const column of columns) for (const x of column) if (x !== null) { if (x < low) low = x; if (x > high) high = x; }
  for (const x of extra) { low = Math.min(low, x); high = Math.max(high, x); }
  if (low > high) return [0.1, 10];
  const decade = Math.log10(high / low), pad = Math.pow(10, Math.max(0.15, decade * 0.08));
  return decade < 1 ? [low / pad / 1.6, high * pad * 1.6] : [low / pad, high * pad];
}
function limitsShown(low, high, chosen) {
  const lines = [];  // formats that end at the same number share a line
  const add = (value, name, what) => {
    const same = lines.find(line => line[2] === what && Math.abs(Math.log(line[0] / value)) < 0.2);
    if (same) same[3].push(name); else lines.push([value, "", what, [name]]);
  };
  for (const [name, [small, large]] of Object.entries(data.limits)) {
    if (chosen !== "in range" && chosen !== name) continue;
    for (const [value, what] of [[small, "smallest normal"], [large, "largest"]]) if (value >= low && value <= high) add(value, name, what);
  }
  return lines.map(([value, , what, names]) => [value, `${names.join(", ")} ${what}`]);
}

/** One chart. `series`: [{label, values, style}], `owner`: the module of each position. */
function chart({id, title, unit, series, owner, labels, band, x = owner.map((_, i) => i), log = true, range, withLimits = false, wide = false, points = false}) {
  const tip = el("div", {class: "tip"});
  const holder = el("div", {class: "plot"});
  const key = el("span", {class: "key"}, ...series.map(s => el("span", {}, el("i", {class: s.style === "dots" ? "measured" : s.style}), s.label)),
    band ? el("span", {}, el("i", {class: "band"}), "one draw, 19 times in 20") : null, withLimits ? el("span", {}, el("i", {class: "limit"}), "dtype limit") : null);
  const box = el("div", {class: "chart" + (wide ? " wide" : ""), id, tabindex: 0, role: "group", "aria-label": `${title}. Left and right arrows move the selection.`},
    el("h3", {}, title, " ", el("small", {}, unit)), key, holder, tip);
  $("charts").append(box);
  const columns = series.map(s => log ? clean(s.values) : s.values.map(v => known(v) ? v : null));
  const lows = band ? clean(band[0]) : null, highs = band ? clean(band[1]) : null;
  const all = band ? [...columns, lows, highs] : columns;
  let plot = null, at = -1;
  const tell = i => {
    tip.textContent = i === null || i === undefined || i < 0 ? "" : `${brief(labels[i])}: ` + series.map(s => `${s.label} ${number(s.values[i])}`).join(", ");
  };
  const chosen = () => owner.reduce((found, module, i) => (selected >= 0 && within(module, selected) ? [...found, i] : found), []);
  let marked = [];
  const draw = u => {
    const {left, top, width, height} = u.bbox, context = u.ctx, ratio = devicePixelRatio;
    context.save();
    context.beginPath(); context.rect(left, top, width, height); context.clip();
    if (withLimits) {
      context.strokeStyle = context.fillStyle = colour("--b"); context.lineWidth = 1.5 * ratio; context.setLineDash([6 * ratio, 4 * ratio]); context.font = `${11 * ratio}px system-ui, sans-serif`; context.textAlign = "left"; context.textBaseline = "bottom";
      for (const [value, text] of limitsShown(u.scales.y.min, u.scales.y.max, limit)) {
        const y = u.valToPos(value, "y", true);
        context.beginPath(); context.moveTo(left, y); context.lineTo(left + width, y); context.stroke();
        context.fillText(text, left + 6 * ratio, y - 4 * ratio);
      }
    }
    context.setLineDash([]);
    context.strokeStyle = context.fillStyle = colour("--b");
    const many = marked.length > 60;
    if (many) {
      context.globalAlpha = 0.15;
      const a = u.valToPos(marked[0], "x", true), b = u.valToPos(marked[marked.length - 1], "x", true);
      context.fillRect(a, top, Math.max(b - a, 2), height); context.globalAlpha = 1;
    } else for (const i of marked) {
      const px = u.valToPos(i, "x", true);
      context.globalAlpha = 0.45; context.lineWidth = 1.5 * ratio; context.beginPath(); context.moveTo(px, top); context.lineTo(px, top + height); context.stroke(); context.globalAlpha = 1;
      const v = columns[0][i];
      if (v !== null) { context.beginPath(); context.arc(px, u.valToPos(v, "y", true), 4.5 * ratio, 0, 7); context.fill(); }
    }
    context.restore();
  };
  function build() {
    if (plot) plot.destroy();
    const ink = colour("--soft"), grid = {stroke: colour("--line"), width: 1}, a = colour("--a"), b = colour("--b");
    const marks = owner.length <= 60, spaced = series.some(s => s.style === "second");
    const lines = series.map((s, k) => s.style === "dots" || points
      ? {label: s.label, stroke: k ? b : a, width: 0, paths: () => null, points: {show: true, size: k ? 8 : 5, stroke: k ? b : a, fill: k ? "transparent" : a, width: 2}}
      : {label: s.label, stroke: s.style ? b : a, width: 2, dash: s.style ? [7, 4] : undefined, spanGaps: spaced, points: {show: marks, size: 5, fill: s.style ? b : a}});
    const edges = band ? [{stroke: "transparent", points: {show: false}}, {stroke: "transparent", points: {show: false}}] : [];
    const extra = withLimits && data.limits[limit] ? data.limits[limit] : [];
    const span = range || spanOf(all, extra);
    const options = {
      width: Math.max(holder.clientWidth, 200), height: wide ? 260 : 210, legend: {show: false},
      cursor: {y: false, points: {size: 7}, drag: {x: true, y: false}},
      scales: {x: {time: false}, y: log ? {distr: 3, range: () => span} : {range: () => span}},
      axes: [
        {stroke: ink, grid, ticks: grid, size: 28, font: "11px system-ui", incrs: [...(spaced ? [0.05, 0.1, 0.2, 0.5] : []), 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 1e4, 2e4, 5e4, 1e5]},
        {stroke: ink, grid, ticks: grid, size: 58, font: "11px system-ui", values: (u, splits) => splits.map(tick), ...(log ? {splits: (u, axis, low, high) => decades(low, high), filter: (u, splits) => splits} : {})},
      ],
      series: [{}, ...lines, ...edges],
      bands: band ? [{series: [lines.length + 2, lines.length + 1], fill: colour("--band")}] : [],
      hooks: {draw: [draw], setCursor: [u => tell(u.cursor.idx === null || u.cursor.idx === undefined ? at : u.cursor.idx)]},
    };
    const floor = lows && lows.map((v, i) => v === null && band[0][i] === 0 ? span[0] : v);  // a band down to zero ends at the axis
    plot = new uPlot(options, [x, ...(band ? [...columns, floor, highs] : columns)], holder);
    let down = 0;
    plot.over.addEventListener("mousedown", event => { down = event.clientX; });
    plot.over.addEventListener("click", event => {
      const i = plot.posToIdx(event.clientX - plot.over.getBoundingClientRect().left);
      if (Math.abs(event.clientX - down) < 5 && owner[i] !== undefined) { at = i; select(owner[i]); }
    });
  }
  box.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step || !owner.length) return;
    event.preventDefault();
    at = Math.min(Math.max(at + step, 0), owner.length - 1);
    select(owner[at]);
    tell(at);
  });
  followers.push(i => {
    marked = chosen();
    if (marked.length && !marked.includes(at)) at = marked[0];
    tell(marked.length ? at : -1);
    plot.redraw(false, false);
  });
  build();
  charts.push({build, resize: () => plot.setSize({width: Math.max(holder.clientWidth, 200), height: wide ? 260 : 210}), id});
}

function profiles() {
  if (!P.module.length) { $("charts").append(el("p", {class: "hint"}, "No module returned a floating tensor.")); return; }
  const labels = P.module.map((m, i) => nameOf(m) + (P.call[i] ? ` #${P.call[i]}` : ""));
  const dots = side => P[`measured_${side}`] ? [{label: "measured", values: P[`measured_${side}`], style: "dots"}] : [];
  chart({id: "signal", title: "Signal", unit: "rms of outputs", series: [{label: "predicted", values: P.rms}, ...dots("outputs")], owner: P.module, labels, band: [P.low, P.high], withLimits: true, wide: true});
  chart({id: "gradient", title: "Gradient", unit: "rms of the cotangent at outputs", series: [{label: "predicted", values: P.grad}, ...dots("cotangents")], owner: P.module, labels, withLimits: true});
  const A = data.parameters, kept = A.name.map((_, i) => i).filter(i => A.shape[i].length > 1 && A.gradient[i] !== "none"), pick = column => kept.map(i => column[i]);
  if (kept.length) chart({id: "ratio", title: "Gradient to weight", unit: "rms over rms, weights of two dimensions or more", series: [{label: "ratio", values: pick(A.ratio)}], owner: pick(A.module), labels: kept.map(i => `${A.name[i]} ${A.law[i]}`), points: true});
  if (P.correlation.some(known)) chart({id: "correlation", title: "Correlation of two samples", unit: "E[x x′] / E[x²]", series: [{label: "correlation", values: P.correlation}], owner: P.module, labels, log: false, range: [Math.min(-0.05, ...P.correlation.filter(known).map(c => c - 0.05)), 1.05]});
  limitChoices();
}
function limitChoices() {
  const choices = ["in range", ...Object.keys(data.limits), "none"];
  $("limits").append(...choices.map(name => el("option", {value: name}, name)));
  $("limits").addEventListener("change", event => { limit = event.target.value; for (const each of charts) each.build(); select(selected); });
  themed.push(() => { for (const each of charts) each.build(); });
  let pending = 0;
  new ResizeObserver(() => { cancelAnimationFrame(pending); pending = requestAnimationFrame(() => charts.forEach(each => each.resize())); }).observe($("charts"));
}

/* Skips and branches */
function forks() {
  const box = $("forks"), rows = data.forks;
  if (!rows.length) { $("blocks").hidden = true; return; }
  const ending = name => name.length > 26 ? "…" + name.slice(-25) : name; // blocks differ at the end of their paths
  const make = fork => {
    const shares = fork.paths.map(([kind, share, first, n]) => {
      const what = kind === "skip" ? "skip" : first ? brief(first.slice(first.lastIndexOf(".") + 1), 30) + (n > 1 ? " …" : "") : "branch";
      return el("span", {class: kind === "skip" ? "s" : "t", style: `flex:${Math.max(known(share) ? share : 0, 0.001)} 1 0`, title: `${kind} ${percent(share)}${first ? " via " + brief(first, 100) : ""}`}, `${what} ${percent(share)}`);
    });
    return el("button", {class: "fork", type: "button", "data-at": fork.module, onclick: () => select(fork.module)},
      el("span", {title: brief(nameOf(fork.module), 200)}, ending(nameOf(fork.module))), el("span", {}, `gain ${number(fork.gain)}`), el("div", {class: "shares"}, ...shares));
  };
  const most = 300;
  box.append(...rows.slice(0, most).map(make));
  let more = null;
  const showRest = () => { if (more) { more.remove(); more = null; box.append(...rows.slice(most).map(make)); } };
  if (rows.length > most) {
    more = el("button", {type: "button", onclick: showRest}, `Show ${rows.length - most} more`);
    box.append(more);
  }
  const covers = (module, i) => i >= 0 && (module === i || (module > 0 && within(i, module)));
  followers.push(i => {
    if (more && rows.some((fork, k) => k >= most && covers(fork.module, i))) showRest();
    let first = null;
    for (const row of box.querySelectorAll(".fork")) {
      const on = covers(+row.dataset.at, i);
      row.classList.toggle("on", on);
      if (on && !first) first = row;
    }
    if (first) box.scrollTop = first.offsetTop - box.offsetTop - 60;
  });
}
