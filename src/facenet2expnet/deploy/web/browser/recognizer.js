/** The model and the face detector of this folder, run by ONNX Runtime's WebAssembly. */

import * as ort from "./ort.js";
import { cutFace } from "./crop.js";
import { Mtcnn } from "./mtcnn.js";
import { addBorder, resizeArea, resizeCubic, round } from "./resample.js";

const FORMAT = "facenet2expnet-web-1";
const BATCH = 16;

export class Recognizer {
  /** Load page.json and the networks that it names, from the folder of this module. */
  static async load() {
    ort.env.wasm.numThreads = 1; // more would need headers that not every web server sends
    ort.env.wasm.wasmPaths = { wasm: new URL("./ort.wasm", import.meta.url).href };
    const model = await (await get("page.json")).json();
    if (model.format !== FORMAT) throw new Error(`page.json has the format ${model.format}, expected ${FORMAT}`);
    if (model.unfinished) throw new Error("This page is incomplete: run fn2en export --web again");
    const session = async (name) => ort.InferenceSession.create(new Uint8Array(await (await get(name)).arrayBuffer()));
    const files = ["model.onnx", "pnet.onnx", "rnet.onnx", "onet.onnx"];
    const [classifier, proposal, refinement, output] = await Promise.all(files.map(session));
    const mtcnn = new Mtcnn(ort, { proposal, refinement, output }, model.mtcnn);
    return Object.assign(new Recognizer(), { model, classifier, mtcnn, classes: model.classes });
  }

  /** Find the faces of a picture, the largest first: [{box, score, points}], in its own pixels. */
  async find(picture, minFacePx) {
    const { min_face_px } = this.model.mtcnn;
    const { search_shortest_px, search_border_px, smallest_share, min_score } = this.model.search;
    const { width, height } = picture;
    const longest = Math.max(width, height);
    const smallest = minFacePx || Math.max(min_face_px, longest / smallest_share);
    const scale = longest < search_shortest_px ? search_shortest_px / longest : Math.min(1, min_face_px / smallest);
    const border = scale > 1 ? search_border_px : 0;
    const resize = scale < 1 ? resizeArea : resizeCubic;
    let searched = resize(picture, Math.max(1, round(width * scale)), Math.max(1, round(height * scale)));
    if (border) searched = addBorder(searched, border);
    const faces = (await this.mtcnn.detect(searched, smallest * scale)).map(({ box, score, points }) => ({
      box: box.map((value) => (value - border) / scale),
      points: points.map((point) => point.map((value) => (value - border) / scale)),
      score,
    }));
    const fits = ({ box: [left, top, right, bottom], score }) =>
      left + right >= 0 && left + right <= 2 * width && top + bottom >= 0 && top + bottom <= 2 * height &&
      right > left && bottom > top && score >= min_score;
    const area = ({ box: [left, top, right, bottom] }) => (right - left) * (bottom - top);
    return faces.filter(fits).sort((one, other) => area(other) - area(one) || other.score - one.score);
  }

  cut(picture, face) {
    return cutFace(picture, face, this.model.cut);
  }

  /** The probabilities of each crop, in the order of the classes. */
  async classify(crops) {
    const side = this.model.cut.crop_px;
    const count = this.classes.length;
    const rows = [];
    for (let first = 0; first < crops.length; first += BATCH) {
      const batch = crops.slice(first, first + BATCH);
      const input = new Uint8Array(batch.length * side * side * 3);
      batch.forEach((crop, n) => input.set(crop.data, n * side * side * 3));
      const tensor = new ort.Tensor("uint8", input, [batch.length, side, side, 3]);
      const { probabilities } = await this.classifier.run({ crops: tensor });
      batch.forEach((_, n) => rows.push([...probabilities.data.slice(n * count, (n + 1) * count)]));
    }
    return rows;
  }

  /** Find the faces of a picture and classify them; for each the same as the service answers. */
  async analyse(picture, minFacePx) {
    const faces = await this.find(picture, minFacePx);
    const rows = await this.classify(faces.map((face) => this.cut(picture, face)));
    return faces.map(({ box, score }, n) => {
      const label = this.classes[rows[n].indexOf(Math.max(...rows[n]))];
      return { box, score, label, probabilities: rows[n] };
    });
  }
}

async function get(name) {
  const answer = await fetch(new URL(name, import.meta.url));
  if (!answer.ok) throw new Error(`${name} can't be loaded: the web server answers with ${answer.status}`);
  return answer;
}
