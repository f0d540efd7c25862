"use strict";
// The data of the page, and the marks. An image is known by its `row`, its position in the columns.

const MARKS = ["", "keep", "reject", "star"];

const store = (() => {
  const parts = new Map(); // data by the name of the part
  const loading = new Map(); // promises by the name of the part
  let changes = new Map(); // marks made here that the data does not have yet: by sha256, {mark, note, unsaved}
  let rowsBySha = null;
  let key = "";
  let rounds; // of thumbnails that the server has made

  const self = {
    columns: null,
    stamp: "",
    mark: new Uint8Array(0), // of each row: its position in MARKS
    served: false,
    onload: () => {},
    onchange: () => {},
    onnotice: () => {},

    load(stamp, columns) { // called by data/columns.js
      const before = self.columns?.sha256;
      for (const name of parts.keys()) if (self.columns.digests[name] !== columns.digests[name]) parts.delete(name);
      loading.clear();
      Object.assign(self, { stamp, columns, mark: Uint8Array.from(columns.mark) });
      rowsBySha = null;
      if (key !== columns.output) changes = remembered((key = columns.output));
      for (const [sha, change] of changes) apply(sha, change);
      remember();
      self.onload((row) => before && rowsOf(before.slice(64 * row, 64 * row + 64))[0]); // where an image is now
    },

    part(name, digest, data) { // called by data/images-0001.js and the like
      if (digest === self.columns.digests[name]) parts.set(name, data);
    },

    sha: (row) => self.columns.sha256.slice(64 * row, 64 * row + 64),
    thumbnail: (row) => `thumbs/${self.sha(row).slice(0, 2)}/${self.sha(row)}.webp`,
    value: (axis, row) => axis.values[axis.rows[row]],
    axis: (name) => self.columns.axes.find((each) => each.key === name),

    async detail(row) {
      const data = await need("images", row);
      const found = {};
      for (const name in data) found[name] = data[name][row % self.columns.part];
      found.link = "../" + found.file.split("/").map(encodeURIComponent).join("/");
      return found;
    },

    async prompt(number) {
      await need("prompts", number);
      return self.knownPrompt(number);
    },

    knownPrompt(number) { // null: it is not loaded yet
      const data = parts.get(partName("prompts", number));
      const at = number % self.columns.part;
      return data ? { id: data.id[at], text: data.text[at] } : null;
    },

    async allPrompts() {
      const wanted = [];
      for (let at = 0; at < self.columns.prompts; at += self.columns.part) wanted.push(need("prompts", at));
      await Promise.all(wanted);
    },

    note(row) {
      return changes.get(self.sha(row))?.note ?? self.columns.notes[row] ?? "";
    },

    unsaved: () => [...changes.values()].filter((change) => change.unsaved).length,

    async change(row, mark, note = null) { // note null: as it was
      const sha = self.sha(row);
      const change = { mark, note: note ?? changes.get(sha)?.note ?? null, unsaved: !self.served };
      changes.set(sha, change);
      for (const same of rowsOf(sha)) self.mark[same] = mark;
      remember();
      self.onchange(rowsOf(sha));
      if (self.served) await send([{ sha256: sha, mark: MARKS[mark], note }], [change]);
    },

    async csv() {
      const lines = [["sha256", "file_name", "mark", "note"]];
      for (const [sha, change] of changes) {
        const row = rowsOf(sha)[0];
        if (change.unsaved && row !== undefined) {
          lines.push([sha, (await self.detail(row)).file, MARKS[change.mark], self.note(row)]);
        }
      }
      return lines.map((cells) => cells.map((cell) => `"${cell.replaceAll('"', '""')}"`).join(",") + "\r\n").join("");
    },

    async follow() { // the server: it takes marks, and says when there is something new
      if (!location.protocol.startsWith("http")) return;
      for (;;) {
        let pause = 2000;
        try {
          const answer = await fetch("../api/state", { cache: "no-store" });
          if (answer.status === 404 && !self.served) return; // any other web server
          const state = await answer.json();
          self.served = true;
          self.onnotice(state.running ? "A run is going: new images appear here." : "", true);
          rounds ??= state.rounds;
          // not under a dialog: what it shows would be another image
          if ((state.stamp !== self.stamp || state.rounds !== rounds) && !document.querySelector("dialog[open]")) {
            rounds = state.rounds; // there may be more thumbnails
            await script("columns", state.stamp);
          }
        } catch {
          pause = 5000;
          self.onnotice("The server does not answer. Marks are kept in this browser until it does.");
        }
        await new Promise((resolve) => setTimeout(resolve, pause));
      }
    },
  };

  function partName(kind, number) {
    return `${kind}-${String(Math.floor(number / self.columns.part) + 1).padStart(4, "0")}`;
  }

  async function need(kind, number) {
    const name = partName(kind, number);
    if (!parts.has(name)) {
      if (!loading.has(name)) loading.set(name, script(name, self.columns.digests[name]));
      await loading.get(name);
    }
    if (!parts.has(name)) {
      loading.delete(name);
      self.onnotice("The gallery was written again: reload this page.");
      throw new Error(`data/${name}.js is of another time`);
    }
    return parts.get(name);
  }

  function script(name, version) {
    return new Promise((resolve) => {
      const tag = document.createElement("script");
      tag.src = `data/${name}.js` + (self.served ? `?${version}` : "");
      tag.onload = tag.onerror = () => resolve(tag.remove());
      document.head.append(tag);
    });
  }

  function rowsOf(sha) { // equal files may be several images
    if (!rowsBySha) {
      rowsBySha = new Map();
      for (let row = 0; row < self.columns.count; row++) {
        const each = self.sha(row);
        if (rowsBySha.has(each)) rowsBySha.get(each).push(row);
        else rowsBySha.set(each, [row]);
      }
    }
    return rowsBySha.get(sha) ?? [];
  }

  function apply(sha, change) {
    const rows = rowsOf(sha);
    const first = rows[0];
    const isKnown = (row) => self.mark[row] === change.mark && [null, self.columns.notes[row] ?? ""].includes(change.note);
    if (rows.length && isKnown(first)) changes.delete(sha);
    else for (const row of rows) self.mark[row] = change.mark;
  }

  async function send(marks, sent) {
    try {
      const answer = await fetch("../api/marks", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(marks),
      });
      if (!answer.ok) throw new Error(await answer.text());
      for (const change of sent) change.unsaved = false;
    } catch (error) {
      for (const change of sent) change.unsaved = true;
      self.onnotice(`The mark is kept in this browser alone: ${error.message}`);
    }
    remember();
    self.onchange([]);
  }

  function remembered(output) {
    try {
      return new Map(JSON.parse(localStorage.getItem(`batchgen:${output}`) ?? "[]"));
    } catch {
      return new Map();
    }
  }

  function remember() {
    const kept = [...changes].filter(([, change]) => change.unsaved);
    try {
      if (kept.length) localStorage.setItem(`batchgen:${key}`, JSON.stringify(kept));
      else localStorage.removeItem(`batchgen:${key}`);
    } catch {
      if (kept.length) self.onnotice("This browser keeps no data of this page: save marks.csv before you close it.");
    }
  }

  return self;
})();
