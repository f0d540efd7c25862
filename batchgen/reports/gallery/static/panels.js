"use strict";
// The filters, the full-size view and the comparison. Texts of prompts and labels are set as text, never as markup.

function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const $ = (id) => document.getElementById(id);
const AXIS_NAMES = { model: "Model", aspect_ratio: "Ratio", resolution: "Resolution", provider: "Provider" };
const axisName = (key) => AXIS_NAMES[key] ?? key.replace(/^(label|parameter)\./u, "");
const MARK_NAMES = ["no mark", "keep", "reject", "star"];
const MARK_SIGNS = ["", "✓", "✕", "★"];
const amount = (micros) => String(micros / 1e6) + (store.columns.unit ? ` ${store.columns.unit}` : "");
const when = (ms) => (ms === null ? "" : new Date(ms).toISOString().replace("T", " ").replace(/\.\d+Z$/u, " UTC"));

// --- filters ----------------------------------------------------------------------------------------------------

const MOST_BOXES = 30; // an axis of more values has a field in place of boxes

function noFilters() {
  return { sets: new Map(), texts: new Map(), marks: new Set(), ranges: [], id: "", search: "" };
}

function drawFilters(form) {
  const { columns } = store;
  const fields = [box("Mark", "mark", MARK_NAMES, store.mark)];
  columns.axes.forEach((axis, at) => {
    if (axis.values.length > MOST_BOXES) fields.push(text(axisName(axis.key), `text-${at}`));
    else if (axis.values.length > 1 || axis.rows.includes(-1)) {
      fields.push(box(axisName(axis.key), `axis-${at}`, axis.values, axis.rows));
    }
  });
  fields.splice(1, 0, text("Prompt id", "id"));
  for (const [name, values] of ranges()) fields.push(range(name === "cost" ? "Cost" : name, `range-${name}`, values));
  form.replaceChildren(...fields.filter(Boolean), el("button", { type: "reset" }, "Clear the filters"));

  function box(title, name, values, rows) {
    const counts = countsOf(rows, values.length);
    const boxes = values.map((value, at) => el("label", {},
      el("input", { type: "checkbox", name, value: at }), el("span", { dir: "auto" }, value || "(empty)"),
      el("small", {}, counts[at].toLocaleString("en"))));
    return el("fieldset", {}, el("legend", { dir: "auto" }, title), ...boxes);
  }
  function text(title, name) {
    return el("fieldset", {}, el("legend", { dir: "auto" }, title), el("input", { name, dir: "auto", "aria-label": `${title} contains`, placeholder: "contains" }));
  }
  function range(title, name, values) {
    const scale = name === "range-cost" ? 1e-6 : 1;
    let [low, high] = [Infinity, -Infinity];
    for (const value of values) if (value !== null) [low, high] = [Math.min(low, value), Math.max(high, value)];
    if (low >= high) return null;
    const field = (end, limit) => el("input", {
      type: "number", step: "any", name: `${name}-${end}`, "aria-label": `${title}: ${end}`, placeholder: `${+(limit * scale).toPrecision(6)}`,
    });
    return el("fieldset", { class: "range" }, el("legend", { dir: "auto" }, title), field("least", low), "–", field("most", high));
  }
}

function countsOf(rows, length) {
  const counts = new Array(length).fill(0);
  for (const at of rows) if (at >= 0) counts[at]++;
  return counts;
}

function showMarkCounts(form) {
  const counts = countsOf(store.mark, MARKS.length);
  form.querySelectorAll("[name=mark] ~ small").forEach((field, at) => (field.textContent = counts[at].toLocaleString("en")));
}

function ranges() { // what has numbers
  const { cost, scores } = store.columns;
  return [...(cost.some((each) => each !== null) ? [["cost", cost]] : []), ...Object.entries(scores)];
}

function readFilters(form, search) {
  const filters = noFilters();
  const data = new FormData(form);
  filters.search = search;
  filters.id = (data.get("id") ?? "").trim();
  filters.marks = new Set(data.getAll("mark").map(Number));
  store.columns.axes.forEach((axis, at) => {
    const wanted = data.getAll(`axis-${at}`).map(Number);
    if (wanted.length) filters.sets.set(axis, new Set(wanted));
    const text = (data.get(`text-${at}`) ?? "").trim();
    if (text) filters.texts.set(axis, text);
  });
  for (const [name, values] of ranges()) {
    const scale = name === "cost" ? 1e6 : 1;
    const [least, most] = ["least", "most"].map((end) => data.get(`range-${name}-${end}`));
    if (least || most) filters.ranges.push([values, least ? least * scale : -Infinity, most ? most * scale : Infinity]);
  }
  return filters;
}

// --- one image ----------------------------------------------------------------------------------------------------

function describe(row) {
  const prompt = store.knownPrompt(store.columns.prompt[row]);
  const parts = ["model", "aspect_ratio"].map((name) => store.value(store.axis(name), row));
  const mark = store.mark[row] ? [MARK_NAMES[store.mark[row]]] : [];
  return [prompt?.id ?? `image ${row + 1}`, ...parts, ...mark].join(", ");
}

function markButtons(row, onmark) {
  const buttons = [1, 2, 3, 0].map((mark) => el("button", {
    type: "button", "data-mark": MARKS[mark], "aria-pressed": String(store.mark[row] === mark),
    onclick: () => onmark(row, mark),
  }, mark ? `${MARK_SIGNS[mark]} ${MARK_NAMES[mark]}` : "clear", el("kbd", {}, String(mark))));
  return el("div", { class: "marks", role: "group", "aria-label": "Mark", "data-marks-of": row }, ...buttons);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not allowed to a page that was opened as a file, in some browsers
    const field = el("textarea", {});
    field.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
}

async function drawDetail(dialog, row, actions) {
  const { columns } = store;
  const [detail, prompt] = await Promise.all([store.detail(row), store.prompt(columns.prompt[row])]);
  const picture = el("img", { src: detail.link, alt: describe(row), width: detail.width || null, height: detail.height || null });
  picture.addEventListener("error", () => picture.replaceWith(el("p", { class: "unseen-image" }, "This browser cannot show the picture.")));
  const copied = el("button", { type: "button", class: "copy", onclick: async () => {
    await copy(prompt.text);
    copied.textContent = "Copied";
  } }, "Copy the prompt");
  const note = el("textarea", { id: "note", rows: 2, dir: "auto", placeholder: "Why?", onchange: () => actions.note(row, note.value) });
  note.value = store.note(row);
  const labels = columns.axes.filter((axis) => axis.key.startsWith("label.") && axis.rows[row] >= 0);
  const scores = Object.entries(columns.scores).filter(([, values]) => values[row] !== null);
  const pairs = [
    ["Prompt id", prompt.id],
    ...Object.keys(AXIS_NAMES).map((key) => [AXIS_NAMES[key], store.value(store.axis(key), row)]),
    ...Object.entries(detail.parameters).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]),
    ...labels.map((axis) => [axisName(axis.key), store.value(axis, row)]),
    ...scores.map(([name, values]) => [name, String(values[row])]),
    ["Cost", columns.cost[row] === null ? "" : amount(columns.cost[row])],
    ["Size", `${detail.width} × ${detail.height}, ${detail.bytes.toLocaleString("en")} bytes`],
    ["Warning", detail.warning],
    ["Task", detail.task], ["Attempts", String(detail.attempts)],
    ["Submitted", when(detail.submitted)], ["Finished", when(detail.finished)],
    ["Job", `${detail.job}, image ${detail.index}`], ["SHA-256", store.sha(row)],
  ].filter(([, value]) => value);
  const button = (name, label, sign, act) => el("button", { type: "button", class: name, "aria-label": label, title: label, onclick: act }, sign);
  dialog.replaceChildren(
    el("div", { class: "picture" }, picture,
      button("previous", "Previous image", "‹", () => actions.step(-1)), button("next", "Next image", "›", () => actions.step(1))),
    el("div", { class: "facts" },
      el("div", { class: "row" }, button("compare", "Compare", "Compare", () => actions.compare(row)),
        button("close", "Close", "Close", () => dialog.close())),
      markButtons(row, actions.mark),
      el("label", { for: "note" }, "Note"), note,
      el("div", { class: "row" }, el("h2", {}, "Prompt"), copied),
      el("pre", { dir: "auto", class: "prompt", tabindex: 0 }, prompt.text),
      el("dl", {}, ...pairs.map(([name, value]) => el("div", {}, el("dt", { dir: "auto" }, name), el("dd", { dir: "auto" }, value)))),
      el("p", {}, el("a", { href: detail.link, target: "_blank", rel: "noopener", dir: "auto" }, detail.file))),
  );
  return detail;
}

// --- comparison -----------------------------------------------------------------------------------------------------

const MOST_COMPARED = 24;

function siblings(row, axis) { // images that are as this one but for one axis; those of a label may have other prompts
  const { axes, prompt, count } = store.columns;
  const isLabel = axis.key.startsWith("label.");
  const same = axes.filter((each) => each !== axis && (isLabel || !each.key.startsWith("label.")));
  const found = [];
  for (let other = 0; other < count; other++) {
    if ((isLabel || prompt[other] === prompt[row]) && same.every((each) => each.rows[other] === each.rows[row])) found.push(other);
  }
  return found.sort((a, b) => axis.rows[a] - axis.rows[b] || a - b);
}

function comparable(row) { // axes along which there is something to compare
  return store.columns.axes
    .map((axis) => ({ axis, rows: siblings(row, axis) }))
    .filter(({ axis, rows }) => rows.some((other) => axis.rows[other] !== axis.rows[row]));
}

async function drawComparison(dialog, row, wanted, actions) {
  const found = comparable(row);
  const chosen = found.find(({ axis }) => axis.key === wanted) ?? found[0];
  const prompt = await store.prompt(store.columns.prompt[row]);
  const close = el("button", { type: "button", onclick: () => dialog.close() }, "Close");
  const text = el("p", { dir: "auto", class: "prompt" }, prompt.text);
  if (!chosen) {
    const none = "No other image of this prompt differs from it in the model, the ratio, the resolution, the provider or one label alone.";
    dialog.replaceChildren(el("div", { class: "row" }, el("h2", {}, "Nothing to compare"), close), text, el("p", {}, none));
    return [];
  }
  const options = found.map(({ axis }) => el("option", { value: axis.key, selected: axis === chosen.axis }, axisName(axis.key)));
  const choice = el("select", { "aria-label": "Compare by", onchange: () => actions.by(choice.value) }, ...options);
  const rows = chosen.rows.slice(0, MOST_COMPARED);
  const details = await Promise.all(rows.map((other) => store.detail(other)));
  const figures = rows.map((other, at) => el("figure", { "data-mark": MARKS[store.mark[other]], "data-row": other, tabindex: 0, "aria-label": describe(other) },
    el("img", { src: details[at].link, alt: "", decoding: "async", ondblclick: () => actions.open(other) }),
    el("figcaption", {}, el("strong", { dir: "auto" }, store.value(chosen.axis, other) ?? "–"), markButtons(other, actions.mark))));
  const more = chosen.rows.length > rows.length ? el("p", {}, `${chosen.rows.length - rows.length} more are not shown here.`) : null;
  dialog.replaceChildren(...[
    el("div", { class: "row" }, el("h2", {}, "Compare by "), choice, close), text, el("div", { class: "figures" }, ...figures), more,
  ].filter(Boolean));
  return rows;
}
