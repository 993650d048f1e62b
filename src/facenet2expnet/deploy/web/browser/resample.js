/**
 * Resample pictures as the functions of OpenCV do that prediction in Python uses, with the same rounding, so that
 * the networks see the same pixels. A picture is {width, height, data: Uint8Array of R, G, B a pixel}.
 */

const RESIZE_ONE = 2048; // fixed-point weights of resizing
const WARP_STEPS = 32; // warping knows so many places between two pixels
const WARP_FINE = 1024; // and adds up coordinates in such parts of a pixel
const WARP_HALF = WARP_FINE / WARP_STEPS / 2;
const WARP_ONE = 32768;

/** Round to the nearest integer, and halves to the even one. */
export function round(value) {
  const up = Math.floor(value + 0.5);
  return up - value === 0.5 && up % 2 !== 0 ? up - 1 : up;
}

function clip(value, low, high) {
  return value < low ? low : value > high ? high : value;
}

function byte(value) {
  return clip(round(value), 0, 255);
}

export function blank(width, height, grey = 0) {
  return { width, height, data: new Uint8Array(width * height * 3).fill(grey) };
}

/** The rectangle of a picture from (left, top) to before (right, bottom); what is outside is grey. */
export function rectangle(picture, left, top, right, bottom, grey = 0) {
  const cut = blank(right - left, bottom - top, grey);
  const [x0, x1] = [Math.max(left, 0), Math.min(right, picture.width)];
  for (let y = Math.max(top, 0); y < Math.min(bottom, picture.height) && x0 < x1; y++) {
    const row = picture.data.subarray((y * picture.width + x0) * 3, (y * picture.width + x1) * 3);
    cut.data.set(row, ((y - top) * cut.width + x0 - left) * 3);
  }
  return cut;
}

/** cv2.copyMakeBorder with BORDER_REPLICATE. */
export function addBorder(picture, border) {
  const [width, height] = [picture.width + 2 * border, picture.height + 2 * border];
  const wider = blank(width, height);
  const pixels = picture.data;
  for (let y = 0, at = 0; y < height; y++) {
    const row = clip(y - border, 0, picture.height - 1) * picture.width;
    for (let x = 0; x < width; x++, at += 3) {
      const from = (row + clip(x - border, 0, picture.width - 1)) * 3;
      wider.data[at] = pixels[from];
      wider.data[at + 1] = pixels[from + 1];
      wider.data[at + 2] = pixels[from + 2];
    }
  }
  return wider;
}

/** cv2.resize with INTER_AREA. */
export function resizeArea(picture, width, height) {
  if (width === picture.width && height === picture.height) return picture;
  if (width > picture.width || height > picture.height) return resizeByTaps(picture, width, height, linearTaps, mixLinear);
  const resized = blank(width, height);
  const across = areaTable(picture.width, width);
  const down = areaTable(picture.height, height);
  const sums = new Float32Array(width * 3);
  const half = picture.width === 2 * width && picture.height === 2 * height; // then OpenCV rounds halves up
  for (let y = 0; y < height; y++) {
    sums.fill(0);
    for (let n = down.first[y]; n < down.first[y + 1]; n++) {
      addRow(picture.data, down.from[n] * picture.width * 3, across, down.weight[n], sums);
    }
    const row = resized.data.subarray(y * sums.length, (y + 1) * sums.length);
    for (let x = 0; x < sums.length; x++) row[x] = half ? sums[x] + 0.5 : byte(sums[x]);
  }
  return resized;
}

/** Add a row, averaged to its new width, times a weight. */
function addRow(data, row, { first, from, weight }, rowWeight, sums) {
  for (let x = 0, at = 0; at < sums.length; x++, at += 3) {
    let red = 0;
    let green = 0;
    let blue = 0;
    for (let n = first[x]; n < first[x + 1]; n++) {
      const pixel = row + from[n] * 3;
      red += data[pixel] * weight[n];
      green += data[pixel + 1] * weight[n];
      blue += data[pixel + 2] * weight[n];
    }
    sums[at] += rowWeight * red;
    sums[at + 1] += rowWeight * green;
    sums[at + 2] += rowWeight * blue;
  }
}

/** Which old pixels make up new pixel i, from `first[i]` to before `first[i + 1]` of `from`, and their weights. */
function areaTable(size, newSize) {
  const scale = 1 / (newSize / size);
  const first = new Int32Array(newSize + 1);
  const parts = [];
  for (let i = 0; i < newSize; i++) {
    const start = i * scale;
    const end = start + scale;
    const cell = Math.min(scale, size - start);
    const last = Math.min(Math.floor(end), size - 1);
    const whole = Math.min(Math.ceil(start), last);
    if (whole - start > 1e-3) parts.push([whole - 1, (whole - start) / cell]);
    for (let from = whole; from < last; from++) parts.push([from, 1 / cell]);
    if (end - last > 1e-3) parts.push([last, Math.min(end - last, 1, cell) / cell]);
    first[i + 1] = parts.length;
  }
  return { first, from: Int32Array.from(parts, (part) => part[0]), weight: Float32Array.from(parts, (part) => part[1]) };
}

/** cv2.resize with INTER_CUBIC. */
export function resizeCubic(picture, width, height) {
  if (width === picture.width && height === picture.height) return picture;
  return resizeByTaps(picture, width, height, cubicTaps, mixCubic);
}

/** Resize with a few weighted pixels along each side; `mix` makes a new row of the rows that it lies between. */
function resizeByTaps(picture, width, height, taps, mix) {
  const resized = blank(width, height);
  const across = Array.from({ length: width }, (_, x) => taps(x, picture.width, width));
  const table = {
    count: across[0].from.length,
    from: Int32Array.from(across.flatMap((one) => one.from)),
    weight: Float32Array.from(across.flatMap((one) => one.weights)),
  };
  const rows = new Map();
  for (let y = 0; y < height; y++) {
    const { from, weights } = taps(y, picture.height, height);
    for (const old of rows.keys()) if (old < from[0]) rows.delete(old);
    for (const old of from) if (!rows.has(old)) rows.set(old, rowByTaps(picture, old, table, width));
    const used = from.map((old) => rows.get(old));
    mix(used, weights, resized.data.subarray(y * width * 3, (y + 1) * width * 3));
  }
  return resized;
}

function rowByTaps(picture, y, { count, from, weight }, width) {
  const data = picture.data;
  const start = y * picture.width * 3;
  const row = new Float32Array(width * 3);
  for (let at = 0, first = 0; at < row.length; at += 3, first += count) {
    for (let n = first; n < first + count; n++) {
      const pixel = start + from[n] * 3;
      row[at] += weight[n] * data[pixel];
      row[at + 1] += weight[n] * data[pixel + 1];
      row[at + 2] += weight[n] * data[pixel + 2];
    }
  }
  return row;
}

/** The two pixels that INTER_AREA mixes where it enlarges, with weights of 11 bits. */
function linearTaps(i, size, newSize) {
  const inverse = newSize / size;
  const first = Math.floor(i / inverse);
  let part = Math.fround(i + 1 - (first + 1) * inverse);
  part = part <= 0 || first >= size - 1 ? 0 : part - Math.floor(part);
  const from = [first, first + 1].map((old) => Math.min(old, size - 1));
  return { from, weights: [1 - part, part].map((weight) => round(Math.fround(weight) * RESIZE_ONE)) };
}

function mixLinear([above, below], [first, second], row) {
  for (let x = 0; x < row.length; x++) {
    row[x] = (((first * (above[x] >> 4)) >> 16) + ((second * (below[x] >> 4)) >> 16) + 2) >> 2;
  }
}

function cubicTaps(i, size, newSize) {
  const place = Math.fround((i + 0.5) * (1 / (newSize / size)) - 0.5);
  const first = Math.floor(place);
  const from = [-1, 0, 1, 2].map((step) => clip(first + step, 0, size - 1));
  return { from, weights: cubicWeights(place - first) };
}

function mixCubic([one, two, three, four], [a, b, c, d], row) {
  for (let x = 0; x < row.length; x++) row[x] = byte(a * one[x] + b * two[x] + c * three[x] + d * four[x]);
}

function cubicWeights(part) {
  const a = -0.75;
  const far = part + 1;
  const near = 1 - part;
  const weights = [
    ((a * far - 5 * a) * far + 8 * a) * far - 4 * a,
    ((a + 2) * part - (a + 3)) * part * part + 1,
    ((a + 2) * near - (a + 3)) * near * near + 1,
  ];
  return [...weights, 1 - weights[0] - weights[1] - weights[2]];
}

/** cv2.GaussianBlur with BORDER_REPLICATE, whose weights are fractions of 256. */
export function blur(picture, sigma) {
  const { width, height, data } = picture;
  const kernel = gaussian(sigma);
  const reach = (kernel.length - 1) / 2;
  const across = new Uint16Array(data.length);
  for (let y = 0, at = 0; y < height; y++) {
    const row = y * width;
    for (let x = 0; x < width; x++) {
      let red = 0;
      let green = 0;
      let blue = 0;
      for (let n = 0; n < kernel.length; n++) {
        const from = (row + clip(x + n - reach, 0, width - 1)) * 3;
        red += kernel[n] * data[from];
        green += kernel[n] * data[from + 1];
        blue += kernel[n] * data[from + 2];
      }
      across[at++] = red;
      across[at++] = green;
      across[at++] = blue;
    }
  }
  const blurred = blank(width, height);
  const sums = new Uint32Array(width * 3);
  for (let y = 0; y < height; y++) {
    sums.fill(32768);
    for (let n = 0; n < kernel.length; n++) {
      const row = clip(y + n - reach, 0, height - 1) * sums.length;
      for (let x = 0; x < sums.length; x++) sums[x] += kernel[n] * across[row + x];
    }
    for (let x = 0, at = y * sums.length; x < sums.length; x++) blurred.data[at++] = sums[x] >>> 16;
  }
  return blurred;
}

/** Weights that sum to 256; what rounding leaves is carried to the next weight. */
function gaussian(sigma) {
  const size = round(sigma * 6 + 1) | 1;
  const middle = (size - 1) / 2;
  const values = Array.from({ length: size }, (_, n) => Math.exp(-((n - middle) ** 2) / (2 * sigma * sigma)));
  const total = values.reduce((sum, value) => sum + value, 0);
  const kernel = new Int32Array(size);
  let [rest, sum] = [0, 0];
  for (let n = 0; n < middle; n++) {
    const value = (values[n] / total) * 256 + rest;
    kernel[n] = kernel[size - 1 - n] = round(value);
    rest = value - kernel[n];
    sum += kernel[n];
  }
  kernel[middle] = 256 - 2 * sum;
  return kernel;
}

/** cv2.warpAffine with BORDER_REPLICATE to a square, by INTER_LINEAR or INTER_CUBIC; the matrix leads to the new picture. */
export function warpAffine(picture, matrix, side, cubic) {
  const { width, height, data } = picture;
  const [[a, b, c], [d, e, f]] = invert(matrix);
  const fine = (value) => round(value * WARP_FINE);
  const size = cubic ? 4 : 2;
  const tables = (warpTables[size] ??= new Array(WARP_STEPS * WARP_STEPS));
  const warped = blank(side, side);
  for (let y = 0, at = 0; y < side; y++) {
    const rowX = fine(b * y + c) + WARP_HALF;
    const rowY = fine(e * y + f) + WARP_HALF;
    for (let x = 0; x < side; x++) {
      const placeX = (rowX + fine(a * x)) >> 5;
      const placeY = (rowY + fine(d * x)) >> 5;
      const partX = placeX & (WARP_STEPS - 1);
      const partY = placeY & (WARP_STEPS - 1);
      const weights = (tables[partY * WARP_STEPS + partX] ??= warpWeights(partX, partY, size));
      const left = (placeX >> 5) + 1 - size / 2;
      const top = (placeY >> 5) + 1 - size / 2;
      let red = WARP_ONE / 2;
      let green = WARP_ONE / 2;
      let blue = WARP_ONE / 2;
      for (let row = 0, n = 0; row < size; row++) {
        const start = clip(top + row, 0, height - 1) * width;
        for (let column = 0; column < size; column++, n++) {
          const from = (start + clip(left + column, 0, width - 1)) * 3;
          red += weights[n] * data[from];
          green += weights[n] * data[from + 1];
          blue += weights[n] * data[from + 2];
        }
      }
      warped.data[at++] = clip(red >> 15, 0, 255);
      warped.data[at++] = clip(green >> 15, 0, 255);
      warped.data[at++] = clip(blue >> 15, 0, 255);
    }
  }
  return warped;
}

const warpTables = {};

/** Weights of size * size pixels, which sum to WARP_ONE; what rounding leaves goes to one of those in the middle. */
function warpWeights(partX, partY, size) {
  const [across, down] = [partX, partY].map((part) => {
    part /= WARP_STEPS;
    return size === 4 ? cubicWeights(part) : [1 - part, part];
  });
  const weights = down.flatMap((one) => across.map((other) => round(one * other * WARP_ONE)));
  const rest = WARP_ONE - weights.reduce((sum, weight) => sum + weight, 0);
  if (rest) {
    const middle = [10, 11, 14, 15];
    const better = rest > 0 ? (one, other) => weights[one] > weights[other] : (one, other) => weights[one] < weights[other];
    weights[middle.reduce((best, n) => (better(n, best) ? n : best))] += rest;
  }
  return weights;
}

export function invert([[a, b, c], [d, e, f]]) {
  const factor = 1 / (a * e - b * d);
  const [p, q, r, s] = [e * factor, -b * factor, -d * factor, a * factor];
  return [[p, q, -p * c - q * f], [r, s, -r * c - s * f]];
}
