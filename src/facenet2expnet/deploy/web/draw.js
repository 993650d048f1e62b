/** Draw pictures with their faces, and probabilities over time. */

const EDGE = "rgb(16 16 16 / 85%)";
const ROW = 26;
const AXIS = 22;

export function percent(probability) {
  return `${Math.round(100 * probability)} %`;
}

/** The canvas's context, with the canvas as sharp as the screen; drawing is in CSS pixels. */
function prepare(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

/** Draw a picture as large as there is room, and a numbered box with a label for each face. */
export function drawStage(canvas, drawable, [width, height], faces) {
  const room = getComputedStyle(canvas.parentElement);
  const inside = canvas.parentElement.clientWidth - parseFloat(room.paddingLeft) - parseFloat(room.paddingRight);
  const scale = Math.min(inside / width, Math.max(240, 0.62 * window.innerHeight) / height, 4);
  const context = prepare(canvas, Math.round(width * scale), Math.round(height * scale));
  context.drawImage(drawable, 0, 0, width * scale, height * scale);
  const boxes = faces.map((face) => face.box.map((value) => value * scale));
  for (const [left, top, right, bottom] of boxes) {
    for (const [line, colour] of [[5, EDGE], [2, "#ffffff"]]) {
      context.lineWidth = line;
      context.strokeStyle = colour;
      context.strokeRect(left, top, right - left, bottom - top);
    }
  }
  const letters = Math.max(11, Math.min(16, (width * scale) / 28));
  const taken = [...boxes];
  faces.forEach((face, number) => {
    const full = `${number + 1} ${face.label} ${percent(Math.max(...face.probabilities))}`;
    const others = taken.filter((one) => one !== boxes[number]);
    taken.push(drawLabel(context, [full, `${number + 1}`], boxes[number], letters, [width * scale, height * scale], others));
  });
}

/** Write the first text that fits above its box, below, beside or inside, and covers no other box; returns its place. */
function drawLabel(context, texts, box, letters, [width, height], others) {
  const [left, top, right, bottom] = box;
  context.font = `600 ${letters}px system-ui, sans-serif`;
  const high = letters + 8;
  const places = texts.flatMap((text) => {
    const wide = context.measureText(text).width + 12;
    const within = (x) => Math.min(Math.max(x, 0), Math.max(0, width - wide));
    const corners = [[left, top - high - 4], [left, bottom + 4], [left - wide - 4, top], [right + 4, top], [left, top + 3]];
    return corners.map(([x, y]) => ({ text, at: [within(x), y, within(x) + wide, y + high] }));
  });
  const over = ([x0, y0, x1, y1], [l, t, r, b]) => x0 < r && l < x1 && y0 < b && t < y1;
  const inside = (y) => y === top + 3;
  const free = ({ at }) =>
    at[1] >= 0 && at[3] <= height && !others.some((one) => over(at, one)) && (inside(at[1]) || !over(at, box));
  const { text, at } = places.find(free) ?? places.at(-1);
  const [x, y, end] = at;
  context.fillStyle = EDGE;
  context.fillRect(x, y, end - x, high);
  context.fillStyle = "#ffffff";
  context.textAlign = "left";
  context.textBaseline = "middle";
  context.fillText(text, x + 6, y + high / 2 + 1);
  return at;
}

/** Draw the square around a face as a small picture. */
export function drawThumbnail(canvas, drawable, [left, top, right, bottom]) {
  const side = 1.25 * Math.max(right - left, bottom - top);
  const [x, y] = [(left + right - side) / 2, (top + bottom - side) / 2];
  canvas.getContext("2d").drawImage(drawable, x, y, side, side, 0, 0, canvas.width, canvas.height);
}

/**
 * Draw one row a class: the height of the area is the probability.
 *
 * @param points {time: number, probabilities: number[] | null}[], in order of time; null without a face
 * @param shown the time that is marked; null for none
 */
export function drawTimeline(canvas, classes, points, endTime, shown) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const width = canvas.parentElement.clientWidth - 2 * parseFloat(getComputedStyle(canvas.parentElement).paddingLeft);
  const height = ROW * classes.length + AXIS;
  const context = prepare(canvas, width, height);
  const from = labelWidth(context, classes);
  const first = points.length ? points[0].time : 0;
  const end = Math.max(endTime, first + 1e-3);
  const at = (time) => from + ((time - first) / (end - first)) * (width - from - 1);
  const step = points.length > 1 ? (points.at(-1).time - first) / (points.length - 1) : end - first;
  classes.forEach((name, row) => {
    const base = ROW * (row + 1);
    context.fillStyle = colour("text");
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.fillText(name, from - 10, base - ROW / 2 + 1);
    context.fillStyle = colour("track");
    context.fillRect(from, base - 1, width - from, 1);
    context.fillStyle = colour("accent");
    for (const { time, probabilities } of points) {
      if (!probabilities) continue;
      const high = (ROW - 5) * probabilities[row];
      context.fillRect(at(time), base - high, Math.max(1, Math.min(at(time + step), width) - at(time) + 0.5), high);
    }
  });
  context.fillStyle = colour("quiet");
  for (const [time, align] of [[first, "left"], [end, "right"]]) {
    context.textAlign = align;
    context.fillText(`${time.toFixed(1)} s`, at(time), height - AXIS / 2 + 2);
  }
  if (shown !== null) {
    context.fillStyle = colour("text");
    context.fillRect(at(shown), 0, 2, ROW * classes.length);
  }
  return (x) => first + ((x - from) / (width - from)) * (end - first); // the time at a place
}

function labelWidth(context, classes) {
  context.font = "13px system-ui, sans-serif";
  return Math.max(...classes.map((name) => context.measureText(name).width)) + 16;
}
