"""fn2en data and fn2en sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facenet2expnet.cli.run import Protocol, Quiet

if TYPE_CHECKING:
    from facenet2expnet.data.manifest import Manifest

Name = Annotated[str, typer.Argument(help="A dataset's name; `fn2en data list` prints them.")]
Options = Annotated[
    list[str] | None, typer.Option("--option", help="An option of the dataset, as classes=6. Repeatable.")
]
Where = Annotated[Path, typer.Argument(help="The dataset as it was downloaded.")]
Prepared = Annotated[
    Path, typer.Argument(help="Prepared faces, a folder of class folders, or a CSV or Parquet manifest.")
]


AUDIT_PX = 112
"""Side of the pictures that an audit compares; 32,000 of them take 1.2 GB."""


def add(app: typer.Typer) -> None:
    """Mount the command groups."""
    data = typer.Typer(no_args_is_help=True, help="Datasets as downloaded, to faces, folds and checks.")
    data.command("list")(list_sources)
    data.command("how-to")(how_to)
    data.command()(prepare)
    data.command()(summary)
    data.command()(split)
    data.command()(audit)
    app.add_typer(data, name="data")
    sample = typer.Typer(no_args_is_help=True, help="The bundled sample of rendered faces.")
    sample.command("export")(export)
    sample.callback()(lambda: None)
    app.add_typer(sample, name="sample")


def list_sources() -> None:
    """List the datasets that can be read as they were downloaded.

    Example: fn2en data list
    """
    from facenet2expnet.data import sources

    for name in sources.names():
        print(f"{name}: {sources.get(name).about.title}")


def how_to(name: Name) -> None:
    """Say where to ask for a dataset, what tree is expected, and what to look out for.

    Example: fn2en data how-to ckplus
    """
    from facenet2expnet.data import sources

    print(sources.how_to(name), end="")


def prepare(
    name: Name,
    path: Where,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where the faces go. By default faces/NAME.")
    ] = None,
    options: Options = None,
    detector: Annotated[
        str, typer.Option(help="already-cropped, viola-jones (the paper's), mtcnn or dlib68.")
    ] = "already-cropped",
    template: Annotated[str, typer.Option(help="Alignment: none, eyes-mouth or eyes.")] = "none",
    size: Annotated[int, typer.Option(min=32, help="Side of a face in pixels.")] = 256,
    centre_crop: Annotated[
        bool, typer.Option("--centre-crop", help="Keep pictures without a found face, cropped at the centre.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Find, align and store the faces of a dataset, with its manifest; give the folder to train or compare.

    Example: fn2en data prepare ckplus CK+/ --detector viola-jones --template eyes-mouth --out faces/ckplus
    """
    from facenet2expnet.cli import console
    from facenet2expnet.crop import CropContract
    from facenet2expnet.data import sources
    from facenet2expnet.faces.store import prepare as prepare_faces

    contract = CropContract(detector=detector, template=template, stored_px=size, crop_px=size * 7 // 8)
    out = out or Path("faces") / name
    pictures = out.with_name(out.name + ".pictures")
    manifest = sources.read_into(name, path, pictures, **_options(options))
    with console.progress(quiet) as reporter:
        store = prepare_faces(manifest, contract, out, centre_crop=centre_crop, progress=reporter.of("reading faces"))
    for note in manifest.notes:
        print(note)
    if store.without_face:
        print(f"{len(store.without_face)} pictures without a found face, shown on a contact sheet in {out}")
    if store.skipped:
        print(f"{len(store.skipped)} pictures left out, listed in {out / 'skipped.csv'}")
    _print_summary([store.manifest])
    print(f"{len(store)} faces in {out}; next: fn2en compare {out}")


def summary(
    data: Annotated[list[Path], typer.Argument(help="Prepared faces, folders or manifests.")],
) -> None:
    """Print the paper's Table II for what was found, beside the paper's counts.

    Example: fn2en data summary faces/ckplus faces/sfew
    """
    _print_summary([_manifest(path) for path in data])


def split(
    data: Prepared,
    out: Annotated[Path, typer.Option("--out", "-o", help="The split file, .json.")],
    protocol: Protocol = "auto",
    folds: Annotated[int, typer.Option(min=2, help="How many, where the protocol leaves it open.")] = 10,
    seed: Annotated[int, typer.Option(help="Of stratified folds.")] = 0,
) -> None:
    """Write folds to a file that others can use by --protocol FILE.

    Example: fn2en data split faces/ckplus --out ckplus-folds.json
    """
    from facenet2expnet.data import splits
    from facenet2expnet.errors import UserError

    if out.suffix != ".json":
        raise UserError(f"{out}: expected a name that ends in .json")
    manifest = _manifest(data)
    drawn = splits.choose(manifest, protocol, folds, seed)
    splits.write_splits(drawn.folds, manifest, out)
    print(f"{len(drawn.folds)} folds by {drawn.name} written to {out}")
    if drawn.note:
        print(drawn.note)


def audit(
    data: Prepared,
    protocol: Annotated[str, typer.Option(help="Folds to look across; own: the data's own columns.")] = "own",
    folds: Annotated[int, typer.Option(min=2, help="How many, where the protocol leaves it open.")] = 10,
    persons: Annotated[
        bool, typer.Option(help="Look for one person under two IDs, with the dlib face net.")
    ] = True,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the findings as CSV.")] = None,
    quiet: Quiet = False,
) -> None:
    """Look for what would make a result untrue: duplicates, torn sequences, one person under two IDs, labels.

    Example: fn2en data audit faces/fer2013 --out audit
    """
    from facenet2expnet.cli import console
    from facenet2expnet.crop import CropContract
    from facenet2expnet.data import splits
    from facenet2expnet.data.audit import audit as look
    from facenet2expnet.data.dataset import load_dataset

    with console.progress(quiet) as reporter:
        contract = CropContract(stored_px=AUDIT_PX, crop_px=AUDIT_PX)
        dataset = load_dataset(data, contract, min_classes=0, progress=reporter.of("reading faces"))
    manifest, pixels = dataset.manifest, dataset.pixels
    sides = None if protocol == "own" else splits.choose(manifest, protocol, folds).folds
    embeddings = None
    if persons and manifest.subjects is not None:
        from facenet2expnet.experiment.embeddings import face_embeddings

        embeddings = face_embeddings(pixels)
    found = look(manifest, pixels, sides, embeddings)
    for line in found.lines():
        print(line)
    if out:
        for path in found.save(out):
            print(f"written: {path}")


def export(folder: Annotated[Path, typer.Argument(help="Where to write it; new or empty.")]) -> None:
    """Write the bundled sample in CK+'s own directory layout.

    Example: fn2en sample export ckplus-sample
    """
    from facenet2expnet.data.bundled import export_ckplus

    export_ckplus(folder)
    print(f"written to {folder}; next: fn2en data prepare ckplus {folder}")


def _manifest(path: Path) -> Manifest:
    from facenet2expnet.data.manifest import read_manifest
    from facenet2expnet.faces.store import FaceStore, is_store

    return FaceStore.open(path, verify=False).manifest if is_store(path) else read_manifest(path)


def _options(settings: list[str] | None) -> dict[str, Any]:
    """`classes=6` -> {"classes": 6}; values are read as TOML and, where they are no TOML, as text."""
    import tomllib

    from facenet2expnet.errors import UserError

    options: dict[str, Any] = {}
    for setting in settings or []:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--option '{setting}': expected NAME=VALUE, as classes=6")
        try:
            options[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            options[key.strip()] = text.strip()
    return options


def _print_summary(manifests: list[Manifest]) -> None:
    import pandas as pd

    from facenet2expnet.cli import console
    from facenet2expnet.data.summary import summarise_counts
    from facenet2expnet.report.tables import to_rich

    found = summarise_counts(manifests)
    rows = [
        [row.data, row.whose, *("" if n is None else n for n in row.counts), row.total] for row in found.rows
    ]
    console.out.print(to_rich(pd.DataFrame(rows, columns=["data", "counts", *found.columns, "total"])))
    for note in found.notes:
        print(note)
