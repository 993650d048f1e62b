"""Expressions, their order and every dataset's codes. Only here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

EXPRESSIONS: tuple[str, ...] = (
    "anger",
    "contempt",
    "disgust",
    "fear",
    "happiness",
    "sadness",
    "surprise",
    "neutral",
)
"""The eight classes of CK+ in the order of the paper's Table II (An Co Di Fe Ha Sa Su Ne)."""

ABBREVIATIONS: Mapping[str, str] = {
    "anger": "An",
    "contempt": "Co",
    "disgust": "Di",
    "fear": "Fe",
    "happiness": "Ha",
    "sadness": "Sa",
    "surprise": "Su",
    "neutral": "Ne",
}

SYNONYMS: Mapping[str, str] = {
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "happy": "happiness",
    "joy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
}
"""Everyday spellings found in datasets. Only the dataset sources apply them; a user's own class names stay as they are."""

CKPLUS_CODES: Mapping[int, str] = {
    0: "neutral",
    1: "anger",
    2: "contempt",
    3: "disgust",
    4: "fear",
    5: "happiness",
    6: "sadness",
    7: "surprise",
}

FER2013_CODES: Mapping[int, str] = {
    0: "anger",
    1: "disgust",
    2: "fear",
    3: "happiness",
    4: "sadness",
    5: "surprise",
    6: "neutral",
}


def in_canonical_order(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct class names: the paper's expressions first and in its order, any other name after them, sorted."""
    distinct = set(names)
    known = [name for name in EXPRESSIONS if name in distinct]
    return (*known, *sorted(distinct - set(EXPRESSIONS)))


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name most like the given one, or None where nothing is close."""
    synonym = SYNONYMS.get(name.strip().lower())
    if synonym in known:
        return synonym
    matches = difflib.get_close_matches(name.strip().lower(), [k.lower() for k in known], n=1, cutoff=0.6)
    return next((k for k in known if matches and k.lower() == matches[0]), None)
