/* The panel of a live model. Each change is posted, and the page is drawn anew from the answer. */
const live = data.live;
let latest = 0;
const tell = (text, wrong) => { $("live-status").textContent = text; $("live-status").className = wrong ? "wrong" : "hint"; };
async function post(changes) {
  const mine = ++latest;
  tell("Computing …", false);
  try {
    const answer = await fetch("change", {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(changes)});
    const found = await answer.json();
    if (mine !== latest) return;
    if (found.error) { panel(); tell(found.error, true); } else again(found);
  } catch (error) { if (mine === latest) { panel(); tell(`No answer: ${error.message}. Is initio serve still running?`, true); } }
}
function again(found) {
  const place = window.scrollY, focus = document.activeElement && document.activeElement.id;
  found.live.selected = selected < 0 ? null : M.path[selected];
  found.live.times = (live.times || 0) + 1;
  life.abort();
  document.querySelector("main").replaceWith(pristine.cloneNode(true));
  start(found, new AbortController());
  window.scrollTo({top: place, behavior: "instant"});
  if (focus && $(focus)) $(focus).focus({preventScroll: true});
}
/** The changes with one more, or one less where the value is undefined. */
function changed(keys, value) {
  const all = structuredClone(live.changes);
  const holders = keys.slice(0, -1).reduce((found, key) => { const below = found[found.length - 1]; if (!Object.hasOwn(below, key)) below[key] = {}; return [...found, below[key]]; }, [all]);
  if (value === undefined) delete holders[holders.length - 1][keys[keys.length - 1]]; else holders[holders.length - 1][keys[keys.length - 1]] = value;
  for (let k = holders.length - 1; k > 0; k--) if (!Object.keys(holders[k]).length) delete holders[k - 1][keys[k - 1]];
  post(all);
}
function field(id, label, value, then, attributes = {}) {
  const box = el("input", {id, value: String(value), type: "number", step: "any", ...attributes});
  if (attributes.type === "checkbox") box.checked = value;
  box.addEventListener("change", () => {
    const text = box.value.trim();
    then(attributes.type === "checkbox" ? box.checked : attributes.type === "text" ? box.value : text === "" ? undefined : Number(text));
  });
  return el("label", {}, brief(label, 60), " ", box);
}
function choice(id, label, value, options, then) {
  const box = el("select", {id}, ...["as written", ...options].map(name => el("option", {value: name}, name)));
  box.value = value || "as written";
  box.addEventListener("change", () => then(box.value === "as written" ? undefined : box.value));
  return el("label", {}, `${label} `, box);
}
function block() {
  const holder = $("live-block"), path = selected < 0 ? "" : M.path[selected], own = (live.changes.modules || {})[path] || {};
  const below = what => Object.entries(live.blocks[what]).filter(([place]) => !path || place === path || place.startsWith(path + "."));
  const gain = below("gain"), p = below("p"), activation = below("activation"), norm = below("norm");
  const common = list => { const found = [...new Set(list.map(([, value]) => value))]; return found.length === 1 ? found[0] : ""; };
  const set = what => value => changed(["modules", path, what], value);
  holder.replaceChildren(el("legend", {}, selected < 0 ? "Whole model (select a module to change it alone)" : brief(nameOf(selected), 80)));
  if (gain.length) holder.append(field("live-gain", `gain of ${gain.length} weight${gain.length > 1 ? "s" : ""}`, "gain" in own ? own.gain : 1, set("gain"), {min: 0}));
  if (p.length) holder.append(field("live-p", "dropout p", "p" in own ? own.p : common(p), set("p"), {min: 0, max: 1}));
  if (activation.length) holder.append(choice("live-activation", `activation (${common(activation) || activation.length})`, own.activation, live.activations, set("activation")));
  if (norm.length) holder.append(choice("live-norm", `norm (${common(norm) || norm.length})`, own.norm, live.norms, set("norm")));
  if (holder.children.length < 2) holder.append(el("span", {class: "hint"}, "No weight, dropout, activation or norm of torch.nn at or below it."));
}
function panel() {
  const first = live.inputs[0];
  const sizes = live.inputs.filter(each => !each.fixed).flatMap((each, n) => each.shape.slice(1).map((size, k) =>
    field(`live-size-${n}-${k}`, `${each.name.match(/^\d+$/) ? "input" : each.name} size ${k + 1}`, size, value => changed(["sizes", each.name], value === undefined ? undefined : each.shape.slice(1).map((old, j) => j === k ? value : old)), {min: 1, step: 1})));
  const inputs = el("fieldset", {}, el("legend", {}, "Input"), first.fixed ? null : field("live-batch", "batch", first.shape[0], value => changed(["batch"], value), {min: 1, step: 1}), ...sizes);
  const types = {int: {step: 1}, float: {}, str: {type: "text"}, bool: {type: "checkbox"}};
  const named = Object.entries(live.arguments).map(([name, {kind, value}]) => field(`live-argument-${name}`, name, value, answer => changed(["arguments", name], answer), types[kind]));
  const some = Object.keys(live.changes).length > 0;
  $("live").replaceChildren(el("div", {class: "card"}, el("div", {class: "fields"}, inputs, named.length ? el("fieldset", {}, el("legend", {}, "Arguments"), ...named) : null, el("fieldset", {id: "live-block"})),
    el("p", {id: "live-status", role: "status"}), some ? el("button", {id: "live-reset", type: "button", onclick: () => post({})}, "Back to the model as written") : null,
    some ? el("details", {open: true}, el("summary", {}, "The changed model as code"), el("pre", {id: "live-code", tabindex: 0}, live.code)) : null));
  block();
  tell(`Computed in ${number(live.seconds)} s`, false);
}
followers.push(block);
panel();
if (live.selected) select(M.path.indexOf(live.selected));
$("live").dataset.times = live.times || 0;
