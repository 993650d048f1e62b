"""fn2en data and fn2en sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from facenet2expnet.cli.run import MergeLabels, Protocol, Quiet, with_merged_labels

Name = Annotated[str, typer.Argument(help="Name of a dataset; `fn2en data list` prints all names.")]
Data = Annotated[Path, typer.Argument(help="Prepared faces, a folder of class folders, or a CSV or Parquet manifest.")]
Folds = Annotated[int, typer.Option(min=2, help="Number of folds of subject-groups and stratified.")]


def add(app: typer.Typer) -> None:
    """Add the command groups."""
    data = typer.Typer(no_args_is_help=True, help="Prepare, summarise, split and check datasets.")
    data.command("list")(list_sources)
    for command in (how_to, prepare, summary, split, audit):
        data.command()(command)
    app.add_typer(data, name="data")
    sample = typer.Typer(no_args_is_help=True, help="The bundled sample of rendered faces.")
    sample.command()(export)
    sample.callback()(lambda: None)
    app.add_typer(sample, name="sample")


def list_sources() -> None:
    """List the datasets that can be read as distributed.

    Example: fn2en data list
    """
    from facenet2expnet.data import sources

    for name in sources.names():
        print(f"{name}: {sources.get(name).title}")


def how_to(name: Name) -> None:
    """Print where to get a dataset, the expected folders, the options and known pitfalls.

    Example: fn2en data how-to ckplus
    """
    from facenet2expnet.data import sources

    print(sources.get(name).how_to(), end="")


def prepare(
    name: Name,
    path: Annotated[Path, typer.Argument(help="The dataset as distributed.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Output folder. By default prepared/NAME.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="An option, as classes=6. Repeatable.")] = None,
    detector: Annotated[str, typer.Option(help="viola-jones (the paper's), mtcnn or dlib68.")] = "already-cropped",
    template: Annotated[str, typer.Option(help="Alignment: none, eyes-mouth or eyes.")] = "none",
    size: Annotated[int, typer.Option(min=32, help="Side of a face in pixels.")] = 256,
    centre_crop: Annotated[bool, typer.Option("--centre-crop", help="Centre-crop pictures without a face.")] = False,
    quiet: Quiet = False,
) -> None:
    """Detect, align and store the faces of a dataset, with its manifest. The folder is input for train and compare.

    Example: fn2en data prepare ckplus CK+/ --detector viola-jones --template eyes-mouth --out faces/ckplus
    """
    from facenet2expnet.cli import console
    from facenet2expnet.crop import CropContract
    from facenet2expnet.data import sources
    from facenet2expnet.faces import store

    contract = CropContract(detector=detector, template=template, stored_px=size, crop_px=size * 7 // 8)
    out = out or Path("prepared") / name
    manifest = sources.read_into(name, path, out.with_name(out.name + ".pictures"), **_options(option))
    with console.progress(quiet) as display:
        faces = store.prepare(manifest, contract, out, centre_crop=centre_crop, progress=display.of("faces"))
    for note in manifest.notes:
        print(note)
    if faces.without_face:
        print(f"{len(faces.without_face)} pictures without a detected face are on a contact sheet in {out}")
    if faces.skipped:
        print(f"{len(faces.skipped)} pictures were left out; they are listed in {out / 'skipped.csv'}")
    summary([out])
    print(f"{len(faces)} faces in {out}; next: fn2en compare {out}")


def summary(data: Annotated[list[Path], typer.Argument(help="Prepared faces, folders or manifests.")]) -> None:
    """Print the number of pictures of each class, beside the counts of the paper's Table II.

    Example: fn2en data summary faces/ckplus faces/sfew
    """
    from facenet2expnet.cli import console
    from facenet2expnet.data.manifest import read_manifest
    from facenet2expnet.data.summary import summarise_counts
    from facenet2expnet.faces.store import is_store
    from facenet2expnet.report import tables

    table, notes = summarise_counts([read_manifest(path, need_pictures=not is_store(path)) for path in data])
    console.out.print(tables.to_rich(table))
    for note in notes:
        print(note)


def split(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="The split file, .json.")],
    protocol: Protocol = "auto",
    folds: Folds = 10,
    seed: Annotated[int, typer.Option(help="Seed of stratified folds.")] = 0,
    merge_labels: MergeLabels = "",
) -> None:
    """Write splits to a file, which others can use with --protocol FILE.

    Example: fn2en data split faces/ckplus --out ckplus-folds.json
    """
    from facenet2expnet.data import splits
    from facenet2expnet.data.manifest import read_manifest
    from facenet2expnet.errors import UserError
    from facenet2expnet.faces.store import is_store

    if out.suffix != ".json":
        raise UserError(f"{out}: expected a name that ends in .json")
    if merge_labels:
        manifest = with_merged_labels(data, merge_labels)
    else:
        manifest = read_manifest(data, need_pictures=not is_store(data))
    chosen = splits.choose(manifest, protocol, folds, seed)
    splits.write_splits(chosen.splits, manifest, out)
    print(f"{len(chosen.splits)} splits by the protocol {chosen.name} were written to {out}. {chosen.note}")


def audit(
    data: Data,
    protocol: Annotated[str, typer.Option(help="Splits to check, as for compare; own: of the data's columns.")] = "own",
    folds: Folds = 10,
    merge_labels: MergeLabels = "",
    same_subject: Annotated[bool, typer.Option(help="Look for one person with two IDs, using the dlib net.")] = True,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the findings as CSV.")] = None,
    quiet: Quiet = False,
) -> None:
    """Check for duplicates, subjects and sequences on two sides, one person with two IDs, and doubtful labels.

    Example: fn2en data audit faces/fer2013 --out audit
    """
    from facenet2expnet.cli import console
    from facenet2expnet.crop import CropContract
    from facenet2expnet.data import audit, splits
    from facenet2expnet.data.dataset import load_dataset
    from facenet2expnet.files import check_writable

    if out:
        check_writable(out / "labels.csv")
    contract = CropContract(stored_px=112, crop_px=112)  # 32,000 pictures of this side take 1.2 GB
    with console.progress(quiet) as display:
        dataset = load_dataset(
            with_merged_labels(data, merge_labels), contract, min_classes=0, progress=display.of("faces")
        )
    checked = None if protocol == "own" else splits.choose(dataset.manifest, protocol, folds).splits
    embeddings = None
    if same_subject and dataset.manifest.subjects is not None:
        from facenet2expnet.experiment.embeddings import face_embeddings

        embeddings = face_embeddings(dataset.pixels)
    found = audit.audit(dataset.manifest, dataset.pixels, checked, embeddings)
    written = found.save(out) if out else []
    print(*found.lines(), sep="\n")
    for path in written:
        print(f"written: {path}")


def export(folder: Annotated[Path, typer.Argument(help="Output folder; new or empty.")]) -> None:
    """Write the bundled sample in the folder layout of CK+.

    Example: fn2en sample export ckplus-sample
    """
    from facenet2expnet.data import bundled

    bundled.export_ckplus(folder)
    print(f"written to {folder}; next: fn2en data prepare ckplus {folder}")


def _options(settings: list[str] | None) -> dict[str, Any]:
    """`classes=6` -> {"classes": 6}; whole numbers are numbers, any other value is text."""
    from facenet2expnet.errors import UserError

    options: dict[str, Any] = {}
    for setting in settings or []:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise UserError(f"--option '{setting}': expected NAME=VALUE, as classes=6")
        options[key] = int(text) if text.isdecimal() else text
    return options
