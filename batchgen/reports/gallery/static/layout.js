"use strict";
// Which images are shown, in which order, and where each is. Only the lines that are seen have elements.

const GAP = 10, CAPTION = 22, HEAD = 46, MAX_HEIGHT = 12e6; // pixels; browsers draw nothing beyond some 17 million
const folded = (text) => text.normalize("NFKC").toLowerCase();

// filters: {sets: Map(axis -> Set(position)), texts: Map(axis -> text), marks: Set, ranges: [[values, min, max]],
//           id: text, search: text}
async function select(filters, order) {
  const { columns } = store;
  const tests = [];
  for (const [axis, wanted] of filters.sets) tests.push((row) => wanted.has(axis.rows[row]));
  for (const [axis, text] of filters.texts) {
    const fits = axis.values.map((value) => folded(value).includes(folded(text)));
    tests.push((row) => fits[axis.rows[row]]);
  }
  if (filters.marks.size) tests.push((row) => filters.marks.has(store.mark[row]));
  for (const [values, min, max] of filters.ranges) {
    tests.push((row) => values[row] !== null && values[row] >= min && values[row] <= max);
  }
  const words = folded(filters.search).split(/\s+/u).filter(Boolean);
  if (words.length || filters.id || order.startsWith("id")) await store.allPrompts();
  if (filters.id) {
    const id = folded(filters.id);
    const fits = everyPrompt((prompt) => folded(prompt.id).includes(id));
    tests.push((row) => fits[columns.prompt[row]]);
  }
  for (const word of words) tests.push(hasWord(word));
  const rows = [];
  for (let row = 0; row < columns.count; row++) if (tests.every((test) => test(row))) rows.push(row);
  return sorted(rows, order);
}

function everyPrompt(of) {
  return Array.from({ length: store.columns.prompts }, (_, number) => of(store.knownPrompt(number)));
}

function hasWord(word) {
  const { columns } = store;
  const fits = everyPrompt(({ id, text }) => folded(id).includes(word) || folded(text).includes(word));
  const labels = columns.axes.filter((axis) => axis.key.startsWith("label."))
    .map((axis) => [axis, axis.values.map((value) => folded(value).includes(word))]);
  return (row) => fits[columns.prompt[row]] || labels.some(([axis, fit]) => fit[axis.rows[row]]);
}

function sorted(rows, order) {
  const { columns } = store;
  const [name, direction] = [order.slice(0, -1), order.endsWith("-") ? -1 : 1];
  let values;
  if (name === "cost" || name === "time") values = columns[name];
  else if (name === "mark") values = Array.from(store.mark, (mark) => [2, 1, 3, 0][mark]);
  else if (name.startsWith("score.")) values = columns.scores[name.slice(6)];
  else if (name === "id") {
    const ids = everyPrompt((prompt) => prompt.id);
    const rank = new Map([...new Set(ids)].sort().map((id, at) => [id, at]));
    values = columns.prompt.map((number) => rank.get(ids[number]));
  } else return rows;
  const last = (row) => values[row] === null;
  return rows.sort((a, b) => last(a) - last(b) || direction * (values[a] - values[b]) || a - b);
}

// --- lines: {y, height, items()}, where items are {row, x, y, width, height} ----------------------------------

function aspects() {
  const axis = store.axis("aspect_ratio");
  const each = axis.values.map((ratio) => {
    const [width, height] = ratio.split(":").map(Number);
    return width > 0 && height > 0 ? Math.min(3, Math.max(1 / 3, width / height)) : 1;
  });
  return (row) => each[axis.rows[row]];
}

function wall(rows, width) { // lines of about equal height that fill the width
  const aspect = aspects();
  const target = width < 600 ? 130 : 190;
  const [lines, lineOf] = [[], new Map()];
  let from = 0, sum = 0, y = GAP;
  const end = (to, tall) => {
    const first = from, top = y;
    const items = () => {
      let x = GAP;
      return rows.slice(first, to).map((row) => {
        const item = { row, x, y: top, width: tall * aspect(row), height: tall };
        x += item.width + GAP;
        return item;
      });
    };
    lines.push({ y, height: tall + CAPTION + GAP, items });
    y += tall + CAPTION + GAP;
    [from, sum] = [to, 0];
  };
  for (let at = 0; at < rows.length; at++) {
    sum += aspect(rows[at]);
    lineOf.set(rows[at], lines.length);
    const tall = (width - GAP * (at - from + 2)) / sum;
    if (tall <= target) end(at + 1, tall);
  }
  if (from < rows.length) end(rows.length, Math.min(target, (width - GAP * (rows.length - from + 1)) / sum));
  return { lines, lineOf, height: y, width, heads: [] };
}

function grid(rows, width) { // a line for each prompt, a column for each (model, ratio)
  const { columns } = store;
  const [models, ratios] = [store.axis("model"), store.axis("aspect_ratio")];
  const combination = (row) => models.rows[row] * ratios.values.length + ratios.rows[row];
  const seen = [...new Set(rows.map(combination))].sort((a, b) => a - b);
  const column = new Map(seen.map((each, at) => [each, at]));
  const cell = Math.floor(Math.min(300, Math.max(width < 600 ? 110 : 150, (width - GAP) / Math.max(1, seen.length) - GAP)));
  const byPrompt = new Map();
  for (const row of rows) {
    const number = columns.prompt[row];
    if (!byPrompt.has(number)) byPrompt.set(number, seen.map(() => []));
    byPrompt.get(number)[column.get(combination(row))].push(row);
  }
  const aspect = aspects();
  const tall = (row) => cell / Math.max(0.6, aspect(row)); // narrow images are made smaller
  const [lines, lineOf] = [[], new Map()];
  let y = 0;
  for (const [prompt, cells] of byPrompt) {
    const top = y;
    const items = () => cells.flatMap((stack, at) => {
      let under = top + HEAD;
      return stack.map((row) => {
        const item = { row, x: GAP + at * (cell + GAP), y: under, width: cell, height: tall(row) };
        under += item.height + GAP;
        return item;
      });
    });
    const height = HEAD + Math.max(...cells.map((stack) => stack.reduce((sum, row) => sum + tall(row) + GAP, 0))) + GAP;
    for (const row of cells.flat()) lineOf.set(row, lines.length);
    lines.push({ y, height, prompt, items });
    y += height;
  }
  const heads = seen.map((each, at) => ({
    model: models.values[Math.floor(each / ratios.values.length)], ratio: ratios.values[each % ratios.values.length],
    x: GAP + at * (cell + GAP), width: cell,
  }));
  return { lines, lineOf, height: y, width: GAP + seen.length * (cell + GAP), heads };
}

function lineAt({ lines }, y) { // the last line that begins at or above y
  let [low, high] = [0, lines.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (lines[middle].y <= y) low = middle;
    else high = middle - 1;
  }
  return low;
}

class Scroller {
  // `draw` makes the element of a line; its top is the line's. While `isFast`, its images have `data-src` for `src`.
  constructor(view, sheet, draw) {
    Object.assign(this, { view, sheet, draw, drawn: new Map(), layout: { lines: [], height: 0, width: 0 }, asked: false, top: 0 });
    view.addEventListener("scroll", () => this.update(), { passive: true });
  }

  show(layout) {
    this.layout = layout;
    this.clear();
    this.sheet.style.height = `${Math.min(layout.height, MAX_HEIGHT)}px`;
    this.sheet.style.width = `${layout.width}px`;
    this.render();
  }

  clear() {
    for (const element of this.drawn.values()) element.remove();
    this.drawn.clear();
  }

  update() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.render();
    });
  }

  room() { // the heads stay above the sheet
    return this.view.clientHeight - this.sheet.offsetTop;
  }

  factor() { // pixels of the layout for one of the scroll bar
    const room = this.room();
    return this.layout.height > MAX_HEIGHT ? (this.layout.height - room) / (MAX_HEIGHT - room) : 1;
  }

  render() {
    const { lines } = this.layout;
    const { scrollTop, clientHeight } = this.view;
    const top = scrollTop * this.factor();
    this.isFast = Math.abs(top - this.top) > clientHeight / 2; // pictures would be loaded for a single frame
    this.top = top;
    if (this.isFast) {
      clearTimeout(this.settled);
      this.settled = setTimeout(() => {
        for (const picture of this.sheet.querySelectorAll("[data-src]")) {
          picture.src = picture.dataset.src;
          delete picture.dataset.src;
        }
      }, 80);
    }
    const first = lines.length ? lineAt(this.layout, top - clientHeight / 2) : 0;
    for (const [at, element] of this.drawn) {
      if (at < first || lines[at].y > top + 1.5 * clientHeight) {
        element.remove();
        this.drawn.delete(at);
      }
    }
    for (let at = first; at < lines.length && lines[at].y <= top + 1.5 * clientHeight; at++) {
      if (!this.drawn.has(at)) {
        this.drawn.set(at, this.draw(lines[at]));
        this.sheet.append(this.drawn.get(at));
      }
      const y = lines[at].y - top + scrollTop;
      const element = this.drawn.get(at);
      if (element.shownAt !== y) element.style.transform = `translateY(${(element.shownAt = y)}px)`;
    }
  }

  reveal(y, height, x, width) {
    const factor = this.factor();
    const top = this.view.scrollTop * factor;
    const room = this.room();
    if (y < top + HEAD) this.view.scrollTop = (y - HEAD - GAP) / factor;
    else if (y + height + CAPTION > top + room) this.view.scrollTop = (y + height + CAPTION + GAP - room) / factor;
    const { scrollLeft, clientWidth } = this.view;
    if (x < scrollLeft) this.view.scrollLeft = x - GAP;
    else if (x + width > scrollLeft + clientWidth) this.view.scrollLeft = x + width + GAP - clientWidth;
    this.render();
  }
}
