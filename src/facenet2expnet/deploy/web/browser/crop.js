/** Cut a face out of a picture, as in facenet2expnet/faces/align.py and crop.py. */

import { blur, invert, rectangle, resizeArea, resizeCubic, warpAffine } from "./resample.js";

/**
 * Cut out a face as the model's training cut its own.
 *
 * @param cut {aligned_px, stored_px, crop_px} and either `matrix`, which cuts out a face whose box is a square of side 1
 *   around (0, 0), or `points`, which says where landmarks go: {number: [x, y]} in the cut-out
 * @returns the middle window, a picture of crop_px
 */
export function cutFace(picture, face, cut) {
  const aligned = warp(picture, cut.points ? byPoints(face, cut.points) : byBox(face, cut.matrix), cut.aligned_px);
  const stored = resizeSquare(aligned, cut.stored_px);
  const start = Math.floor((cut.stored_px - cut.crop_px) / 2);
  return rectangle(stored, start, start, start + cut.crop_px, start + cut.crop_px);
}

function byBox({ box: [left, top, right, bottom] }, [[one, , across], [, , down]]) {
  const scale = one / Math.max(right - left, bottom - top);
  return [[scale, 0, across - (scale * (left + right)) / 2], [0, scale, down - (scale * (top + bottom)) / 2]];
}

/** The rotation, scale and shift with the least squared error (Umeyama, 1991). */
function byPoints({ points }, targets) {
  const numbers = Object.keys(targets);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [x, y] = [0, 1].map((axis) => mean(numbers.map((n) => points[n][axis])));
  const [u, v] = [0, 1].map((axis) => mean(numbers.map((n) => targets[n][axis])));
  let [variance, real, imaginary] = [0, 0, 0];
  for (const n of numbers) {
    const [a, b] = [points[n][0] - x, points[n][1] - y];
    const [c, d] = [targets[n][0] - u, targets[n][1] - v];
    variance += a * a + b * b;
    real += a * c + b * d;
    imaginary += a * d - b * c;
  }
  const [cosine, sine] = [real / variance, imaginary / variance];
  return [[cosine, -sine, u - cosine * x + sine * y], [sine, cosine, v - sine * x - cosine * y]];
}

/** Resample a picture once: blurred first where the cut-out is smaller, against aliasing, and by cubic where it is larger. */
export function warp(picture, matrix, side) {
  const shrink = 1 / Math.hypot(matrix[0][0], matrix[1][0]);
  const sigma = 0.5 * Math.sqrt(Math.max(shrink ** 2 - 1, 0));
  const back = invert(matrix);
  const corners = [[0, 0], [side, 0], [0, side], [side, side]];
  const margin = Math.ceil(4 * sigma) + 3;
  const [low, high] = [[], []];
  [picture.width, picture.height].forEach((size, axis) => {
    const [a, b, c] = back[axis];
    const places = corners.map(([x, y]) => a * x + b * y + c);
    low[axis] = Math.min(Math.max(Math.floor(Math.min(...places)) - margin, 0), size - 1);
    high[axis] = Math.min(Math.max(Math.ceil(Math.max(...places)) + margin, low[axis] + 1), size);
  });
  let part = rectangle(picture, low[0], low[1], high[0], high[1]);
  if (sigma > 0.1) part = blur(part, sigma);
  const shifted = matrix.map(([a, b, c]) => [a, b, c + a * (low[0] + 0.5) + b * (low[1] + 0.5) - 0.5]);
  return warpAffine(part, shifted, side, shrink < 1);
}

function resizeSquare(square, side) {
  return side < square.width ? resizeArea(square, side, side) : resizeCubic(square, side, side);
}
