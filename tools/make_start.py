"""Make the start of this package: dlib's face net distilled into an expression net, on faces without labels.

    python tools/make_start.py FER2013 PRESS --out starts --threads 1
    cp starts/fer-0.25/start.* src/facenet2expnet/models/starts/faces-0.25/

FER2013 and PRESS are the folders of benchmarks/fer2013_small.py and benchmarks/press.py. The first start, fer-WIDTH,
sees the pictures of FER2013's Training part, without those that the benchmarks test on and their copies. It is made
in rounds, each with a schedule of its own: `--epochs 10 30` goes on from ten epochs with thirty more. The second,
all-WIDTH, goes on from there with the unlabelled press faces too, and must not be measured on press. `--resume` goes on
with any; all settings but the epochs are those of the recipe `quick`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd

from facenet2expnet import recipes
from facenet2expnet.cli import console
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.experiment.pretrain import pretrain

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

LICENCE = (
    "Weights: Apache-2.0. They were learned from pictures of third parties: {}; we claim nothing for the pictures. "
    "For research and evaluation. Face net: dlib's ResNet-29, public domain."
)
FER2013 = "FER2013 (found by web search, no licence statement known to us)"
PRESS = "press photographs of Labeled Faces in the Wild (research use)"


def main() -> None:
    """Read the options and pretrain, one start after the other."""
    import fer2013_small
    import press

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fer2013", type=Path, metavar="FER2013")
    parser.add_argument("press", type=Path, metavar="PRESS")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 30], help="on FER2013, a number for each round")
    parser.add_argument("--more-epochs", type=int, default=3, help="with the press faces")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--resume", action="store_true", help="go on where an earlier call was stopped")
    given = parser.parse_args()
    faces = fer2013_small.faces(given.fer2013, given.out / "fer2013", labels="ferplus")
    others = press.read_press(given.press, given.out / "press", labelled=False, unlabelled=True)
    parts = [
        manifest.table.assign(image=f"{manifest.root.relative_to(given.out)}/" + manifest.table["image"])
        for manifest in (faces, others)
    ]
    both = Manifest(pd.concat(parts, ignore_index=True).fillna(""), given.out, name="FER2013 and press, without labels")
    names = [*(f"round-{number}" for number in range(1, len(given.epochs))), "fer"]
    rounds = zip(names, given.epochs, ["none", *names], strict=False)
    plan = [(name, faces, epochs, before, FER2013) for name, epochs, before in rounds]
    plan.append(("all", both, given.more_epochs, "fer", f"{FER2013} and {PRESS}"))
    for name, manifest, epochs, before, pictures in plan:
        folder = given.out / f"{name}-{given.width}"
        start = before if before == "none" else str(given.out / f"{before}-{given.width}")
        if (folder / "start.json").is_file():
            continue
        settings = [f"expnet.width={given.width}", f"expnet.start={start}", *given.settings]
        recipe = replace(recipes.override(recipes.load("quick"), settings), name="start")
        with console.progress() as display:
            pretrain(
                manifest, recipe=recipe, out=folder, epochs=epochs, licence=LICENCE.format(pictures),
                device=given.device, threads=given.threads, resume=given.resume and folder.is_dir(), progress=display,
            )  # fmt: skip


if __name__ == "__main__":
    main()
