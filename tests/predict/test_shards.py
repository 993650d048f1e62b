"""Shards: together they are the whole, parts are whole or absent, and what can't be read is a row."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import tiny
from facenet2expnet import claims
from facenet2expnet.claims import Claims
from facenet2expnet.crop import CropContract
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.workers import Outcome
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.predict import shards
from facenet2expnet.predict.model_folder import Model, save_model
from facenet2expnet.predict.options import Options
from facenet2expnet.predict.recognizer import Recognizer
from facenet2expnet.predict.results import FrameResult
from facenet2expnet.predict.shards import Shard, ShardTask, do_shard, predict_shard, predict_shards
from facenet2expnet.predict.table import TableWriter

FACES = Options(faces="whole-image", workers=2)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    torch.manual_seed(0)
    contract = CropContract(stored_px=40, crop_px=32)
    net = ExpNet(3, input_px=32, bridge_chw=(8, 2, 2), width=0.1, hidden=8)
    return Recognizer(
        Model(ExpressionClassifier(net, contract.mean, contract.scale).eval(), tiny.CLASSES, contract, {})
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten pictures in two folders and one that is none, beside what is no picture."""
    folder = tmp_path / "archive"
    rng = np.random.default_rng(0)
    for number in range(10):
        path = folder / f"day {number // 6}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    (folder / "day 0" / "4b.jpg").write_bytes(b"nothing")
    (folder / "day 1" / ".hidden.png").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("mine")
    return folder


def parts(out: Path) -> list[Path]:
    return sorted((out / shards.PARTS).iterdir())


def run(recognizer: Recognizer, sources: Any, out: Path, shard: str = "1/1", **more: Any) -> shards.ShardResult:
    given = {"options": FACES, "part_pictures": 2} | more
    listed = [str(source) for source in (sources if isinstance(sources, list) else [sources])]
    return predict_shard(recognizer, listed, out, Shard.parse(shard), given.pop("options"), **given)


def test_what_a_killed_process_left_half_written_is_deleted(
    recognizer: Recognizer, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in (".pictures.0123abcd.jsonl", ".shards.0123abcd.json"):
        (out / name).write_text("half")
    run(recognizer, pictures, out)
    first = parts(out)[0]
    first.rename(first.with_name(f".{first.stem}.0123abcd.parquet"))
    run(recognizer, pictures, out, resume=True)
    assert first.is_file()
    assert [path.name for path in out.rglob(".*") if path.is_file()] == []


def test_the_shards_together_are_the_whole(recognizer: Recognizer, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = [run(recognizer, pictures, out, f"{number}/3") for number in (2, 1, 3)]
    assert [one.missing for one in found] == [4, 2, 0]
    assert sum(one.files for one in found) == 11
    assert [path.name for path in parts(out)] == [f"part-{n:010}.parquet" for n in (0, 2, 3, 5, 7, 9)]
    with TableWriter(tmp_path / "whole.parquet", recognizer.classes) as writer:
        for result in recognizer.stream(pictures, FACES):
            writer.write(result)
    whole = pd.read_parquet(tmp_path / "whole.parquet")
    together = pd.concat(map(pd.read_parquet, parts(out)), ignore_index=True)
    pd.testing.assert_frame_equal(together, whole, rtol=0, atol=2e-6)  # a batch of another size, and rounding
    at_once = pd.read_parquet(out / shards.PARTS)
    assert sorted(at_once["source"]) == sorted(whole["source"])
    unread = together[together["label"].isna()]
    assert [Path(source).name for source in unread["source"]] == ["4b.jpg"]
    assert "is not a picture that can be read" in unread["note"].iloc[0]
    assert sum(one.unread for one in found) == 1
    assert {one.passed_over for one in found} == {"Passed over: 1 file (.txt 1)."}


def test_links_are_followed_and_a_loop_is_read_once(recognizer: Recognizer, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (pictures / "day 0" / "5.png").rename(tmp_path / "elsewhere" / "5.png")
    (pictures / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (pictures / "loop").symlink_to(pictures, target_is_directory=True)
    assert run(recognizer, pictures, tmp_path / "out").files == 11
    listed = [json.loads(line) for line in (tmp_path / "out" / shards.LIST).read_text().splitlines()]
    assert listed[-1] == str(pictures / "link" / "5.png")
    assert len(set(listed)) == 11


def test_a_process_that_lost_its_shard_writes_no_part(
    recognizer: Recognizer, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write, files = tmp_path / "out", TableWriter.write, list[Path]()

    def sleep_long(self: TableWriter, result: FrameResult) -> None:
        write(self, result)
        files.append(self.rows_path)
        claim = out / claims.FOLDER / "shard-1.1.json"
        claim.rename(claim.with_name("shard-1.2.json"))  # as after a take-over

    with monkeypatch.context() as patched:
        patched.setattr(TableWriter, "write", sleep_long)
        with pytest.raises(UserError, match="another process took over shard 1/1"):
            run(recognizer, pictures, out, part_pictures=1)
    assert not (out / shards.PARTS).exists() or not parts(out)
    assert not files[0].exists()
    files[0].write_text("of a killed process")
    (out / claims.FOLDER / "shard-1.2.json").unlink()
    assert run(recognizer, pictures, out, part_pictures=1).files == 11
    assert not files[0].exists()


def test_the_list_is_made_once_and_a_picture_that_is_gone_is_a_row(
    recognizer: Recognizer, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(recognizer, pictures, out, "1/2")
    listed = (out / shards.LIST).read_bytes()
    (pictures / "day 1" / "9.png").unlink()
    (pictures / "day 1" / "new.png").write_bytes(b"nothing")
    run(recognizer, pictures, out, "2/2")
    assert (out / shards.LIST).read_bytes() == listed
    table = pd.read_parquet(out / shards.PARTS).set_index("source")
    assert len(table) == 11
    assert table.loc[str(pictures / "day 1" / "9.png"), "note"] == "was not found"


def test_a_part_that_was_interrupted_is_absent_and_resume_skips_those_that_are_whole(
    recognizer: Recognizer, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write = tmp_path / "out", TableWriter.write

    def stop(self: TableWriter, result: FrameResult) -> None:
        write(self, result)
        if result.source.endswith("/5.png"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TableWriter, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            run(recognizer, pictures, out)
    before = {path: path.stat().st_mtime_ns for path in parts(out)}
    assert len(before) == 3  # 0, 1; 2, 3; 4, 4b; not 5, 6
    assert not list(out.rglob("*.unfinished.csv"))
    with pytest.raises(UserError, match="holds parts of shard 1/1 already; add --resume"):
        run(recognizer, pictures, out)
    result = run(recognizer, pictures, out, resume=True)
    assert (result.parts_before, result.parts, result.files, result.missing) == (3, 6, 5, 0)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(pd.read_parquet(out / shards.PARTS)) == 11


def test_what_differs_from_the_first_command_is_named(recognizer: Recognizer, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(recognizer, pictures, out, "1/2")
    with pytest.raises(UserError, match=r"begun with other shards \(shards 2\)"):
        run(recognizer, pictures, out, "1/3")
    with pytest.raises(UserError, match="begun with other sources"):
        run(recognizer, pictures / "day 1", out, "2/2")
    with pytest.raises(UserError, match="begun with other options"):
        run(recognizer, pictures, out, "2/2", options=Options(faces="largest"))
    run(recognizer, pictures, out, "2/2", options=Options(faces="whole-image", workers=1))  # workers change no row
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 3))
    another = Recognizer(Model(module, recognizer.classes, recognizer.contract, {}))
    with pytest.raises(UserError, match="begun with other weights"):
        run(another, pictures, out, "2/2")


def test_one_process_at_a_time_works_on_a_shard(recognizer: Recognizer, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Claims(out / claims.FOLDER) as other:
        assert other.take("shard-1")
        with pytest.raises(UserError, match="another process works on shard 1/2"):
            run(recognizer, pictures, out, "1/2")
        run(recognizer, pictures, out, "2/2")
    run(recognizer, pictures, out, "1/2")


def test_lists_and_patterns_are_sources_and_more_shards_than_pictures_are_empty(
    recognizer: Recognizer, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("archive/day 0/1.png\narchive/day 0/gone.png\n")
    sources = [tmp_path / "list.txt", pictures / "day 1" / "*.png"]
    found = [run(recognizer, sources, tmp_path / "out", f"{number}/9") for number in range(1, 10)]
    assert sum(one.files == 0 for one in found) == 3
    names = [json.loads(line) for line in (tmp_path / "out" / shards.LIST).read_text().splitlines()]
    wanted = ["day 0/1.png", "day 0/gone.png", *(f"day 1/{number}.png" for number in range(6, 10))]
    assert names == [str(pictures / name) for name in wanted]


class Here:
    """Workers that do two tasks in this process, when they are asked for those that ended."""

    def __init__(self, broken: str = "") -> None:
        self.broken, self.tasks, self.most = broken, list[ShardTask](), 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *given: object) -> None:
        assert not self.tasks

    @property
    def idle(self) -> bool:
        return self.running < 2

    @property
    def running(self) -> int:
        return len(self.tasks)

    def begin(self, task: ShardTask) -> None:
        self.tasks.append(task)
        self.most = max(self.most, self.running)

    def ended(self, report: Any) -> Iterator[tuple[ShardTask, Outcome]]:
        task = self.tasks.pop(0)
        assert (task.folder / claims.FOLDER / f"shard-{task.shard.number}.1.json").is_file()
        broken = str(task) == self.broken
        yield task, Outcome("its node died") if broken else Outcome(value=do_shard(task, report or print))


@pytest.fixture
def task(recognizer: Recognizer, pictures: Path, tmp_path: Path) -> ShardTask:
    """Of the model and the pictures of these tests."""
    assert isinstance(recognizer.model, torch.nn.Module)
    save_model(Model(recognizer.model, recognizer.classes, recognizer.contract, {}), tmp_path / "model")
    return ShardTask(str(tmp_path / "model"), "cpu", (str(pictures),), tmp_path / "all", FACES, part_pictures=2)


def test_all_shards_side_by_side_are_those_of_one_by_one(
    recognizer: Recognizer, pictures: Path, task: ShardTask, tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        run(recognizer, pictures, tmp_path / "one", f"{number}/3")
    seen, workers = list[tuple[str, int, int]](), Here()
    found = predict_shards(recognizer, task, 3, workers, progress=lambda *given: seen.append(given))
    assert (found.files, found.faces, found.unread, found.parts, found.missing) == (11, 10, 1, 6, 0)
    assert found.passed_over == "Passed over: 1 file (.txt 1)."
    assert workers.most == 2
    assert [one for one in seen if one[0] == "shards"] == [("shards", n, 3) for n in (1, 2, 3)]
    assert [path.name for path in parts(task.folder)] == [path.name for path in parts(tmp_path / "one")]
    for one, other in zip(parts(task.folder), parts(tmp_path / "one"), strict=True):
        pd.testing.assert_frame_equal(pd.read_parquet(one), pd.read_parquet(other), check_exact=True)


def test_a_failed_shard_is_named_and_done_again_alone(
    recognizer: Recognizer, pictures: Path, task: ShardTask, caplog: pytest.LogCaptureFixture
) -> None:
    run(recognizer, pictures, task.folder, "1/3")
    with pytest.raises(UserError, match="holds parts already; add --resume"):
        predict_shards(recognizer, task, None, Here())
    with pytest.raises(UserError, match=r"1 of 2 shards failed; shard 2/3: its node died\. .*--resume"):
        predict_shards(recognizer, task, None, Here("shard 2/3"), resume=True)
    with Claims(task.folder / claims.FOLDER) as other:
        assert other.take("shard-2")
        assert predict_shards(recognizer, task, None, Here(), resume=True).missing == 2
    assert "shard 2/3 is left out: another process works on it." in caplog.text
    found = predict_shards(recognizer, task, None, Here(), resume=True)
    assert (found.files, found.parts_before, found.parts, found.missing) == (4, 4, 6, 0)
    with pytest.raises(UserError, match=r"begun with other shards \(shards 3\)"):
        predict_shards(recognizer, task, 5, Here(), resume=True)


@pytest.mark.parametrize("text", ["3", "0/4", "5/4", "a/b", "1/2/3", ""])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"expected e\.g\. 3/64"):
        Shard.parse(text)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("webcam", "shards take files"),
        ("https://host/1.jpg", "shards take files"),
        ("nowhere", "there is no such picture"),
    ],
)
def test_sources_that_are_no_files_are_refused(
    recognizer: Recognizer, tmp_path: Path, source: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(recognizer, [source], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_not_written_to(recognizer: Recognizer, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="exists and is not empty"):
        run(recognizer, pictures, tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures or videos"):
        run(recognizer, tmp_path / "empty", tmp_path / "out")


@pytest.mark.parametrize("text", ["[]", "{}", '{"shards": "x", "files": 3}', "5", "{"])
def test_a_damaged_record_is_named(recognizer: Recognizer, pictures: Path, task: ShardTask, text: str) -> None:
    task.folder.mkdir()
    (task.folder / "shards.json").write_text(text)
    with pytest.raises(UserError, match=r"shards\.json"):
        run(recognizer, pictures, task.folder)
    with pytest.raises(UserError, match=r"shards\.json"):
        predict_shards(recognizer, task, None, Here())


def test_a_shard_that_another_process_took_over_is_left_to_it(
    recognizer: Recognizer, task: ShardTask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Claims, "holds", lambda self, name: name != "shard-2")
    found = predict_shards(recognizer, task, 3, Here(broken="shard 2/3"))
    assert "another process took over shard 2/3: it is left to that one." in caplog.text
    assert (found.files, found.missing) == (7, 2)


def test_a_folder_that_has_gone_is_not_called_taken_over(
    recognizer: Recognizer, task: ShardTask, caplog: pytest.LogCaptureFixture
) -> None:
    class Unplugged(Here):
        def ended(self, report: Any) -> Iterator[tuple[Any, Any]]:
            ended = list(super().ended(report))
            task.folder.rename(task.folder.with_name("elsewhere"))
            yield from ended

    with pytest.raises(UserError, match="there is no such folder any more; is its disk still there"):
        predict_shards(recognizer, task, 1, Unplugged(broken="shard 1/1"))
    assert "took" not in caplog.text


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no malloc_trim")
def test_free_memory_between_used_pieces_is_given_back() -> None:
    def anonymous_mb() -> float:
        return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1e3  # type: ignore[index]

    pieces = [bytes([number % 255 + 1]) * 100_000 for number in range(1000)]
    before = anonymous_mb()
    pieces = pieces[-1:]
    shards._give_memory_back()
    assert anonymous_mb() < before - 80
    assert len(pieces[0]) == 100_000
