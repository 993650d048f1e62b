"""Expressions, their order, and each dataset's label codes."""

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
"""Spellings found in datasets. Only dataset readers apply them; a user's class names are not changed."""

# Codes of expressions in the datasets' own label files.
CKPLUS_CODES: Mapping[int, str] = dict(
    enumerate(("neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise"))
)
FER2013_CODES: Mapping[int, str] = dict(
    enumerate(("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"))
)
TFD_CODES: Mapping[int, str] = {code + 1: name for code, name in FER2013_CODES.items()}
RAFDB_CODES: Mapping[int, str] = dict(
    enumerate(("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"), start=1)
)
AFFECTNET_CODES: Mapping[int, str] = dict(
    enumerate(("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"))
)
"""8 (none), 9 (uncertain) and 10 (no face) are not expressions."""
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
"""The order of FER+'s vote columns; `unknown` and `NF` (not a face) follow."""


def canonical(name: str) -> str | None:
    """The paper's name of an expression (Happy, sad, FEAR -> happiness, sadness, fear), or None if it is none."""
    lowered = name.strip().lower()
    lowered = SYNONYMS.get(lowered, lowered)
    return lowered if lowered in EXPRESSIONS else None


def in_canonical_order(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct class names: the paper's expressions first and in its order, then any other name, sorted."""
    distinct = set(names)
    known = [name for name in EXPRESSIONS if name in distinct]
    return (*known, *sorted(distinct - set(EXPRESSIONS)))


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that is most similar to the given one, or None if none is close."""
    synonym = SYNONYMS.get(name.strip().lower())
    if synonym in known:
        return synonym
    matches = difflib.get_close_matches(name.strip().lower(), [k.lower() for k in known], n=1, cutoff=0.6)
    return next((k for k in known if matches and k.lower() == matches[0]), None)


def suggestion(name: str, known: Sequence[str]) -> str:
    """The end of an error message: "; did you mean 'happy'?", or "" if no known name is close."""
    match = nearest(name, known)
    return f"; did you mean '{match}'?" if match else ""
