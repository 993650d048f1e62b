"""The short form of the campaign: some damaged files of every kind. `make campaign` does thousands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tiny
from campaign import commands, determinism, files, mutations, pictures, threads
from campaign.trials import REFUSED, RESULT, Attempt, judge
from facenet2expnet import recipes
from facenet2expnet.data.pictures import MAX_PIXELS, read_reduced
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.compare import compare
from facenet2expnet.nets import face

TRIALS = 150


def do(attempt: Attempt, numbers: range, folder: Path) -> dict[str, list[str]]:
    """Do trials in this process; what they were by their outcome."""
    found: dict[str, list[str]] = {}
    for number in numbers:
        place = folder / str(number)
        place.mkdir()
        kind, text = judge(lambda n=number, p=place: attempt(n, np.random.default_rng([1, n]), p))  # type: ignore[misc]
        found.setdefault(kind, []).append(f"{number}: {text}")
    return found


@pytest.mark.filterwarnings("ignore")
def test_damaged_pictures_are_read_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "BOMB_PX", 64)
    monkeypatch.setattr(pictures, "TEXT_BOMB_EVERY", 10**9)
    found = do(pictures.make(), range(TRIALS), tmp_path)
    assert set(found) == {RESULT, REFUSED}, {kind: found[kind] for kind in set(found) - {RESULT, REFUSED}}
    assert min(map(len, found.values())) > TRIALS / 10


def test_damaged_files_give_a_result_or_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face, "entry_points", face.entry_points)
    found = do(files.make_quick(), range(TRIALS), tmp_path)
    assert set(found) == {RESULT, REFUSED}, {kind: found[kind] for kind in set(found) - {RESULT, REFUSED}}
    assert min(map(len, found.values())) > TRIALS / 10


def test_the_same_seed_gives_the_same_damage() -> None:
    content = bytes(range(256)) * 4
    for way in mutations.ANY:
        once, again = (way(content, np.random.default_rng(3)) for _ in range(2))
        assert once == again
    assert any(way(content, np.random.default_rng(3)) != content for way in mutations.ANY)


def test_what_is_not_refused_is_another_error() -> None:
    def fails() -> str:
        raise KeyError("x")

    def refuses() -> str:
        raise UserError("the file is damaged")

    assert judge(fails)[0] == "another error"
    assert judge(refuses) == (REFUSED, "the file is damaged")
    assert judge(lambda: "done") == (RESULT, "done")


def test_a_file_that_lies_about_its_size_is_refused_at_once(tmp_path: Path) -> None:
    bomb = mutations.larger_png(mutations.png_bomb(16, 2), np.random.default_rng(0))
    (tmp_path / "a.png").write_bytes(bomb)
    with pytest.raises(UserError, match=r"is too large|is damaged"):
        read_reduced(tmp_path / "a.png")
    assert MAX_PIXELS < 10**8


@pytest.mark.usefixtures("tiny_face_net")
def test_another_environment_gives_the_same_numbers_and_closed_files(tmp_path: Path) -> None:
    """Another seed of hashes, language, time zone, umask and working directory; `make campaign` tries each alone."""
    faces, recipe, first = tiny.write_faces(tmp_path / "faces", each=6), tmp_path / "tiny.toml", tmp_path / "first"
    recipes.save(tiny.tiny_recipe(), recipe)
    compare(faces, recipe=recipe, out=first, folds=2, first_folds=1, methods=("fn2en",), device="cpu", threads=1)
    arguments = ("compare", "faces", "--folds", 2, "--first-folds", 1, "--method", "fn2en", "--recipe", recipe)
    environment = {"PYTHONHASHSEED": "1", "LC_ALL": "C", "PYTHONUTF8": "0", "TZ": "Asia/Kathmandu"}
    process = commands.start(
        (*arguments, "--device", "cpu", "--threads", 1, "--quiet", "--out", "{out}"), tmp_path / "other", tmp_path,
        written=Path("other"), cwd=tmp_path, umask=0o077, **environment,
    )  # fmt: skip
    assert process.wait() == 0, (tmp_path / "other.err").read_text()
    expected, found = (determinism.numbers(folder) for folder in (first, tmp_path / "other"))
    assert len(expected) > 10
    assert found == expected
    assert determinism.wide_files(tmp_path / "other", 0o077) == []
    assert determinism.wide_files(tmp_path / "other", 0o600) != [], "the check finds what it looks for"


def test_eight_threads_give_the_numbers_of_one() -> None:
    assert dict(threads.run_threads(48).counts) == {"as expected": 48}


@pytest.mark.slow
def test_forked_and_spawned_processes_give_the_same_numbers_or_say_what_to_do() -> None:
    outcomes = threads.run_processes()
    assert not outcomes.faults
    assert outcomes.counts.pop("the same numbers") in (2, 3)
    assert all("load it there" in text for text in outcomes.counts)
