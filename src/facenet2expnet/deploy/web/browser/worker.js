/** Run the recognizer beside the page, which stays responsive; one picture at a time. */

import { Recognizer } from "./recognizer.js";

const loading = Recognizer.load();
let last = answer(0, async () => (await loading).classes);

addEventListener("message", ({ data: { number, picture, minFacePx } }) => {
  last = last.then(() => answer(number, async () => (await loading).analyse(picture, minFacePx)));
});

async function answer(number, work) {
  try {
    postMessage({ number, answer: await work() });
  } catch (error) {
    postMessage({ number, error: error.message });
  }
}
