"""Contact sheet: python tools/render_sample/contact_sheet.py FOLDER OUT.png [--columns 10] [--seed 0]

One row a class, the strongest picture of a sequence, several subjects.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

ORDER = ("neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
LABEL_PX = 74


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--tile", type=int, default=112)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table = pd.read_csv(options.folder / "manifest.csv", dtype={"sequence": str})
    last = table.loc[table.groupby(["subject", "sequence", "label"])["frame"].idxmax()]
    rng = np.random.default_rng(options.seed)
    tile = options.tile
    sheet = Image.new("RGB", (LABEL_PX + options.columns * tile, len(ORDER) * tile), "white")
    from PIL import ImageDraw

    pen = ImageDraw.Draw(sheet)
    for row, label in enumerate(ORDER):
        pen.text((4, row * tile + tile // 2 - 6), label, fill="black")
        of_label = last[last["label"] == label].drop_duplicates("subject")
        chosen = of_label.iloc[rng.permutation(len(of_label))[: options.columns]]
        for column, image in enumerate(chosen["image"]):
            picture = Image.open(options.folder / image).resize((tile, tile), Image.Resampling.LANCZOS)
            sheet.paste(picture, (LABEL_PX + column * tile, row * tile))
    sheet.save(options.out)


if __name__ == "__main__":
    main()
