"""What comes from strangers: no pickle is loaded, nothing leaves its folder, and files are not open to all."""

from __future__ import annotations

import ast
import os
import stat
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import facenet2expnet
from facenet2expnet.data import sources
from facenet2expnet.errors import UserError
from facenet2expnet.files import write_atomic
from facenet2expnet.labels import FERPLUS_VOTES
from facenet2expnet.predict.fetch import split_reference

PACKAGE, ROOT = Path(facenet2expnet.__file__).parent, Path(__file__).parents[2]
UNPINNED = ("timm",)
"""Extras that the tests do without."""

FORBIDDEN = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cPickle.load", "dill.load", "cloudpickle.load", "joblib.load",
    "marshal.loads", "shelve.open", "pd.read_pickle", "pandas.read_pickle", "torch.jit.load", "eval", "exec",
    "yaml.load", "os.system",
}  # fmt: skip
"""Calls that run what a file says."""


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield the dotted name of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def dangers(source: str) -> list[str]:
    """Return the calls of a text of Python that may run code from a file."""
    found = []
    for name, call in calls(ast.parse(source)):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        unsafe = name in FORBIDDEN
        unsafe |= name == "torch.load" and given.get("weights_only") != "True"
        unsafe |= name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False"
        unsafe |= given.get("shell") == "True" or given.get("trust_remote_code") == "True"
        unsafe |= name.endswith((".extractall", ".extract")) and "filter" not in given
        if unsafe:
            found.append(f"line {call.lineno}: {name}")
    return found


def test_the_walk_finds_what_it_looks_for() -> None:
    bad = (
        "torch.load(p)\nnp.load(p, allow_pickle=True)\npickle.load(f)\nsubprocess.run(c, shell=True)\nz.extractall(d)\n"
    )
    assert [line.partition(":")[0] for line in dangers(bad)] == [f"line {number}" for number in range(1, 6)]
    assert dangers("torch.load(p, weights_only=True)\nnp.load(p)\nnp.load(p, allow_pickle=False)\nmodel.eval()\n") == []


def test_no_pickle_is_loaded_and_no_shell_is_used() -> None:
    found = {path.relative_to(PACKAGE).as_posix(): dangers(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert len(found) > 100
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_what_the_tests_ran_with_is_pinned_and_of_the_releases_that_are_asked_for() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: wanted for name, wanted in project["optional-dependencies"].items() if name not in UNPINNED}
    asked = [Requirement(text) for texts in (project["dependencies"], *extras.values()) for text in texts]
    assert len(pins) == len(lines) > 50
    wrong = [str(one) for one in asked if not one.specifier.contains(pins.get(canonicalize_name(one.name), "0"))]
    assert not wrong


def test_no_pickle_is_shipped() -> None:
    endings = {path.suffix for path in PACKAGE.rglob("*") if path.is_file()}
    assert endings & {".pkl", ".pickle", ".pt", ".pth", ".joblib", ".npz", ".mat"} == set()


@pytest.mark.parametrize("name", ["../../outside.png", "{outside}"])
def test_a_picture_of_a_zip_does_not_leave_its_folder(tmp_path: Path, name: str) -> None:
    name = name.format(outside=tmp_path / "outside.png")
    (tmp_path / "set").mkdir()
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "set" / "training.zip", "w") as packed:
        packed.writestr(name, (tmp_path / "a.png").read_bytes())
    votes = [f"fp_{vote}" for vote in (*FERPLUS_VOTES, "unknown", "NF")]
    header = ",".join(["image,usage,fer2013_label,pixel_md5", *votes])
    (tmp_path / "set" / "training.csv").write_text(f"{header}\n{name},Training,sad,x{',1' * 10}\n")
    with pytest.raises(UserError, match="would be written outside of"):
        sources.read_into("fer2013", tmp_path / "set", tmp_path / "out" / "deep" / "er")
    assert not list(tmp_path.rglob("outside.png"))


@pytest.mark.parametrize("reference", ["hf:../x", "hf:a/../b", "hf:a/b@../../c/d\n", "hf:/etc/passwd", "hf:a/b/c"])
def test_a_name_on_the_hub_is_a_name(reference: str) -> None:
    with pytest.raises(UserError, match="expected hf:owner/name"):
        split_reference(reference)


def test_files_are_written_with_the_users_permissions(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "mine.txt", b"x")
    finally:
        os.umask(before)
    write_atomic(tmp_path / "ours.txt", b"x")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"mine.txt": 0o600, "ours.txt": 0o666 & ~before}
