/** Run the recognizer beside the page, which stays responsive; one picture at a time. */

import { Recognizer } from "./recognizer.js";

let last = Recognizer.load();
last.then(
  ({ classes }) => postMessage({ classes }),
  (error) => postMessage({ error: error.message }),
);

addEventListener("message", ({ data: { number, picture, minFacePx } }) => {
  last = last.then(async (recognizer) => {
    try {
      postMessage({ number, faces: await recognizer.analyse(picture, minFacePx) });
    } catch (error) {
      postMessage({ number, error: error.message });
    }
    return recognizer;
  });
});
