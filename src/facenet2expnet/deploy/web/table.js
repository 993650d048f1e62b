/** The table of all faces, with the columns that `fn2en predict` writes. */

const PLACE = ["source", "frame", "time_s", "track", "x", "y", "width", "height", "detection_score"];
const SHOWN = 200;
const MOST = 100_000;

export class Table {
  /** @param element the <table>, with a caption */
  constructor(element, classes) {
    this.element = element;
    this.columns = [...PLACE, "label", "probability", ...classes.map((name) => `p_${name}`), "crop", "note"];
    this.visible = ["source", "time_s", "label", "probability", ...classes.map((name) => `p_${name}`), "note"];
    const head = element.tHead.insertRow();
    for (const name of this.visible) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = name.replace(/^p_/, "").replace("time_s", "time, s");
      cell.classList.toggle("left", name === "label" || name === "note");
      head.append(cell);
    }
    this.clear();
  }

  clear() {
    this.rows = [];
    this.element.tBodies[0].replaceChildren();
    this.#count();
  }

  /** Add a row a face, or one with a note if there is none. */
  add({ source, number, time, faces, note }) {
    const place = [source, number, round(time, 3), ""];
    const found = faces.map(({ box: [left, top, right, bottom], score, label, probabilities }) => [
      ...place,
      ...[left, top, right - left, bottom - top].map((value) => round(value, 2)),
      score === null ? "" : round(score, 6),
      label,
      ...[Math.max(...probabilities), ...probabilities].map((value) => round(value, 6)),
      "detected",
      "",
    ]);
    if (!found.length) found.push([...place, ...Array(this.columns.length - 5).fill(""), note]);
    this.rows.push(...found);
    if (this.rows.length > MOST) this.rows.splice(0, this.rows.length - MOST);
    const body = this.element.tBodies[0];
    for (const values of found) {
      const row = body.insertRow(0);
      for (const name of this.visible) {
        const value = values[this.columns.indexOf(name)];
        const cell = row.insertCell();
        cell.textContent = typeof value === "number" && name.startsWith("p") ? value.toFixed(3) : value;
        cell.classList.toggle("left", name === "label" || name === "note");
      }
    }
    while (body.rows.length > SHOWN) body.deleteRow(-1);
    this.#count();
  }

  csv() {
    const quoted = (value) => (/[",\n\r]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
    return [this.columns, ...this.rows].map((row) => row.map(quoted).join(",") + "\r\n").join("");
  }

  #count() {
    const count = this.rows.length;
    const part = count > SHOWN ? `, the last ${SHOWN} shown` : "";
    this.element.caption.textContent = `${count.toLocaleString("en")} ${count === 1 ? "row" : "rows"}, newest first${part}`;
  }
}

function round(value, digits) {
  return Number(value.toFixed(digits));
}
