/** The engine that runs the model in the browser; its interface is described in engine_server.js. */

const GREY = 127; // behind transparent pixels, as in Python

export async function createEngine() {
  const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  const classes = await new Promise((done, fail) => {
    worker.onmessage = ({ data }) => (data.error ? fail(new Error(data.error)) : done(data.classes));
    worker.onerror = () => fail(new Error("This browser can't run the model: it needs modules in workers, and WebAssembly."));
  });
  const waiting = new Map();
  let asked = 0;
  worker.onmessage = ({ data: { number, faces, error } }) => {
    const { done, fail } = waiting.get(number);
    waiting.delete(number);
    if (error) fail(new Error(error));
    else done(faces);
  };
  return {
    classes,
    privacy: "Everything is computed in this browser: no picture leaves this machine.",
    analyse(image, { minFacePx } = {}) {
      const picture = pixels(image);
      const number = asked++;
      worker.postMessage({ number, picture, minFacePx }, [picture.data.buffer]);
      return new Promise((done, fail) => waiting.set(number, { done, fail }));
    },
  };
}

/** The picture {width, height, data} of a canvas or a bitmap, three bytes a pixel. */
export function pixels(image) {
  const { width, height } = image;
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const found = new Uint8Array(width * height * 3);
  for (let from = 0, at = 0; at < found.length; from += 4, at += 3) {
    const opaque = data[from + 3];
    for (let channel = 0; channel < 3; channel++) {
      found[at + channel] = Math.round((data[from + channel] * opaque + GREY * (255 - opaque)) / 255);
    }
  }
  return { width, height, data: found };
}
