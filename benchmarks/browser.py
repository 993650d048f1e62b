"""Time of the exported page in a browser: loading, finding faces, and classifying them; and the page's size.

    python benchmarks/browser.py page/
    python benchmarks/browser.py page/ --repeats 30 --chromium /usr/bin/chromium

`page/` is a folder that `fn2en export MODEL --web page/` wrote. It is served on this machine and opened in headless
Chromium, which works on one thread, without the page's own worker. The picture is docs/images/party.jpg, five rendered
faces. Prints a Markdown table. Times are medians of the time that passes: quiet the machine before.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import threading
from collections.abc import Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "party.jpg"
FLAGS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")

SCRIPT = """
async (repeats) => {
  const began = performance.now();
  const { Recognizer } = await import("./recognizer.js");
  const { pixels } = await import("./engine.js");
  const recognizer = await Recognizer.load();
  const load = performance.now() - began;
  const blob = await (await fetch("./picture")).blob();
  const picture = pixels(await createImageBitmap(blob));
  const median = async (work) => {
    const times = [];
    for (let n = -2; n < repeats; n++) {
      const began = performance.now();
      await work();
      if (n >= 0) times.push(performance.now() - began);
    }
    return times.sort((one, other) => one - other)[Math.floor(repeats / 2)];
  };
  const faces = await recognizer.find(picture);
  const crops = faces.map((face) => recognizer.cut(picture, face));
  return {
    load,
    faces: faces.length,
    find: await median(() => recognizer.find(picture)),
    cut: (await median(() => faces.map((face) => recognizer.cut(picture, face)))) / faces.length,
    one: await median(() => recognizer.classify(crops.slice(0, 1))),
    whole: (await median(() => recognizer.analyse(picture))) / faces.length,
  };
}
"""


class Handler(SimpleHTTPRequestHandler):
    """Serves the page's folder, and other files under names of their own."""

    def __init__(self, *given: Any, others: Mapping[str, Path], **named: Any) -> None:
        self.others = others
        super().__init__(*given, **named)

    def translate_path(self, path: str) -> str:
        return str(self.others.get(path) or super().translate_path(path))

    def log_message(self, *_: Any) -> None:
        pass


def run_script(folder: Path, script: str, argument: Any, chromium: str | None, **others: Path) -> tuple[Any, str]:
    """Run a script beside the page's modules; return what it returns, and the browser's version.

    Args:
        folder: that `fn2en export --web` wrote.
        script: JavaScript, a function of one argument.
        argument: for it.
        chromium: path of the browser.
        others: name -> file that is served as /name.
    """
    if not (folder / "recognizer.js").is_file():
        raise SystemExit(f"{folder}: expected a folder that fn2en export --web wrote")
    served = {f"/{name}": path for name, path in others.items()}
    handler = functools.partial(Handler, directory=str(folder), others=served)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page()
        # the page itself would load a model, too
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/LICENSES.txt")
        found, version = page.evaluate(script, argument), browser.version
        browser.close()
    server.shutdown()
    return found, version


def main(words: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", type=Path, help="a folder that fn2en export --web wrote")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser")
    given = parser.parse_args(words)
    found, version = run_script(given.page, SCRIPT, given.repeats, given.chromium, picture=PICTURE)
    megabytes = sum(file.stat().st_size for file in given.page.iterdir()) / 1e6
    print(f"Chromium {version}, {found['faces']} faces in {PICTURE.name}\n")
    print(
        "| page, MB | load, ms | find faces, ms a picture | cut out, ms a face | classify, ms a face | all, ms a face |"
    )
    print("|---:|---:|---:|---:|---:|---:|")
    numbers = (found[name] for name in ("load", "find", "cut", "one", "whole"))
    print(f"| {megabytes:.1f} | {' | '.join(f'{number:.1f}' for number in numbers)} |")


if __name__ == "__main__":
    main()
