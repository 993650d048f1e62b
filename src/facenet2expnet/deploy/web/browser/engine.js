/** The engine that runs the model in the browser; its interface is described in engine_server.js. */

const GREY = 127; // behind transparent pixels, as in Python

export async function createEngine() {
  const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  const waiting = new Map(); // number of the question -> {done, fail}
  const ask = (number) => new Promise((done, fail) => waiting.set(number, { done, fail }));
  worker.onmessage = ({ data: { number, answer, error } }) => {
    const { done, fail } = waiting.get(number);
    waiting.delete(number);
    if (error) fail(new Error(error));
    else done(answer);
  };
  worker.onerror = ({ message }) => {
    for (const { fail } of waiting.values()) fail(new Error(`The model can't run in this browser: ${message ?? "no workers"}.`));
    waiting.clear();
  };
  const classes = await ask(0);
  let asked = 0;
  return {
    classes,
    privacy: "Everything is computed in this browser: no picture leaves this machine.",
    analyse(image, { minFacePx } = {}) {
      const picture = pixels(image);
      worker.postMessage({ number: ++asked, picture, minFacePx }, [picture.data.buffer]);
      return ask(asked);
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
