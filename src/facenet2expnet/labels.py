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
"""Everyday spellings found in datasets. Only dataset sources apply them; a user's class names stay as they are."""

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

TFD_CODES: Mapping[int, str] = {
    1: "anger",
    2: "disgust",
    3: "fear",
    4: "happiness",
    5: "sadness",
    6: "surprise",
    7: "neutral",
}

RAFDB_CODES: Mapping[int, str] = {
    1: "surprise",
    2: "fear",
    3: "disgust",
    4: "happiness",
    5: "sadness",
    6: "anger",
    7: "neutral",
}

AFFECTNET_CODES: Mapping[int, str] = {
    0: "neutral",
    1: "happiness",
    2: "sadness",
    3: "surprise",
    4: "fear",
    5: "disgust",
    6: "anger",
    7: "contempt",
}
"""8 (none), 9 (uncertain) and 10 (no face) are no expressions."""

JAFFE_CODES: Mapping[str, str] = {
    "AN": "anger",
    "DI": "disgust",
    "FE": "fear",
    "HA": "happiness",
    "SA": "sadness",
    "SU": "surprise",
    "NE": "neutral",
}

FERPLUS_VOTES: tuple[str, ...] = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
)
"""The order of FER+'s vote columns; after them come `unknown` and `NF` (not a face)."""


def canonical(name: str) -> str | None:
    """The paper's expression for a dataset's spelling of it (Happy, sad, FEAR), or None if it is no expression."""
    lowered = name.strip().lower()
    lowered = SYNONYMS.get(lowered, lowered)
    return lowered if lowered in EXPRESSIONS else None


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
