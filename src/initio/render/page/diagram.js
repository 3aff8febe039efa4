/* The graph: boxes in layers that run to and fro, so that neighbours stay neighbours. */
const SVG = "http://www.w3.org/2000/svg";
function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
/* Cividis (Nuñez et al. 2018): one order of lightness for every kind of sight. */
const RAMP = [[0, 32, 76], [58, 72, 107], [124, 123, 120], [188, 174, 108], [255, 233, 69]];
function ramp(t) {
  const at = Math.min(Math.max(t, 0), 1) * (RAMP.length - 1), k = Math.min(Math.floor(at), RAMP.length - 2), part = at - k;
  return RAMP[k].map((c, j) => Math.round(c + (RAMP[k + 1][j] - c) * part));
}
const QUANTITIES = [
  ["rms", "rms", true, number], ["grad", "grad rms", true, number], ["ratio", "gradient to weight", true, number], ["correlation", "correlation of two samples", false, number],
  ["params", "parameters", true, amount], ["macs", "MACs", true, amount], ["saved", "bytes saved", true, bytes],
];
function graph() {
  const {boxes, edges, level} = data.diagram, place = $("diagram");
  if (!boxes.length) { $("graph").hidden = true; return; }
  const W = 92, H = 28, DX = 118, DY = 40;
  const layers = Math.max(...boxes.map(box => box[3])) + 1;
  const wide = Math.max(place.clientWidth, 300);
  const lanes = new Array(layers).fill(1);
  for (const box of boxes) lanes[box[3]] = Math.max(lanes[box[3]], box[4] + 1);
  let across = 1, best = 0;
  for (let n = 1; n <= layers; n++) {  // as many in a line as make the boxes largest
    let high = 0;
    for (let start = 0; start < layers; start += n) { let most = 1; for (let k = start; k < Math.min(start + n, layers); k++) most = Math.max(most, lanes[k]); high += most * DY + 22; }
    const scale = Math.min(wide / (n * DX), (place.clientHeight || 460) / high);
    if (scale > best) { best = scale; across = n; }
  }
  const lines = Math.ceil(layers / across), tall = [], top = [];
  for (let r = 0; r < lines; r++) { tall[r] = Math.max(...lanes.slice(r * across, (r + 1) * across)) * DY; top[r] = r ? top[r - 1] + tall[r - 1] + 22 : 0; }
  const spot = boxes.map(([, , , layer, lane]) => {
    const r = Math.floor(layer / across), c = layer % across, back = r % 2;
    return {x: (back ? across - 1 - c : c) * DX, y: top[r] + lane * DY, r, back};
  });
  const total = {w: across * DX - DX + W, h: top[lines - 1] + tall[lines - 1] - (DY - H)};
  const root = svg("svg", {"aria-hidden": "true"});
  root.append(svg("defs", {}, svg("marker", {id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 6, markerHeight: 6, orient: "auto"}, svg("path", {d: "M0 0 8 4 0 8z", class: "edgehead"}))));
  for (const [a, b] of edges) {
    const p = spot[a], q = spot[b], far = boxes[b][3] - boxes[a][3] > 1;
    let d;
    if (p.r !== q.r && !far) d = `M${p.x + W / 2} ${p.y + H}L${q.x + W / 2} ${q.y - 1}`;
    else if (p.r === q.r) {
      const s = p.back ? -1 : 1, x0 = p.back ? p.x : p.x + W, x1 = q.back ? q.x + W : q.x, bend = s * Math.max(14, Math.abs(x1 - x0) / 3), lift = far ? -Math.min(20, 8 + Math.abs(x1 - x0) / 40) : 0;
      d = far ? `M${p.x + W / 2} ${p.y}C${p.x + W / 2} ${p.y + lift * 1.4} ${q.x + W / 2} ${q.y + lift * 1.4} ${q.x + W / 2} ${q.y - 1}` : `M${x0} ${p.y + H / 2}C${x0 + bend} ${p.y + H / 2} ${x1 - bend} ${q.y + H / 2} ${x1} ${q.y + H / 2}`;
    } else d = `M${p.x + W / 2} ${p.y + H}C${p.x + W / 2} ${p.y + H + 24} ${q.x + W / 2} ${q.y - 24} ${q.x + W / 2} ${q.y - 1}`;
    root.append(svg("path", {d, class: "edge", "marker-end": "url(#tip)"}));
  }
  const shapes = [], texts = [];
  boxes.forEach(([label, module, isCall], i) => {
    const {x, y} = spot[i], shape = svg("rect", {x, y, width: W, height: H, rx: isCall ? 5 : 14, class: "box", "data-box": i});
    if (!isCall) shape.setAttribute("stroke-dasharray", "3 2");
    shape.append(svg("title", {}, isCall ? `${brief(nameOf(module), 200)} (${M.kind[module]})` : label));
    const text = svg("text", {x: x + W / 2, y: y + H / 2 + 4, "text-anchor": "middle"}, label.length > 14 ? label.slice(0, 6) + "…" + label.slice(-6) : label);
    shapes.push(shape); texts.push(text); root.append(shape, text);
  });
  place.append(root);

  let view = {};
  const show = () => root.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
  const fit = () => { view = {x: -24, y: -34, w: total.w + 48, h: total.h + 60}; show(); };
  const zoom = (factor, cx = view.x + view.w / 2, cy = view.y + view.h / 2) => { view = {x: cx - (cx - view.x) * factor, y: cy - (cy - view.y) * factor, w: view.w * factor, h: view.h * factor}; show(); };
  fit();
  const zoomIn = () => { const k = chosen(); if (k < 0) zoom(0.7); else { zoom(0.7); centre(k); } };
  const chosen = () => shapes.findIndex(shape => shape.classList.contains("on"));
  const centre = k => { view = {...view, x: spot[k].x + W / 2 - view.w / 2, y: spot[k].y + H / 2 - view.h / 2}; show(); };
  $("zoom-in").addEventListener("click", zoomIn);
  $("zoom-out").addEventListener("click", () => zoom(1 / 0.7));
  $("zoom-fit").addEventListener("click", fit);
  root.addEventListener("wheel", event => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(root.getScreenCTM().inverse());
    zoom(event.deltaY > 0 ? 1.15 : 0.87, at.x, at.y);
  }, {passive: false});
  let grip = null, moved = false;
  root.addEventListener("pointerdown", event => { grip = {x: event.clientX, y: event.clientY, view: {...view}}; moved = false; });
  root.addEventListener("pointermove", event => {
    if (!grip || !event.buttons) return;
    const scale = 1 / root.getScreenCTM().a, dx = event.clientX - grip.x, dy = event.clientY - grip.y;
    if (Math.abs(dx) + Math.abs(dy) > 4) moved = true;
    if (moved) { view = {...grip.view, x: grip.view.x - dx * scale, y: grip.view.y - dy * scale}; show(); }
  });
  window.addEventListener("pointerup", () => { grip = null; }, {signal: life.signal});
  root.addEventListener("click", event => { const box = event.target.dataset && event.target.dataset.box; if (box !== undefined && !moved) { cursor = +box; select(boxes[box][1]); } });
  let cursor = -1;
  place.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (step) {
      cursor = Math.min(Math.max(cursor + step, 0), boxes.length - 1);
      select(boxes[cursor][1]);
    } else if (event.key === "+" || event.key === "=") zoomIn();
    else if (event.key === "-") zoom(1 / 0.7);
    else if (event.key === "0") fit();
    else return;
    event.preventDefault();
  });
  followers.push(i => {
    boxes.forEach(([, module, isCall], k) => shapes[k].classList.toggle("on", i >= 0 && isCall === 1 && (within(module, i) || (level >= 0 && within(i, module)))));
    const k = chosen();
    if (k >= 0 && view.w < total.w * 0.8) {  // enlarged: keep the choice in sight
      const {x, y} = spot[k];
      if (x < view.x || y < view.y || x + W > view.x + view.w || y + H > view.y + view.h) centre(k);
    }
  });

  function paintBoxes() {
    const [key, name, log, format] = QUANTITIES[$("quantity").value], values = boxes.map(([, module, isCall]) => isCall ? M[key][module] : null);
    const usable = values.filter(v => known(v) && (!log || v > 0)), low = Math.min(...usable), high = Math.max(...usable);
    const scale = v => high === low ? 0.5 : log ? Math.log(v / low) / Math.log(high / low) : (v - low) / (high - low);
    values.forEach((v, i) => {
      const has = known(v) && (!log || v > 0), rgb = has ? ramp(scale(v)) : null;
      shapes[i].setAttribute("fill", rgb ? `rgb(${rgb})` : boxes[i][2] ? colour("--unknown") : colour("--code"));
      texts[i].setAttribute("fill", rgb ? (rgb[0] * 0.3 + rgb[1] * 0.6 + rgb[2] * 0.1 > 118 ? "#111" : "#fff") : colour("--ink"));
      const title = shapes[i].querySelector("title");
      if (boxes[i][2]) title.textContent = `${brief(nameOf(boxes[i][1]), 200)} (${M.kind[boxes[i][1]]}): ${name} ${format(v)}`;
    });
    const bar = el("i", {style: `background:linear-gradient(90deg,${[0, 0.25, 0.5, 0.75, 1].map(t => `rgb(${ramp(t)})`).join(",")})`});
    $("scale").replaceChildren(...(usable.length ? [format(low), bar, format(high)] : ["no value"]), el("i", {class: "none"}), "zero or no claim");
  }
  $("quantity").append(...QUANTITIES.map(([, name], k) => el("option", {value: k}, name)));
  $("quantity").addEventListener("change", paintBoxes);
  themed.push(paintBoxes);
  paintBoxes();
  $("diagram-note").textContent = (level >= 0 ? `Drawn at level ${level} of the module tree, since the whole has too many boxes. ` : "") + "Rounded boxes are operations of the model's own code where several tensors meet. Drag to move, Ctrl and the wheel to zoom.";
}
