"use strict";
const board = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const MARKS = { better: "▲", worse: "▼", "not distinguishable": "≈" };
const COLOURS = ["#0b63ce", "#b35900", "#1a7f37", "#8250df", "#bf3989", "#57606a", "#0f766e", "#a40e26"];
const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children, which are elements or text; nothing is ever read as markup. */
function make(name, attributes = {}, ...children) {
  const made = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") made.addEventListener("click", value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

const fixed = (value, digits = 1) => (value === null || value === undefined ? "—" : value.toFixed(digits));
const signed = (value) => (value === null ? "—" : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2));
const scaled = (value, divisor, digits) => (value === null ? "—" : (value / divisor).toFixed(digits));
const named = (table) => [table.task, table.schedule !== table.scale && table.schedule, table.version > 1 && `v${table.version}`]
  .filter(Boolean).join(" · ");

// One line a method of a table, and one a reported figure's method and schedule.
const lines = [];
for (const table of board.tables) {
  for (const row of table.rows) {
    const against = table.differences.find((d) => d.a === row.method && d.b === "moco_v2" && d.metric === table.main);
    lines.push({ kind: "measured", table, row, scale: table.scale, task: named(table), method: row.method, arch: table.arch,
      metric: table.main, score: row.scores[table.main], verdict: against ? against.verdict : "", runs: row.runs,
      over: row.over, pixels: row.cost.encoder_pixels, hours: row.cost.device_hours, minutes: row.cost.transfer_minutes,
      scores: row.scores, marks: (row.unreliable.length ? " ‡" : "") + (row.outdated ? " §" : "") });
  }
}
const reported = new Map();
for (const figure of board.reported) {
  const key = [figure.task, figure.schedule, figure.method, figure.pretrain_epochs, figure.table].join("|");
  if (!reported.has(key)) {
    reported.set(key, { kind: "reported", scale: "paper", task: `${figure.task} · ${figure.schedule}`, method: figure.method,
      arch: "resnet50", metric: figure.metric, verdict: "", runs: null, over: "", pixels: null, hours: null, minutes: null,
      scores: {}, marks: "", figure });
  }
  const value = Number.parseFloat(figure.value);
  const score = { mean: Number.isNaN(value) ? null : value, sd: null, half: null, n: 1 };
  const line = reported.get(key);
  line.scores[figure.metric] = score;
  line.score = line.score || score;
}
lines.push(...reported.values());

const COLUMNS = [
  { key: "method", title: "method", shown: true, fixed: true, text: (l) => l.method + l.marks },
  { key: "score", title: "score", shown: true, number: true, value: (l) => l.score.mean, text: (l) => shown(l.score, l) },
  { key: "metric", title: "metric", shown: true, text: (l) => l.metric },
  { key: "task", title: "task", shown: true, text: (l) => l.task },
  { key: "scale", title: "scale", shown: true, text: (l) => l.scale },
  { key: "arch", title: "architecture", shown: false, text: (l) => l.arch },
  { key: "verdict", title: "against moco_v2", shown: true, text: (l) => (l.verdict ? `${MARKS[l.verdict]} ${l.verdict}` : "") },
  { key: "runs", title: "runs", shown: true, number: true, value: (l) => l.runs, text: (l) => l.runs === null ? "—" : `${l.runs}` },
  { key: "over", title: "spread over", shown: false, text: (l) => l.over || "—" },
  { key: "pixels", title: "encoder Gpixel", shown: true, number: true, value: (l) => l.pixels, text: (l) => scaled(l.pixels, 1e9, 2) },
  { key: "hours", title: "pretraining, h", shown: true, number: true, value: (l) => l.hours, text: (l) => fixed(l.hours, 2) },
  { key: "minutes", title: "transfer, min", shown: false, number: true, value: (l) => l.minutes, text: (l) => fixed(l.minutes, 1) },
  ...[...new Set(lines.flatMap((l) => Object.keys(l.scores)))].sort().map((metric) => ({
    key: `metric ${metric}`, title: metric, shown: false, number: true,
    value: (l) => (l.scores[metric] ? l.scores[metric].mean : null),
    text: (l) => (l.scores[metric] ? shown(l.scores[metric], l) : "—") })),
];

function shown(score, line) {
  if (score.mean === null) return "—";
  return fixed(score.mean) + (line.kind === "reported" ? "" : score.half === null ? " †" : ` ± ${fixed(score.half)}`);
}

let order = { key: "", down: true };

function filtered() {
  const words = find("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = ["scale", "task", "method", "arch"].map((key) => [key, find(key).value]).filter(([, value]) => value);
  const kept = lines.filter((line) => (!find("source").value || line.kind === find("source").value)
    && wanted.every(([key, value]) => line[key] === value)
    && words.every((word) => `${line.method} ${line.task} ${line.scale}`.toLowerCase().includes(word)));
  const column = COLUMNS.find((c) => c.key === order.key);
  if (!column) return kept;
  const value = column.value || column.text;
  const empty = (v) => v === null || v === "" || v === "—";
  return kept.sort((x, y) => {
    const [a, b] = [value(x), value(y)];
    if (empty(a) || empty(b)) return empty(a) - empty(b); // what is missing stays below
    return (typeof a === "number" ? a - b : a.localeCompare(b)) * (order.down ? -1 : 1);
  });
}

function draw() {
  const columns = COLUMNS.filter((c) => c.shown);
  const kept = filtered();
  find("board").tHead.replaceChildren(make("tr", {}, ...columns.map((c) => make("th", {
    scope: "col", class: c.number ? "number" : null,
    "aria-sort": order.key === c.key ? (order.down ? "descending" : "ascending") : null,
  }, make("button", { type: "button", "data-column": c.key, onclick: () => sort(c) },
    c.title + (order.key === c.key ? (order.down ? " ↓" : " ↑") : ""))))));
  find("board").tBodies[0].replaceChildren(...kept.map((line) => make("tr", {}, ...columns.map((c) => (c.fixed
    ? make("th", { scope: "row" }, make("button", { type: "button", onclick: () => detail(line) }, c.text(line)))
    : make("td", { class: [c.number && "number", c.key === "verdict" && line.verdict].filter(Boolean).join(" ") || null },
      c.text(line)))))));
  find("count").textContent = `${kept.length} of ${lines.length} rows`;
}

function sort(column) {
  order = { key: column.key, down: order.key === column.key ? !order.down : Boolean(column.number) };
  draw();
  document.querySelector(`[data-column="${CSS.escape(column.key)}"]`).focus();
}

function detail(line) {
  const parts = [make("h3", {}, `${line.method}: ${line.task}, scale ${line.scale}`)];
  if (line.kind === "reported") {
    parts.push(make("p", {}, `Reported in table ${line.figure.table} of arXiv 2102.04803, not measured here; pretraining `
      + `epochs ${line.figure.pretrain_epochs || "not stated"}.`));
  } else {
    parts.push(make("p", {}, "Records: ", ...line.row.records.flatMap((path) => [
      make("a", { href: path }, path.split("/").pop()), " "])),
    make("p", {}, "Protocol: ", make("a", { href: line.table.protocol }, line.table.protocol.split("/").pop()),
      `; data ${line.table.data}; device ${line.row.device}`),
    make("p", {}, "To run it again: ", make("code", {}, line.row.command)));
    if (line.row.unreliable.length) parts.push(make("p", {}, `Unreliable: ${line.row.unreliable.join("; ")}`));
  }
  const metrics = Object.entries(line.scores).filter(([, score]) => score.mean !== null);
  if (line.kind === "measured" && line.row.errors.length) {
    parts.push(make("p", {}, "AP50 lost to kinds of errors (TIDE): ",
      line.row.errors.map(([kind, name, value]) => `${kind} ${name} ${fixed(value)}`).join(", ")));
  }
  parts.push(make("p", {}, metrics.map(([name, score]) => `${name} ${shown(score, line)}`).join(", ")));
  parts.push(make("button", { type: "button", onclick: () => find("detail").replaceChildren() }, "Close"));
  find("detail").replaceChildren(...parts);
  find("detail").scrollIntoView({ block: "nearest" });
}

function options(id, values, first) {
  find(id).replaceChildren(...(first ? [make("option", { value: "" }, first)] : []),
    ...values.map((value) => make("option", { value }, value)));
}

const distinct = (key) => [...new Set(lines.map((line) => line[key]))].sort();

function compared() {
  const scale = find("compare-scale").value;
  return board.tables.filter((t) => t.scale === scale).flatMap((table) => table.differences
    .filter((d) => d.a === find("a").value && d.b === find("b").value).map((d) => ({ table, d })));
}

const DIFFERENCES = [
  ["task", ({ table }) => named(table)], ["metric", ({ d }) => d.metric], ["difference", ({ d }) => signed(d.mean)],
  ["95 % interval", ({ d }) => (d.low === null ? "—" : `${signed(d.low)} … ${signed(d.high)}`)],
  ["p, corrected", ({ d }) => (d.p === null ? "—" : d.p < 0.001 ? "< 0.001" : d.p.toFixed(3))],
  ["verdict", ({ d }) => (d.verdict ? `${MARKS[d.verdict]} ${d.verdict}` : "one run a side")], ["over", ({ d }) => d.over || "—"]];

function drawDifferences() {
  const found = compared();
  const reach = Math.max(1e-9, ...found.map(({ d }) => Math.max(Math.abs(d.mean), Math.abs(d.low || 0), Math.abs(d.high || 0))));
  find("differences").tHead.replaceChildren(make("tr", {}, ...DIFFERENCES.map(([title]) => make("th", { scope: "col" }, title)),
    make("th", { scope: "col" }, `−${fixed(reach)} … +${fixed(reach)}`)));
  find("differences").tBodies[0].replaceChildren(...found.map((each) => make("tr", {},
    ...DIFFERENCES.map(([title, text], i) => make(i ? "td" : "th", { scope: i ? null : "row",
      class: title === "verdict" ? each.d.verdict || null : null }, text(each))),
    make("td", {}, interval(each.d, reach)))));
  if (!found.length) {
    find("differences").tBodies[0].append(make("tr", {}, make("td", { colspan: DIFFERENCES.length + 1 },
      "No runs of both at this scale that could be compared.")));
  }
}

function interval(d, reach) {
  const x = (value) => 100 + 95 * value / reach;
  const parts = [make("svg:line", { x1: 100, x2: 100, y1: 2, y2: 22, class: "axis" })];
  if (d.low !== null) {
    parts.push(make("svg:line", { x1: x(d.low), x2: x(d.high), y1: 12, y2: 12, stroke: COLOURS[0], "stroke-width": 3 }));
  }
  parts.push(make("svg:circle", { cx: x(d.mean), cy: 12, r: 4, fill: COLOURS[0] }));
  return make("svg:svg", { viewBox: "0 0 200 24", style: "width:200px", role: "img",
    "aria-label": `${signed(d.mean)}, from ${signed(d.low)} to ${signed(d.high)}` }, ...parts);
}

/** A plot of series of points {x, y, half} with their names. */
function plot(place, series, xTitle, yTitle, joined) {
  const points = series.flatMap((s) => s.points).filter((p) => p.x !== null && p.y !== null);
  if (!points.length) {
    find(place).replaceChildren(make("p", {}, "Nothing was measured for this."));
    return;
  }
  const [left, right, top, bottom] = [64, 600, 16, 300];
  const reach = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const margin = (high - low || Math.abs(high) || 1) * 0.08;
    return [low - margin, high + margin];
  };
  const [x0, x1] = reach(points.map((p) => p.x));
  const [y0, y1] = reach(points.flatMap((p) => [p.y - (p.half || 0), p.y + (p.half || 0)]));
  const x = (value) => left + (right - left) * (value - x0) / (x1 - x0);
  const y = (value) => bottom - (bottom - top) * (value - y0) / (y1 - y0);
  const parts = [];
  for (let i = 0; i <= 4; i += 1) {
    const [xv, yv] = [x0 + (x1 - x0) * i / 4, y0 + (y1 - y0) * i / 4];
    parts.push(make("svg:line", { x1: left, x2: right, y1: y(yv), y2: y(yv), class: "grid" }),
      make("svg:text", { x: left - 8, y: y(yv) + 4, "text-anchor": "end" }, yv.toFixed(1)),
      make("svg:text", { x: x(xv), y: bottom + 20, "text-anchor": "middle" }, Math.abs(xv) < 10 ? xv.toFixed(1) : xv.toFixed(0)));
  }
  parts.push(make("svg:line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }),
    make("svg:text", { x: (left + right) / 2, y: bottom + 42, "text-anchor": "middle" }, xTitle),
    make("svg:text", { x: left + 6, y: 12 }, yTitle));
  series.forEach((s, number) => {
    const colour = COLOURS[number % COLOURS.length];
    const own = s.points.filter((p) => p.x !== null && p.y !== null);
    if (joined) {
      parts.push(make("svg:polyline", { points: own.map((p) => `${x(p.x)},${y(p.y)}`).join(" "), fill: "none", stroke: colour,
        "stroke-width": 2 }));
    }
    for (const p of own) {
      if (p.half) {
        parts.push(make("svg:line", { x1: x(p.x), x2: x(p.x), y1: y(p.y - p.half), y2: y(p.y + p.half), stroke: colour,
          "stroke-width": 2 }));
      }
      parts.push(make("svg:circle", { cx: x(p.x), cy: y(p.y), r: joined ? 3 : 5, fill: colour },
        make("svg:title", {}, `${s.name}: ${fixed(p.y)} at ${p.x.toPrecision(4)}`)));
    }
    parts.push(make("svg:circle", { cx: 630, cy: 26 + 22 * number, r: 5, fill: colour }),
      make("svg:text", { x: 642, y: 30 + 22 * number }, s.name));
  });
  const said = series.map((s) => `${s.name}: ${s.points.slice(-1).map((p) => fixed(p.y)).join("")}`).join("; ");
  find(place).replaceChildren(make("svg:svg", { viewBox: `0 0 820 ${Math.max(350, 60 + 22 * series.length)}`, role: "img",
    "aria-label": `${yTitle} over ${xTitle}. ${said}` }, ...parts));
}

function drawCost() {
  const table = board.tables[Number(find("cost-table").value)];
  if (!table) return;
  const axis = find("cost-axis");
  const divisor = axis.value === "encoder_pixels" ? 1e9 : 1;
  plot("cost", table.rows.map((row) => ({ name: row.method, points: [{
    x: row.cost[axis.value] === null ? null : row.cost[axis.value] / divisor, y: row.scores[table.main] ? row.scores[table.main].mean : null,
    half: row.scores[table.main] ? row.scores[table.main].half : null }] })),
  axis.selectedOptions[0].textContent + (divisor > 1 ? ", billions" : ""), `${table.main}, %`, false);
}

function drawCurves() {
  const axis = find("curve-axis").value;
  const level = find("level").value;
  plot("curves", board.curves.filter((c) => c.scale === find("curve-scale").value).map((c) => ({
    name: c.seed ? `${c.method} p${c.seed}` : c.method,
    points: c.points.map((p) => ({ x: axis === "epoch" ? p.epoch : p.encoder_pixels / 1e9, y: p.knn[level], half: null })) })),
  axis === "epoch" ? "epochs" : "encoder pixels, billions", `k-NN of ${level.toUpperCase()}, %`, true);
}

/** A photo's outline with boxes [category, left, top, width, height(, score)]. */
function outlined(photo, boxes, colour, label, several) {
  const size = Math.max(photo.width, photo.height) / 22;
  const parts = [make("svg:rect", { x: 0, y: 0, width: photo.width, height: photo.height, class: "photo" })];
  for (const [category, x, y, width, height, score] of boxes) {
    const opacity = score === undefined ? 1 : 0.25 + 0.75 * score;
    const text = [several && category, score !== undefined && score.toFixed(2)].filter(Boolean).join(" ");
    parts.push(make("svg:rect", { x, y, width, height, fill: "none", stroke: colour, "stroke-width": size / 5,
      "stroke-opacity": opacity }, make("svg:title", {}, text)),
    make("svg:text", { x: x + size / 4, y: Math.max(y + size, size), style: `font-size:${size}px`, opacity }, text));
  }
  return make("figure", {}, make("svg:svg", { viewBox: `0 0 ${photo.width} ${photo.height}`, role: "img",
    "aria-label": `${label}, photo ${photo.id}: ${boxes.length} boxes` }, ...parts), make("figcaption", {}, label));
}

function drawPhotos() {
  const table = board.tables[Number(find("photos-table").value)];
  const shownMethods = [find("photos-a").value, find("photos-b").value];
  const least = Number(find("photos-score").value);
  const several = new Set(table.photos.flatMap((photo) => photo.objects.map(([category]) => category))).size > 1;
  find("photos").replaceChildren(...table.photos.map((photo, i) => make("div", { class: "photos" },
    outlined(photo, photo.objects, "var(--ink)", `objects of photo ${photo.id}`, several),
    ...shownMethods.map((method, k) => outlined(photo, table.found[method].boxes[i].filter((box) => box[5] >= least),
      COLOURS[k], table.found[method].run, several)))));
}

function choosePhotos() {
  const methods = Object.keys(board.tables[Number(find("photos-table").value)].found).sort();
  const wanted = ["detco", "moco_v2"].map((method, i) => (methods.includes(method) ? method : methods[Math.min(i, methods.length - 1)]));
  ["photos-a", "photos-b"].forEach((id, i) => { options(id, methods); find(id).value = wanted[i]; });
  drawPhotos();
}

function drawForetold() {
  const own = board.foretold.filter((f) => f.scale === find("foretold-scale").value);
  const tasks = [...new Set(own.flatMap((f) => [f.a, f.b]))].sort();
  const of = (a, b) => own.find((f) => (f.a === a && f.b === b) || (f.a === b && f.b === a));
  find("foretold").tHead.replaceChildren(make("tr", {}, make("th", { scope: "col" }, "task"),
    ...tasks.map((task) => make("th", { scope: "col" }, task))));
  find("foretold").tBodies[0].replaceChildren(...tasks.map((a) => make("tr", {}, make("th", { scope: "row" }, a),
    ...tasks.map((b) => {
      const found = of(a, b);
      if (!found) return make("td", { class: "number" }, a === b ? "1" : "—");
      const strength = Math.round(45 * Math.abs(found.r));
      const colour = found.r > 0 ? "#b35900" : "#0b63ce";
      return make("td", { class: "number", style: `background: color-mix(in srgb, ${colour} ${strength}%, transparent)` },
        `${signed(found.r)} `, make("small", {}, `${signed(found.low)} … ${signed(found.high)}, ${found.n} methods`));
    }))));
}

function save(name, rows) {
  const quoted = (cell) => `"${String(cell).replace(/^[=+@\t\r]/, "'$&").replaceAll('"', '""')}"`; // no formulas
  const text = rows.map((row) => row.map(quoted).join(",")).join("\r\n");
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

function theme(value) {
  const dark = value === "dark" || (value === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

options("scale", distinct("scale"), "all");
options("task", distinct("task"), "all");
options("method", distinct("method"), "all");
options("arch", distinct("arch"), "all");
const scales = [...new Set(board.tables.map((t) => t.scale))];
options("compare-scale", scales);
options("curve-scale", [...new Set(board.curves.map((c) => c.scale))]);
find("cost-table").replaceChildren(...board.tables.map((t, i) => make("option", { value: i }, `${t.scale}: ${named(t)}`)));
find("columns").append(...COLUMNS.filter((c) => !c.fixed).map((c) => {
  const box = make("input", { type: "checkbox", checked: c.shown ? "" : null });
  box.addEventListener("change", () => { c.shown = box.checked; draw(); });
  return make("label", {}, box, c.title);
}));

function pair() {
  const methods = [...new Set(board.tables.filter((t) => t.scale === find("compare-scale").value)
    .flatMap((t) => t.rows.map((r) => r.method)))].sort();
  options("a", methods);
  options("b", methods);
  find("a").value = methods.includes("detco") ? "detco" : methods[0];
  find("b").value = methods.includes("moco_v2") && find("a").value !== "moco_v2" ? "moco_v2" : methods[methods.length - 1];
  drawDifferences();
}

find("filters").addEventListener("input", draw);
find("filters").addEventListener("reset", () => { order = { key: "", down: true }; setTimeout(draw); });
find("filters").addEventListener("submit", (event) => event.preventDefault());
find("compare-scale").addEventListener("change", pair);
for (const id of ["a", "b"]) find(id).addEventListener("change", drawDifferences);
for (const id of ["cost-table", "cost-axis"]) find(id).addEventListener("change", drawCost);
for (const id of ["curve-scale", "level", "curve-axis"]) find(id).addEventListener("change", drawCurves);
find("csv").addEventListener("click", () => {
  const columns = COLUMNS.filter((c) => c.shown);
  save("leaderboard.csv", [columns.map((c) => c.title), ...filtered().map((l) => columns.map((c) => c.text(l)))]);
});
find("compare-csv").addEventListener("click", () => save("differences.csv",
  [DIFFERENCES.map(([title]) => title), ...compared().map((each) => DIFFERENCES.map(([, text]) => text(each)))]));
find("theme").addEventListener("change", () => theme(find("theme").value));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme(find("theme").value));
theme("auto");
draw();
pair();
drawCost();
if (board.curves.length) drawCurves();
else find("curves-section").hidden = true;
options("foretold-scale", [...new Set(board.foretold.map((f) => f.scale))]);
find("foretold-scale").addEventListener("change", drawForetold);
if (board.foretold.length) drawForetold();
else find("foretold-section").hidden = true;
const withPhotos = board.tables.map((table, i) => [table, i]).filter(([table]) => table.photos);
find("photos-table").replaceChildren(...withPhotos.map(([t, i]) => make("option", { value: i }, `${t.scale}: ${named(t)}`)));
find("photos-table").addEventListener("change", choosePhotos);
for (const id of ["photos-a", "photos-b", "photos-score"]) find(id).addEventListener("change", drawPhotos);
if (withPhotos.length) choosePhotos();
else find("photos-section").hidden = true;
