"""Expressions, their order, and each dataset's label codes."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from facenet2expnet.errors import UserError

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
    "contemptuous": "contempt",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "scared": "fear",
    "happy": "happiness",
    "joy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
}
"""Spellings found in datasets. Dataset readers apply them; a user's class names are changed only by --merge-labels."""

JOINERS = "\u200c\u200d"
"""Invisible characters that belong to the spelling of Persian and Indic words and of some emoji."""

TYPO = 0.85
"""Similarity from which an unknown label counts as a misspelling of an expression that is there too."""

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
    lowered = clean(name).casefold()
    lowered = SYNONYMS.get(lowered, lowered)
    return lowered if lowered in EXPRESSIONS else None


def clean(name: str) -> str:
    """A name with composed accents (Unicode NFC), without invisible characters, and with single blanks inside."""
    seen = [c for c in unicodedata.normalize("NFC", name) if c in JOINERS or unicodedata.category(c) != "Cf"]
    return " ".join("".join(seen).split())


def plain(name: str) -> str:
    """What two spellings of one name have in common: no case, no width, no blank, hyphen or underscore in words."""
    text = unicodedata.normalize("NFKC", clean(name)).casefold().translate(dict.fromkeys(map(ord, JOINERS)))
    return re.sub(r"(?<=[^\W\d_])[\s_-]+(?=[^\W\d_])", "", text)


def tidy(
    names: Sequence[str], classes: Sequence[str] = (), merge: str | Mapping[str, str] = ""
) -> tuple[list[str], list[str]]:
    """Give each class one spelling; "" stays, for a picture without a label.

    Blanks, invisible characters and accents are normalised. Spellings that differ in upper and lower case alone are one
    class: that of `classes`, else the paper's, else the most frequent. Other spellings that look like one class (happy
    and happiness, very_happy and very happy, suprise and surprise) are an error unless `merge` says what to do.

    Args:
        names: the label of each picture.
        classes: the allowed class names, if they are known.
        merge: "auto" to make one class of spellings that look like one; or label -> class, for labels to rename. A
            label that is named there is never taken for another one; renamed to itself, it stays.
    Returns:
        The label of each picture, and sentences on what was changed.
    Raises:
        UserError: If two labels look like one class, or `merge` names a label that is not there.
    """
    cleaned = [clean(name) for name in names]
    notes, settled = [], set[str]()
    if not isinstance(merge, str):
        renamed = {clean(old).casefold(): clean(new) for old, new in merge.items()}
        if missing := sorted(set(renamed) - {name.casefold() for name in cleaned}):
            raise UserError(f"the labels to rename are not in the data: {', '.join(missing)}; check the mapping file")
        cleaned = [renamed.get(name.casefold(), name) for name in cleaned]
        settled = {*renamed, *(new.casefold() for new in renamed.values() if not canonical(new))}
    counts = Counter(name for name in cleaned if name)
    spelling: dict[str, str] = {}
    for group in _groups(counts, str.casefold):
        chosen = _chosen(group, counts, classes)
        spelling |= dict.fromkeys(group, chosen)
        if len(group) > 1:
            shown = " and ".join(f"{name} ({counts[name]})" for name in group)
            notes.append(f"The labels {shown} are one class, {chosen}.")
    counts = Counter(spelling[name] for name in cleaned if name)
    if classes and merge != "auto":  # a label that is no class is then a fault of its line
        return [spelling.get(name, "") for name in cleaned], notes
    unsettled = [name for name in (*counts, *classes) if name.casefold() not in settled]
    twins = _groups(unsettled, lambda name: canonical(name) or plain(name))
    misspelt = [pair for pair in _misspelt(counts) if pair[1].casefold() not in settled]
    twins = [group for group in [*twins, *misspelt] if len(group) > 1 and not set(group) <= set(classes)]
    if twins and merge != "auto":
        pairs = (" and ".join(f"{name} ({counts[name]})" for name in group) for group in twins)
        raise UserError(
            "".join(f"the labels {pair} look like one class; " for pair in pairs)
            + "--merge-labels auto makes one class of them, --merge-labels FILE.csv renames labels by its lines "
            f"from,to, and keeps a class by a line as {twins[0][-1]},{twins[0][-1]} (with fn2en data prepare folder: "
            "--option merge_labels=auto)"
        )
    for group in twins:
        chosen = _chosen(group, counts, classes)
        spelling = {name: chosen if target in group else target for name, target in spelling.items()}
        notes.append(f"The labels {' and '.join(group)} were merged into {chosen}.")
    return [spelling.get(name, "") for name in cleaned], notes


def _groups(names: Iterable[str], key: Callable[[str], str]) -> list[list[str]]:
    """Names with the same key, each group sorted."""
    found: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        found.setdefault(key(name), []).append(name)
    return list(found.values())


def _misspelt(names: Iterable[str]) -> list[list[str]]:
    """Pairs of an expression and a word without digits that is nearly it, and not the expression with a prefix."""
    known = {name: expression for name in names if (expression := canonical(name))}
    words = sorted(name for name in names if name not in known and not re.search(r"\d", name))
    pairs = []
    for name in words:
        by_plain = {plain(k): k for k in known if not plain(name).endswith(plain(k))}  # danger is not anger
        pairs += [[by_plain[near], name] for near in difflib.get_close_matches(plain(name), by_plain, 1, TYPO)]
    return pairs


def _chosen(group: Sequence[str], counts: Mapping[str, int], classes: Sequence[str]) -> str:
    """The spelling of a class: that of `classes`, the paper's if one of the group has it, or the most frequent."""
    given = [name for name in classes if any(name.casefold() == other.casefold() for other in group)]
    expressions = [name for name in group if name in EXPRESSIONS]
    return (given or expressions or sorted(group, key=lambda name: (-counts[name], name)))[0]


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
