"""A sum of objectives as a recipe writes it: `standardised-l2(per=channel) + 0.5 * attention-transfer`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from facenet2expnet.errors import UserError
from facenet2expnet.training.losses.base import Choice, ObjectiveModule, check_terms

EXAMPLE = "'standardised-l2(per=channel) + 0.5 * attention-transfer'"

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_TERM = re.compile(
    rf"(?:(?P<weight>{_NUMBER})\s*\*\s*)?(?P<name>[A-Za-z][\w-]*)\s*(?:\((?P<options>[^()]*)\)\s*)?"
)


@dataclass(frozen=True)
class Term:
    """One term of a sum: its weight, the objective's name, and the options given to it."""

    weight: float
    name: str
    options: Mapping[str, float | bool | str]


def parse(text: str, known: Mapping[str, type[ObjectiveModule]]) -> tuple[Term, ...]:
    """Terms joined by `+`, each `[weight *] name[(option=value, ...)]`; without a weight it is 1.

    Args:
        text: the sum.
        known: name -> objective.
    Raises:
        UserError: If it can't be read, an objective or an option is unknown, an option has not the type or the range
            that it needs, or the terms can't be summed; see `check_terms`.
    """
    terms: list[Term] = []
    rest = text.strip()
    while not terms or rest:
        if terms and not rest.startswith("+"):
            raise UserError(f"'{text}': expected '+' or the end where '{rest}' stands; write it as {EXAMPLE}")
        rest = rest[1:].lstrip() if terms else rest
        match = _TERM.match(rest)
        if match is None:
            raise UserError(f"'{text}': expected an objective where '{rest}' stands; write it as {EXAMPLE}")
        terms.append(_term(match, known))
        rest = rest[match.end() :]
    check_terms([(term.weight, known[term.name]) for term in terms])
    return tuple(terms)


def _term(match: re.Match[str], known: Mapping[str, type[ObjectiveModule]]) -> Term:
    name = match["name"]
    if name not in known:
        raise UserError(f"there is no objective '{name}'; expected one of {', '.join(known)}")
    kind = known[name]
    options: dict[str, float | bool | str] = {}
    for option in (match["options"] or "").split(",") if (match["options"] or "").strip() else []:
        key, _, value = (part.strip() for part in option.partition("="))
        if key not in kind.options or key in options:
            why = "has no such option" if key not in kind.options else "has it twice"
            raise UserError(f"'{option.strip()}': {name} {why}; its options are {_listed(kind)}")
        options[key] = _value(value, kind.options[key], f"'{option.strip()}' of {name}")
    if not kind.needs_features:
        try:
            kind.fit((), **options)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None
    return Term(float(match["weight"] or 1), name, options)


def _value(text: str, choice: Choice, where: str) -> float | bool | str:
    if isinstance(choice, tuple) and text in choice:
        return text
    if choice is bool and text in ("true", "false"):
        return text == "true"
    if choice is float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    raise UserError(f"{where}: expected {_described(choice)}")


def _listed(kind: type[ObjectiveModule]) -> str:
    return ", ".join(f"{key}={_described(choice)}" for key, choice in kind.options.items()) or "none"


def _described(choice: Choice) -> str:
    if isinstance(choice, tuple):
        return " or ".join(choice)
    return "true or false" if choice is bool else "a number"
