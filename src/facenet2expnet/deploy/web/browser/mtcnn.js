/**
 * MTCNN, as in facenet2expnet/faces/mtcnn.py: a cascade of three small networks that finds faces with five landmarks.
 *
 * Boxes are [left, top, right, bottom] in pixels.
 */

import { rectangle, resizeArea, round } from "./resample.js";

const GREY = 127; // what lies outside the picture

export class Mtcnn {
  /**
   * @param nets {proposal, refinement, output}, sessions of ONNX Runtime
   * @param numbers {min_face_px, pyramid_step, thresholds}
   */
  constructor(ort, nets, numbers) {
    Object.assign(this, { ort, nets, numbers });
  }

  /** Find faces of `smallest` pixels or more: [{box, score, points: [[x, y], ...]}], the best first. */
  async detect(picture, smallest) {
    const { thresholds } = this.numbers;
    let boxes = await this.#propose(picture, smallest);
    if (!boxes.length) return [];
    const refined = await this.#run(this.nets.refinement, patches(picture, boxes, 24), boxes.length, 24, 24);
    boxes = boxes.map((box, n) => moved(box, refined.dense_2.data, n));
    const kept = suppress(boxes, faceScores(refined.softmax_1), 0.7, { threshold: thresholds[1] });
    boxes = kept.map((n) => square(boxes[n]));
    if (!boxes.length) return [];
    const output = await this.#run(this.nets.output, patches(picture, boxes, 48), boxes.length, 48, 48);
    const scores = faceScores(output.softmax_2);
    const points = boxes.map((box, n) => landmarks(box, output.dense_6.data.subarray(n * 10, n * 10 + 10)));
    boxes = boxes.map((box, n) => moved(box, output.dense_5.data, n));
    const found = suppress(boxes, scores, 0.7, { threshold: thresholds[2], ofSmaller: true });
    return found.map((n) => ({ box: boxes[n], score: scores[n], points: points[n] }));
  }

  /** Square candidates: P-Net sees 12 x 12 windows, every 2 pixels, over an image pyramid. */
  async #propose(picture, smallest) {
    const { min_face_px, pyramid_step, thresholds } = this.numbers;
    const shorter = Math.min(picture.width, picture.height);
    const boxes = [];
    const scores = [];
    for (let scale = 12 / Math.max(min_face_px, smallest); shorter * scale >= 12; scale *= pyramid_step) {
      const level = resizeArea(picture, round(picture.width * scale), round(picture.height * scale));
      const input = new Float32Array(level.data.length);
      fill(input, 0, level);
      const { conv2d_4: offsets, softmax } = await this.#run(this.nets.proposal, input, 1, level.width, level.height);
      const rows = softmax.dims[2];
      const found = faceScores(softmax);
      const own = [];
      const ownScores = [];
      for (let n = 0; n < found.length; n++) {
        if (found[n] <= thresholds[0]) continue;
        const [x, y] = [2 * Math.floor(n / rows), 2 * (n % rows)]; // columns come before rows
        own.push(moved([x, y, x + 12, y + 12], offsets.data, n).map((value) => value / scale));
        ownScores.push(found[n]);
      }
      for (const n of suppress(own, ownScores, 0.5)) {
        boxes.push(own[n]);
        scores.push(ownScores[n]);
      }
    }
    return suppress(boxes, scores, 0.7).map((n) => square(boxes[n]));
  }

  /** Run a network on pictures (count, width, height, 3), and return its outputs by their names. */
  async #run(session, input, count, width, height) {
    const tensor = new this.ort.Tensor("float32", input, [count, width, height, 3]);
    return session.run({ [session.inputNames[0]]: tensor });
  }
}

/** Write a picture as numbers from -1 to 1, columns before rows, as the networks were trained. */
function fill(input, start, { width, height, data }) {
  for (let y = 0, from = 0; y < height; y++) {
    for (let x = 0; x < width; x++, from += 3) {
      const at = start + (x * height + y) * 3;
      input[at] = (data[from] - 127.5) / 128;
      input[at + 1] = (data[from + 1] - 127.5) / 128;
      input[at + 2] = (data[from + 2] - 127.5) / 128;
    }
  }
}

/** Boxes, cut out and resized. */
function patches(picture, boxes, side) {
  const input = new Float32Array(boxes.length * side * side * 3);
  boxes.forEach((box, n) => {
    const [left, top, right, bottom] = box.map(round);
    const content = rectangle(picture, left, top, Math.max(right, left + 1), Math.max(bottom, top + 1), GREY);
    fill(input, n * side * side * 3, resizeArea(content, side, side));
  });
  return input;
}

/** The second of each pair of probabilities. */
function faceScores({ data }) {
  return Float32Array.from({ length: data.length / 2 }, (_, n) => data[2 * n + 1]);
}

/** A box moved by row n of a network's offsets, which are fractions of its size. */
function moved([left, top, right, bottom], offsets, n) {
  const [width, height] = [right - left, bottom - top];
  const [a, b, c, d] = offsets.subarray(4 * n, 4 * n + 4);
  return [left + a * width, top + b * height, right + c * width, bottom + d * height];
}

/** The five points of a box, from five x and five y as fractions of it. */
function landmarks([left, top, right, bottom], places) {
  return [0, 1, 2, 3, 4].map((n) => [left + places[n] * (right - left), top + places[n + 5] * (bottom - top)]);
}

function square([left, top, right, bottom]) {
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  const half = Math.max(right - left, bottom - top) / 2;
  return [x - half, y - half, x + half, y + half];
}

/** Non-maximum suppression: the numbers of the boxes to keep, of those above the threshold, the best first. */
function suppress(boxes, scores, limit, { threshold = 0, ofSmaller = false } = {}) {
  const area = ([left, top, right, bottom]) => Math.max(right - left, 0) * Math.max(bottom - top, 0);
  const areas = boxes.map(area);
  let order = boxes.map((_, n) => n).filter((n) => scores[n] > threshold);
  order.sort((one, other) => scores[other] - scores[one]);
  const kept = [];
  while (order.length) {
    const best = order[0];
    const [left, top, right, bottom] = boxes[best];
    kept.push(best);
    order = order.filter((n, place) => {
      if (!place) return false;
      const box = boxes[n];
      const width = Math.min(right, box[2]) - Math.max(left, box[0]);
      const height = Math.min(bottom, box[3]) - Math.max(top, box[1]);
      const shared = Math.max(width, 0) * Math.max(height, 0);
      const whole = ofSmaller ? Math.min(areas[best], areas[n]) : areas[best] + areas[n] - shared;
      return shared <= limit * whole;
    });
  }
  return kept;
}
