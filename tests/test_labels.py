"""Names of classes: spellings of one class, and names that only look alike."""

from __future__ import annotations

import pytest

from facenet2expnet.errors import UserError
from facenet2expnet.labels import canonical, clean, tidy


def test_blanks_accents_and_invisible_characters() -> None:
    assert clean(" \u00a0fe\u0301 \u3000 x\u200b\ufeff ") == "f\u00e9 x"
    assert clean("می\u200cخندد") == "می\u200cخندد"  # a joiner that Persian needs
    assert canonical(" HAPPY\u200b") == "happiness"


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["anger", "Anger", "ANGER"], ["anger"]),
        (["Wut", "WUT", "Wut"], ["Wut"]),  # the most frequent spelling
        (["Angry", "Sad"], ["Angry", "Sad"]),  # a user's names stay
        (["AU1", "AU12", "au_1"], ["AU1", "AU12", "au_1"]),
        (["1", "-1", "10"], ["-1", "1", "10"]),
        (["class 1", "class 2"], ["class 1", "class 2"]),
        (["male", "female"], ["female", "male"]),
        (["smile", "smirk"], ["smile", "smirk"]),
        (["anger", "danger"], ["anger", "danger"]),
        (["surprised", "unsurprised"], ["surprised", "unsurprised"]),
        (["", "", "x"], ["", "x"]),
    ],
)
def test_classes_of_labels(names: list[str], classes: list[str]) -> None:
    assert sorted(set(tidy(names)[0])) == sorted(classes)


@pytest.mark.parametrize(
    "names",
    [
        ["anger", "Angry"],
        ["happiness", "joy"],
        ["very happy", "very_happy"],
        ["suprise", "surprise"],
        ["Ａnger", "anger"],
    ],
)
def test_two_spellings_of_one_class(names: list[str]) -> None:
    with pytest.raises(UserError, match="look like one class; --merge-labels auto"):
        tidy(names)
    assert len(set(tidy([*names, names[1]], merge="auto")[0])) == 1


def test_known_classes_give_the_spelling() -> None:
    assert tidy(["Angry", "SAD"], classes=("angry", "sad"))[0] == ["angry", "sad"]
    assert tidy(["happy", "joy"], classes=("happy", "joy"))[0] == ["happy", "joy"]
    assert tidy(["anger", "joy"], classes=("angry", "happy"), merge="auto")[0] == ["angry", "happy"]
    assert tidy(["a", "b"], merge={"B": "a"})[0] == ["a", "a"]


def test_a_label_of_the_mapping_file_is_settled() -> None:
    with pytest.raises(UserError, match="keeps a class by a line as surprize,surprize"):
        tidy(["surprise", "surprize"])
    assert tidy(["surprise", "surprize"], merge={"surprize": "surprize"})[0] == ["surprise", "surprize"]
    assert tidy(["happy", "joy"], merge={"joy": "joy"})[0] == ["happy", "joy"]
    assert tidy(["angry", "hazard"], merge={"hazard": "angre"})[0] == ["angry", "angre"]
    with pytest.raises(UserError, match=r"anger \(1\) and angry \(1\) look like one class"):
        tidy(["mad", "angry"], merge={"mad": "anger"})
