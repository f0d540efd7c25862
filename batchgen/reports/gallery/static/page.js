"use strict";
// The page itself: cells, the tool bar, keys, dialogs.

(() => {
  const [view, sheet, form, search, order] = ["view", "sheet", "filters", "search", "order"].map($);
  const [detail, compare, help] = ["detail", "compare", "help"].map($);
  let rows = []; // what is shown, in order
  let places = new Map(); // of each of these rows: its position in `rows`
  let kind = "grid";
  let layout = { lines: [], lineOf: new Map() };
  let current = -1; // the row with the focus
  let compared = { of: -1, by: "", rows: [] };
  let lastOpen = -1; // of the latest dialog
  let selecting = 0;

  const scroller = new Scroller(view, sheet, drawLine);

  // --- cells -----------------------------------------------------------------------------------------------------

  function drawLine(line) {
    const element = el("section", { class: "line" });
    if (line.prompt !== undefined) {
      const id = el("b", { dir: "auto" });
      const text = el("span", { dir: "auto" });
      const fill = (prompt) => {
        id.textContent = prompt.id;
        text.textContent = text.title = prompt.text;
        element.setAttribute("aria-label", prompt.id);
      };
      element.append(el("div", { class: "prompt-head" }, id, text));
      const known = store.knownPrompt(line.prompt);
      if (known) fill(known);
      else store.prompt(line.prompt).then(fill, () => {});
    }
    element.append(...line.items().map((item) => drawCell(item, line)));
    return element;
  }

  function drawCell(item, line) {
    const cell = el("button", { type: "button", class: "cell", "data-row": item.row, tabindex: item.row === current ? 0 : -1 },
      el("img", { [scroller.isFast ? "data-src" : "src"]: store.thumbnail(item.row), alt: "", decoding: "async", draggable: "false" }),
      el("i", { "aria-hidden": "true" }));
    if (kind === "wall") cell.append(el("span", { "aria-hidden": "true" }, ["model", "aspect_ratio"].map((name) => store.value(store.axis(name), item.row)).join(" · ")));
    Object.assign(cell.style, { left: `${item.x}px`, top: `${item.y - line.y}px`, width: `${item.width}px`, height: `${item.height}px` });
    showMark(cell, item.row);
    if (!store.knownPrompt(store.columns.prompt[item.row])) {
      store.prompt(store.columns.prompt[item.row]).then(() => cell.setAttribute("aria-label", describe(item.row)), () => {});
    }
    return cell;
  }

  function showMark(element, row) {
    element.dataset.mark = MARKS[store.mark[row]];
    const sign = element.querySelector(":scope > i");
    if (sign) sign.textContent = MARK_SIGNS[store.mark[row]];
    element.setAttribute("aria-label", describe(row));
  }

  store.onchange = (changed) => {
    for (const row of changed) {
      for (const element of document.querySelectorAll(`[data-row="${row}"]`)) showMark(element, row);
      for (const button of document.querySelectorAll(`[data-marks-of="${row}"] [data-mark]`)) {
        button.setAttribute("aria-pressed", String(MARKS[store.mark[row]] === button.dataset.mark));
      }
    }
    showMarkCounts(form);
    const unsaved = store.unsaved();
    $("save").hidden = !unsaved;
    $("save").textContent = `Save marks.csv (${unsaved})`;
  };

  // --- what is shown ------------------------------------------------------------------------------------------------

  async function reselect({ keepPlace = false } = {}) {
    const turn = ++selecting;
    const found = await select(readFilters(form, search.value), order.value);
    if (turn !== selecting) return;
    rows = found;
    places = new Map(rows.map((row, at) => [row, at]));
    if (!places.has(current)) current = rows[0] ?? -1;
    const { count } = store.columns;
    const total = `${count.toLocaleString("en")} ${count === 1 ? "image" : "images"}`;
    $("count").textContent = rows.length === count ? total : `${rows.length.toLocaleString("en")} of ${total}`;
    $("empty").hidden = rows.length > 0;
    $("empty-text").textContent = count ? "No image matches." : "There is no image here yet.";
    $("reset-empty").hidden = !count;
    if (!keepPlace) view.scrollTop = 0;
    relayout();
  }

  function relayout() {
    const width = view.clientWidth;
    layout = kind === "wall" ? wall(rows, width) : grid(rows, width);
    $("heads").replaceChildren(...layout.heads.map((head) => {
      const element = el("div", {}, el("b", { dir: "auto" }, head.model), el("span", {}, head.ratio));
      Object.assign(element.style, { left: `${head.x}px`, width: `${head.width}px` });
      return element;
    }));
    $("heads").hidden = !layout.heads.length;
    $("heads").style.width = `${layout.width}px`;
    scroller.show(layout);
  }

  function choose(next) {
    kind = next;
    $("as-grid").setAttribute("aria-pressed", String(kind === "grid"));
    $("as-wall").setAttribute("aria-pressed", String(kind === "wall"));
    relayout();
    if (current >= 0) focus(current);
  }

  function orders() {
    const entries = [["order+", "Manifest order"], ["time-", "Newest first"], ["time+", "Oldest first"], ["mark+", "By mark"], ["id+", "By prompt id"]];
    for (const [name] of ranges()) {
      const key = name === "cost" ? name : `score.${name}`;
      entries.push([`${key}-`, `${name}, highest first`], [`${key}+`, `${name}, lowest first`]);
    }
    const chosen = order.value;
    order.replaceChildren(...entries.map(([value, text]) => el("option", { value }, text)));
    if (entries.some(([value]) => value === chosen)) order.value = chosen;
  }

  // --- moving and marking -----------------------------------------------------------------------------------------

  function placeOf(row) { // its line and its item
    const at = layout.lineOf.get(row);
    return [at, layout.lines[at]?.items().find((item) => item.row === row)];
  }

  function focus(row, { quiet = false } = {}) {
    const before = sheet.querySelector(`.cell[data-row="${current}"]`);
    if (before) before.tabIndex = -1;
    current = row;
    const [, item] = placeOf(row);
    if (!item) return;
    scroller.reveal(item.y, item.height, item.x, item.width);
    const cell = sheet.querySelector(`.cell[data-row="${row}"]`);
    if (!cell) return;
    cell.tabIndex = 0;
    if (!quiet) cell.focus({ preventScroll: true });
  }

  function neighbour(direction) { // of the current image: on its line, or the nearest on the next line
    const [at, item] = placeOf(current);
    if (!item) return rows[0];
    const inLine = layout.lines[at].items();
    const centre = (each) => each.x + each.width / 2;
    if (direction === "left" || direction === "right") {
      const to = inLine.indexOf(inLine.find((each) => each.row === item.row)) + (direction === "right" ? 1 : -1);
      if (inLine[to]) return inLine[to].row;
      const near = layout.lines[at + (direction === "right" ? 1 : -1)]?.items();
      return near ? near.at(direction === "right" ? 0 : -1).row : current;
    }
    const down = direction === "down";
    const stacked = inLine.filter((each) => centre(each) === centre(item) && (down ? each.y > item.y : each.y < item.y));
    if (kind === "grid" && stacked.length) return stacked.at(down ? 0 : -1).row;
    const near = layout.lines[at + (down ? 1 : -1)]?.items();
    if (!near) return current;
    const distance = (each) => Math.abs(centre(each) - centre(item));
    const closest = Math.min(...near.map(distance));
    return near.filter((each) => distance(each) === closest).at(down ? 0 : -1).row;
  }

  function step(by) { // in the order of reading, which in a grid is that of its lines
    const inGrid = kind === "grid" ? neighbour(by > 0 ? "right" : "left") : rows[(places.get(current) ?? 0) + by];
    return inGrid ?? current;
  }

  function mark(row, number) {
    store.change(row, number);
    say(`${describe(row)}${number ? "" : ", no mark"}`);
  }

  function say(text) {
    $("say").textContent = text;
  }

  // --- dialogs --------------------------------------------------------------------------------------------------------

  const actions = {
    mark,
    note: (row, text) => store.change(row, store.mark[row], text),
    step: (by) => open(step(by)),
    compare: (row) => openComparison(row),
    by: (key) => openComparison(compared.of, key),
    open: (row) => open(row),
  };

  async function open(row) {
    if (!(row >= 0)) return;
    if (!(await drawDetail(detail, row, actions).catch(() => null))) return; // a notice says why
    if (compare.open) compare.close();
    if (!detail.open) detail.showModal();
    detail.focus();
    watched(row);
  }

  async function openComparison(row, by = compared.by) {
    if (!(row >= 0)) return;
    compared = { of: row, by, rows: await drawComparison(compare, row, by, actions) };
    if (detail.open) detail.close();
    if (!compare.open) compare.showModal();
    (compare.querySelector(`figure[data-row="${row}"]`) ?? compare).focus();
    watched(row);
  }

  function watched(row) { // it has the focus when the dialog is closed; the browser would give it back to an earlier one
    focus(row, { quiet: true });
    lastOpen = row;
  }

  for (const dialog of [detail, compare]) {
    dialog.addEventListener("close", () => {
      if (!detail.open && !compare.open) focus(lastOpen);
    });
  }

  function notice(text, quiet = false) {
    $("notice").hidden = !text;
    $("notice").classList.toggle("quiet", quiet);
    if ($("notice").textContent !== text) $("notice").textContent = text;
  }

  // --- keys -------------------------------------------------------------------------------------------------------------

  const MOVES = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };

  function onkey(event) {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (target.closest?.("input, select, textarea")) {
      if (key === "Escape" && target === search) {
        search.value = "";
        reselect();
        view.focus();
      } else if (key === "Enter" && target === search && current >= 0) focus(current);
      return;
    }
    if (help.open) return;
    const focused = compare.open ? Number(document.activeElement?.closest("figure")?.dataset.row ?? compared.rows[0] ?? -1) : current;
    const act = action(key, focused);
    if (!act) return;
    event.preventDefault();
    act();
  }

  function action(key, focused) {
    const by = key === "j" ? 1 : key === "k" ? -1 : 0;
    if (/^[0-3]$/u.test(key)) return focused >= 0 ? () => mark(focused, Number(key)) : null;
    if (compare.open) {
      const way = by || { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[key];
      const to = compared.rows[compared.rows.indexOf(focused) + way];
      if (way) return () => compare.querySelector(`figure[data-row="${to}"]`)?.focus();
      return key === "Enter" && document.activeElement?.matches("figure") ? () => open(focused) : null;
    }
    const move = detail.open ? open : focus;
    if (key === "c") return () => openComparison(current);
    if (by) return () => move(step(by));
    if (key in MOVES && (!detail.open || !document.activeElement?.matches("pre"))) return () => move(neighbour(MOVES[key]));
    if (detail.open) return null;
    if (key === "/") return () => search.focus();
    if (key === "?") return () => help.showModal();
    return key === "Enter" && !document.activeElement?.matches("button, a") ? () => open(current) : null;
  }

  // --- beginnings -----------------------------------------------------------------------------------------------------

  store.onnotice = notice;
  store.onload = (moved) => {
    const { name } = store.columns;
    const field = form.contains(document.activeElement) && document.activeElement.name;
    const hasFocus = sheet.contains(document.activeElement);
    current = moved(current) ?? -1;
    document.title = `${name} – gallery`;
    $("title").textContent = name;
    const kept = new FormData(form);
    drawFilters(form);
    for (const [field, value] of kept) {
      for (const input of form.elements) {
        if (input.name === field && (input.type !== "checkbox" || input.value === value)) {
          if (input.type === "checkbox") input.checked = true;
          else input.value = value;
        }
      }
    }
    orders();
    store.onchange([]);
    if (field) form.elements[field]?.focus();
    reselect({ keepPlace: true }).then(() => hasFocus && sheet.querySelector(`.cell[data-row="${current}"]`)?.focus({ preventScroll: true }));
  };

  let typing;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(reselect, 120);
  });
  form.addEventListener("input", () => reselect());
  form.addEventListener("reset", () => setTimeout(() => {
    search.value = "";
    reselect();
  }));
  form.addEventListener("submit", (event) => event.preventDefault());
  order.addEventListener("change", () => reselect());
  $("reset-empty").addEventListener("click", () => form.reset());
  $("as-grid").addEventListener("click", () => choose("grid"));
  $("as-wall").addEventListener("click", () => choose("wall"));
  $("help-button").addEventListener("click", () => help.showModal());
  help.addEventListener("beforetoggle", () => {
    $("help-marks").textContent = store.served
      ? "Marks are stored in the output at once."
      : "Marks are kept in this browser. Save them as marks.csv, then: batchgen review MANIFEST --from marks.csv";
  });
  $("filter-button").addEventListener("click", () => {
    const shown = document.body.classList.toggle("with-filters");
    $("filter-button").setAttribute("aria-expanded", String(shown));
    relayout();
  });
  $("save").addEventListener("click", async () => {
    const link = el("a", { download: "marks.csv", href: URL.createObjectURL(new Blob([await store.csv()], { type: "text/csv" })) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
  sheet.addEventListener("error", ({ target }) => { // no thumbnail: the picture cannot be opened
    target.closest(".cell")?.classList.add("blank");
    target.remove();
  }, true);
  sheet.addEventListener("click", (event) => {
    const cell = event.target.closest(".cell");
    if (cell) open(Number(cell.dataset.row));
  });
  sheet.addEventListener("focusin", (event) => {
    const cell = event.target.closest(".cell");
    if (cell) current = Number(cell.dataset.row);
  });
  document.addEventListener("keydown", onkey);
  let known = view.clientWidth;
  new ResizeObserver(() => {
    if (store.columns && view.clientWidth !== known) {
      known = view.clientWidth;
      relayout();
    } else scroller.update();
  }).observe(view);
  document.addEventListener("DOMContentLoaded", () => {
    if (!store.columns) notice("The data of this page is missing: write the gallery again with batchgen gallery.");
    store.follow();
  });
})();
