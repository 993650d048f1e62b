/**
 * The engine that asks the service behind this page. Every engine has the same interface:
 *
 *   createEngine() -> Promise<{
 *     classes: string[],
 *     privacy: string,                     where the pictures go, in one sentence
 *     analyse(canvas: HTMLCanvasElement, hint?: {minFacePx?: number, moving?: boolean})
 *       -> Promise<{box: [left, top, right, bottom], score: number | null, label: string, probabilities: number[]}[]>
 *   }>
 *
 * Boxes are in pixels of the canvas, the largest face first; probabilities are in the order of the classes. An engine
 * may search for smaller faces than the hint says.
 */

const TRIES = 5;
let token = "";

export async function createEngine() {
  const model = await ask("./v1/model");
  const here = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  return {
    classes: model.classes,
    privacy: here
      ? "Nothing leaves this machine, and no picture is kept."
      : `Pictures are sent to ${location.host} and nowhere else, and none is kept there.`,
    async analyse(canvas, { minFacePx, moving = false } = {}) {
      const form = new FormData();
      form.append("pictures", await encode(canvas, moving, model.limits.megabytes * 1e6), "picture");
      const query = minFacePx ? `?min_face_px=${Math.max(1, Math.round(minFacePx))}` : "";
      const { pictures } = await ask(`./v1/faces${query}`, { method: "POST", body: form });
      return pictures[0].faces.map((face) => ({
        box: face.box,
        score: face.score,
        label: face.label,
        probabilities: model.classes.map((name) => face.probabilities[name]),
      }));
    },
  };
}

/** The canvas as a file: pictures without loss if they fit, frames of a video as JPEG, which is faster. */
async function encode(canvas, moving, mostBytes) {
  const written = (type, quality) => new Promise((done) => canvas.toBlob(done, type, quality));
  const exact = moving ? null : await written("image/png");
  if (exact && exact.size < 0.95 * mostBytes) return exact;
  return written("image/jpeg", 0.92);
}

/** Ask the service; waits and asks again while it is busy, and asks the user for the token if it wants one. */
async function ask(path, options = {}) {
  for (let attempt = 1; ; attempt++) {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    let answer;
    try {
      answer = await fetch(path, { ...options, headers });
    } catch {
      throw new Error("The service does not answer. Is it still running?");
    }
    if (answer.ok) return answer.json();
    if (answer.status === 401) {
      token = await askToken(Boolean(token));
      continue;
    }
    if ((answer.status === 429 || answer.status === 503) && attempt < TRIES) {
      const seconds = Number(answer.headers.get("Retry-After")) || 1;
      await new Promise((done) => setTimeout(done, 1000 * seconds));
      continue;
    }
    const { error } = await answer.json().catch(() => ({}));
    throw new Error(error?.message ?? `The service answered with status ${answer.status}.`);
  }
}

function askToken(wasWrong) {
  const dialog = document.createElement("dialog");
  dialog.innerHTML = `<form method="dialog"><label>${wasWrong ? "That token is wrong." : ""}
    This service needs a token.<input type="password" required autocomplete="off"></label>
    <button value="given">Continue</button></form>`;
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((done, fail) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (dialog.returnValue === "given") done(dialog.querySelector("input").value.trim());
      else fail(new Error("This service needs a token; reload the page to enter it.")); // closed by Escape
    });
  });
}
