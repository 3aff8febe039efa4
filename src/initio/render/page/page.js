const M = data.modules, P = data.points.columns, COUNT = M.path.length;
const $ = id => document.getElementById(id);
const known = x => typeof x === "number" && isFinite(x);

/** An element; strings among the children become text, never markup. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}

const PREFIX = ["", " k", " M", " G", " T", " P", " E"];
function amount(x) {
  if (!known(x)) return "–";
  let power = 0;
  while (Math.abs(x) >= 999.95 && power < 6) { x /= 1000; power++; }
  return (power ? x.toPrecision(x >= 100 ? 4 : 3) : String(+x.toPrecision(4))) + PREFIX[power];
}
const bytes = x => known(x) ? (amount(x).includes(" ") ? amount(x) + "B" : amount(x) + " B") : "–";
function number(x) {
  if (x === "inf") return "∞";
  if (!known(x)) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  return size >= 1e-3 && size < 1e5 ? String(+x.toPrecision(4)) : x.toExponential(2).replace("e+", "e");
}
const percent = x => known(x) ? (x * 100).toFixed(x < 0.0995 ? 1 : 0) + " %" : "–";
const nameOf = i => M.path[i] || "(model)";
const brief = (text, most = 80) => text.length > most ? text.slice(0, most / 2) + " … " + text.slice(-most / 2) : text;
function within(i, holder) {
  while (i >= 0 && i !== holder) i = M.parent[i];
  return i >= 0 && i === holder;
}

/* One selection, which every part of the page shows. */
let selected = -1;
const followers = [];
function select(i) {
  selected = i === selected ? selected : i;
  for (const follow of followers) follow(selected);
}

/* Theme: the system's, or the reader's choice. */
const THEMES = ["auto", "light", "dark"];
const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
const themed = [];
let theme = "auto";
try { theme = THEMES.includes(localStorage.getItem("initio-theme")) ? localStorage.getItem("initio-theme") : "auto"; } catch (error) { /* no storage in this frame */ }
function applyTheme() {
  document.documentElement.dataset.theme = theme === "auto" ? (prefersDark.matches ? "dark" : "light") : theme;
  $("theme").textContent = "Theme: " + theme;
  for (const redraw of themed) redraw();
}
$("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try { localStorage.setItem("initio-theme", theme); } catch (error) { /* no storage in this frame */ }
  applyTheme();
}, {signal: life.signal});
prefersDark.addEventListener("change", applyTheme, {signal: life.signal});
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/* Verdict */
const SIGNS = {error: "✖", warning: "▲", note: "●"};
function verdict() {
  const said = Object.entries(data.summary).filter(([, n]) => n).map(([severity, n]) => `${n} ${severity}${n > 1 ? "s" : ""}`);
  const claims = Object.entries(data.claims), total = claims.reduce((sum, [, n]) => sum + n, 0), unknown = data.claims.unknown || 0;
  const inputs = data.inputs.map(([name, shape, dtype]) => `${name} ${shape.join("×")} ${dtype}`).join(", ");
  const facts = [
    ["Parameters", amount(data.totals.parameters)], ["Forward MACs", amount(data.totals.macs)], ["Saved for backward", bytes(data.totals.saved)],
    ["To train with Adam", bytes(data.totals.adam)], ["Outputs predicted", `${total - unknown} of ${total}`],
  ];
  document.title = `${brief(data.target, 60)} · Initio`;
  $("target").textContent = brief(data.target, 160);
  $("verdict").append(el("div", {class: "card"},
    el("p", {class: "headline"}, said.length ? said.join(", ") : "✓ Nothing found"),
    el("p", {class: "hint"}, `${data.training ? "Training" : "Evaluation"} mode; input ${inputs || "none"}${data.about ? "; " + data.about : ""}`),
    data.crash ? el("p", {}, el("span", {class: "badge error"}, "✖ crash"), data.crash) : null,
    el("dl", {class: "facts"}, ...facts.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value))))));
}

/* Findings */
/** Markdown inside a paragraph. What names the model's modules has code only: a name makes no link. */
function inline(text, ours = false) {
  if (!ours) return text.split(/(`[^`]+`)/).map(part => /^`.+`$/.test(part) ? el("code", {}, part.slice(1, -1)) : part);
  return text.split(/(`[^`]+`|\[[^\]]+\]\(https:\/\/[^)\s]+\)|\*[^*\s][^*]*\*)/).map(part => {
    if (/^`.+`$/.test(part)) return el("code", {}, part.slice(1, -1));
    const link = /^\[([^\]]+)\]\((https:[^)]+)\)$/.exec(part);
    if (link) return el("a", {href: link[2], rel: "noopener noreferrer"}, link[1]);
    return /^\*.+\*$/.test(part) ? el("em", {}, part.slice(1, -1)) : part;
  });
}
function markdown(text) {
  const box = el("div");
  const blocks = text.split(/^```\w*\n([\s\S]*?)^```$/m);
  blocks.forEach((block, position) => {
    if (position % 2) { box.append(el("pre", {tabindex: 0}, block)); return; }
    for (const paragraph of block.split(/\n\s*\n|(?<=^## .*)\n/m)) {
      const trimmed = paragraph.trim();
      if (!trimmed) continue;
      if (trimmed.startsWith("## ")) box.append(el("h4", {}, trimmed.slice(3)));
      else if (trimmed.startsWith("* ")) box.append(el("ul", {}, ...trimmed.split(/\n(?=\* )/).map(item => el("li", {}, ...inline(item.slice(2), true)))));
      else box.append(el("p", {}, ...inline(trimmed.replace(/\n/g, " "), true)));
    }
  });
  return box;
}
function diff(text) {
  return el("pre", {tabindex: 0}, ...text.split("\n").map(line => el("span", {class: line.startsWith("+") ? "add" : line.startsWith("-") ? "del" : null}, line + "\n")));
}
function finding(item) {
  const card = el("article", {class: `card finding ${item.severity}`, "data-at": item.at},
    el("h3", {}, el("span", {class: `badge ${item.severity}`}, `${SIGNS[item.severity]} ${item.severity}`), `${item.code} ${item.name}`),
    el("p", {}, item.message),
    el("p", {class: "where"}, "in ", el("button", {class: "link", type: "button", onclick: () => select(item.at)}, item.module || "(model)"),
      item.source ? ` at ${item.source.place}` : null, item.also.length ? ` and ${item.also.length} more` : null));
  if (item.source && item.source.text) card.append(el("pre", {tabindex: 0}, item.source.text));
  const evidence = Object.entries(item.evidence);
  if (evidence.length) card.append(el("dl", {class: "evidence"}, ...evidence.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, known(value) ? number(value) : String(value))))));
  if (item.remedy) card.append(el("p", {}, el("b", {}, "Remedy. "), ...inline(item.remedy)));
  if (item.fix) card.append(el("p", {}, el("b", {}, `Fix (${item.fix.applicability}). `), item.fix.title));
  if (item.fix && item.fix.edit && !item.diff) card.append(diff(item.fix.edit));
  if (item.diff) card.append(diff(item.diff), el("p", {class: "hint"}, "The edit that ", el("code", {}, "initio fix"), " would try; it proves an edit before it writes."));
  if (data.pages[item.code]) {
    const more = el("details", {}, el("summary", {}, "Explanation"));
    more.addEventListener("toggle", () => { if (more.open && more.children.length < 2) more.append(markdown(data.pages[item.code])); });
    card.append(more);
  }
  return card;
}
function findings() {
  const list = $("finding-list");
  if (!data.findings.length) list.append(el("p", {class: "hint"}, "No check found anything in this model."));
  const first = data.findings.slice(0, 50), rest = data.findings.slice(50);
  list.append(...first.map(finding));
  if (rest.length) {
    const more = el("button", {type: "button", onclick: () => { more.remove(); list.append(...rest.map(finding)); }}, `Show ${rest.length} more`);
    list.append(more);
  }
}

/* The selected module, in one line. */
followers.push(i => {
  const box = $("selection");
  box.replaceChildren();
  if (i < 0) return;
  const facts = [
    [M.kind[i], ""], ["rms", number(M.rms[i])], ["grad rms", number(M.grad[i])], ["grad/weight", number(M.ratio[i])],
    ["parameters", amount(M.params[i])], ["MACs", amount(M.macs[i])], ["saved", bytes(M.saved[i])],
  ];
  const claim = M.claim[i] === "unknown" ? `no claim: ${brief(M.reason[i] || "", 160)}` : M.claim[i] || "no floating output";
  box.append(el("div", {class: "card"}, el("b", {title: brief(nameOf(i), 400)}, nameOf(i)), ...facts.map(([name, value]) => el("span", {}, `${name} ${value}`.trim())),
    el("span", {class: "muted"}, claim), M.source[i] ? el("span", {class: "muted"}, brief(M.source[i][0], 60)) : null,
    el("button", {type: "button", onclick: () => select(-1), "aria-label": "Clear the selection"}, "×")));
});

/* Notes and footer */
function notes() {
  if (data.notes.length) $("notes").append(el("h2", {}, "Notes"), el("ul", {}, ...data.notes.map(note => el("li", {}, note))));
  const claims = Object.entries(data.claims).map(([name, n]) => `${n} ${name}`).join(", ");
  $("footer").append(`Initio ${data.version}. Operation outputs by claim: ${claims || "none"}. Grad rms is of the cotangent that arrives at an output; ratios are gradient rms over weight rms. Plots: uPlot, MIT licence.`);
}
