"""FN2EN on 1,312 labelled press photographs of 812 people, a set of CK+'s size, beside both baselines.

    python benchmarks/press.py PRESS --out runs/press --recipe quick
    python benchmarks/press.py PRESS --out runs/none --recipe quick --method fn2en --set expnet.start=none \
        --set stage1.epochs=40
    python benchmarks/press.py --merge runs/press "without a start"=runs/none --mean fine-tune

PRESS holds faces.zip, labelled.csv (image, label, subject) and unlabelled.csv (image, subject). The zip is unpacked
once, to the folder RUN.data beside the run. Five folds, no subject in two of them, two seeds. Seeds can be run one by
one (`--seeds 0`). `--merge` prints one table of several runs: runs of one recipe share rows, a run with a label has its
own ("FN2EN, start"), and baselines that are the same trainings are counted once.

With `--unlabelled`, stage 1 uses the faces without labels too, except those of people who are tested. A start that is
measured here must not have seen these people: leave unlabelled.csv out of its faces.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import pandas as pd

import comparison
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.errors import UserError

FOLDS = 5


def read_press(press: Path, work: Path, *, labelled: bool = True, unlabelled: bool = False) -> Manifest:
    """Unpack the pictures to `work`, unless they are there, and return the manifest of one table or both.

    Raises:
        UserError: If a file is missing, or the zip lacks a picture of the tables.
    """
    names = ["labelled.csv"] * labelled + ["unlabelled.csv"] * unlabelled
    if missing := [name for name in ["faces.zip", *names] if not (press / name).is_file()]:
        raise UserError(f"{press}: has no {missing[0]}")
    parts = [pd.read_csv(press / name, dtype=str, keep_default_na=False) for name in names]
    table = pd.concat(parts, ignore_index=True).reindex(columns=["image", "label", "subject"], fill_value="")
    table["label"] = table["label"].fillna("")
    with zipfile.ZipFile(press / "faces.zip") as packed:
        inside = set(packed.namelist())
        if lacking := sorted(set(table["image"]) - inside):
            raise UserError(f"{press / 'faces.zip'}: lacks {len(lacking)} pictures, the first is {lacking[0]}")
        for image in table["image"]:
            if not (work / image).is_file():
                packed.extract(image, work)
    return Manifest(table, work, name="press")


def main() -> None:
    """Read the options, run the comparison, print its table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", metavar="PRESS")
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--unlabelled", action="store_true", help="faces without labels take part in stage 1")
    comparison.add_options(parser, seeds=(0, 1))
    given = parser.parse_args()
    runs = given.merge
    if not runs:
        if not given.data or not given.out:
            parser.error("PRESS and --out are needed, or --merge")
        work = given.out.with_name(given.out.name + ".data")
        manifest = read_press(given.data, work, unlabelled=given.unlabelled)
        settings = ["stage1.unlabelled=true"] if given.unlabelled else []
        runs = [comparison.run(manifest, given, *settings, protocol="subject-groups", folds=given.folds)]
    comparison.print_tables(runs, given.mean)


if __name__ == "__main__":
    main()
