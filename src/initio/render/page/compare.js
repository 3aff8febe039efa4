/* Two models on one page: `data` is the first, `data.b` the second. */
const SIDES = [["A", data], ["B", data.b]];
const shown = (name, x) => name.startsWith("bytes") ? bytes(x) : name.startsWith("seconds") ? known(x) ? `${number(x * 1000)} ms` : "–" : name.includes("rms") ? number(x) : Number.isInteger(x) && x < 1e6 ? x.toLocaleString("en") : amount(x);
function figureTable() {
  const title = `${brief(data.names[0], 80)} (A) and ${brief(data.names[1], 80)} (B)`;
  document.title = `${title} · Initio`;
  $("target").textContent = title;
  const facts = SIDES.map(([letter, side], k) => el("p", {class: "hint"}, el("b", {}, `${letter} `), brief(data.names[k], 400), `; ${side.training ? "training" : "evaluation"} mode; input ${side.inputs.map(([name, shape, dtype]) => `${name} ${shape.join("×")} ${dtype}`).join(", ")}`, side.crash ? `; raises ${side.crash}` : ""));
  const rows = data.figures.map(([name, a, b]) => el("tr", {}, el("th", {scope: "row"}, name), el("td", {}, shown(name, a)), el("td", {}, shown(name, b)), el("td", {}, known(a) && known(b) && a !== 0 ? number(b / a) : "–")));
  $("figure-table").append(el("div", {class: "card"}, ...facts, el("table", {class: "figures", tabindex: 0, "aria-label": "Figures of both"},
    el("thead", {}, el("tr", {}, ...["figure", "A", "B", "B / A"].map(text => el("th", {scope: "col"}, text)))), el("tbody", {}, ...rows))));
}

/** Columns of both sides over the union of their relative depths. */
function aligned(name) {
  const depths = SIDES.map(([, side]) => { const n = side.points.columns.module.length; return side.points.columns.module.map((_, i) => n > 1 ? i / (n - 1) : 0); });
  const x = [...new Set(depths.flat())].sort((a, b) => a - b), place = new Map(x.map((depth, i) => [depth, i]));
  const labels = x.map(() => []);
  const columns = SIDES.map(([letter, side], k) => {
    const column = x.map(() => null);
    side.points.columns[name].forEach((value, i) => {
      const at = place.get(depths[k][i]);
      column[at] = value;
      labels[at].push(`${letter} ${brief(side.modules.path[side.points.columns.module[i]] || "(model)", 60)}`);
    });
    return column;
  });
  return {x, labels: labels.map(names => names.join(" | ")), columns};
}
function profilesOfBoth() {
  for (const [id, title, unit, name, log] of [["signal", "Signal", "rms of outputs", "rms", true], ["gradient", "Gradient", "rms of the cotangent at outputs", "grad", true], ["correlation", "Correlation of two samples", "E[x x′] / E[x²]", "correlation", false]]) {
    const {x, labels, columns} = aligned(name);
    if (!columns.flat().some(known)) continue;
    const low = Math.min(0, ...columns.flat().filter(known));
    chart({id, title, unit, x, labels, owner: x.map(() => -1), log, range: log ? undefined : [low - 0.05, 1.05], withLimits: log, wide: log,
      series: columns.map((values, k) => ({label: SIDES[k][0], values, style: k ? "second" : null}))});
  }
  limitChoices();
}
function findingsOfBoth() {
  const same = new Set(data.findings.map(item => item.fingerprint).filter(print => data.b.findings.some(item => item.fingerprint === print)));
  for (const [letter, side] of SIDES) {
    const cards = side.findings.slice(0, 100).map(item => el("article", {class: `card finding ${item.severity}`},
      el("h3", {}, el("span", {class: `badge ${item.severity}`}, `${SIGNS[item.severity]} ${item.severity}`), `${item.code} ${item.name}`, same.has(item.fingerprint) ? el("span", {class: "muted"}, " in both") : null),
      el("p", {}, item.message), el("p", {class: "where"}, `in ${brief(item.module || "(model)", 300)}`, item.source ? ` at ${item.source.place}` : null, item.also.length ? ` and ${item.also.length} more` : null),
      item.remedy ? el("p", {}, el("b", {}, "Remedy. "), ...inline(item.remedy)) : null));
    const more = side.findings.length - cards.length;
    $("finding-list").append(el("div", {}, el("h3", {}, `${letter}: ${side.findings.length || "none"}`), ...cards, more > 0 ? el("p", {class: "hint"}, `and ${more} more; initio check lists them.`) : null));
  }
}
document.documentElement.dataset.theme = theme === "auto" ? (prefersDark.matches ? "dark" : "light") : theme;
figureTable();
profilesOfBoth();
findingsOfBoth();
if (data.remarks.length) $("notes").append(el("h2", {}, "Notes"), el("ul", {}, ...data.remarks.map(note => el("li", {}, note))));
$("footer").append(`Initio ${data.version}. Plots: uPlot, MIT licence.`);
$("theme").textContent = "Theme: " + theme;
document.documentElement.dataset.ready = "true";
