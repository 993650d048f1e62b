"""Fetch a model from the Hugging Face hub: hf:owner/name or hf:owner/name@revision."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from facenet2expnet.errors import UserError
from facenet2expnet.files import read_json
from facenet2expnet.predict.model_folder import CARD, FORMAT, ONNX, WEIGHTS, check_hashes

FILES = (WEIGHTS, ONNX)
"""What is fetched after `model.json`. Whatever else a repository holds, a pickle for instance, is left there."""

TIMEOUT_S, TOO_MANY = 10, 429
"""The hub's time to answer; its status if it was asked too often, which counts as no answer."""

log = logging.getLogger(__name__)


def fetch(reference: str) -> Path:
    """Return the folder of a model on the hub, in the cache of huggingface_hub; missing files are downloaded.

    The files are compared with the hashes in `model.json`. Without a connection, a copy in the cache is used.

    Args:
        reference: hf:owner/name or hf:owner/name@revision; a revision is a branch, a tag or a commit.
    Raises:
        UserError: If there is no such model or it may not be read, it can't be downloaded and is not in the cache, it
            is not a model of ours, or a file has another hash.
    """
    repository, revision = split_reference(reference)
    from huggingface_hub import hf_hub_download

    unreachable = _unreachable(reference, repository, revision)
    get = partial(hf_hub_download, repository, local_files_only=bool(unreachable))
    try:
        path = Path(get(CARD, revision=revision))
        hashes = _read_card(reference, path).get("sha256")
        for name in FILES:
            if name in (hashes or (WEIGHTS,)):
                get(name, revision=path.parent.name)  # the commit, in case that a push comes between
    except UserError:
        raise
    except Exception as error:
        raise _not_in_cache(reference, unreachable) if unreachable else hub_error(reference, error) from error
    if unreachable:
        log.warning("%s: the hub can't be reached (%s); the copy in the cache is used.", reference, unreachable)
    check_hashes(path.parent, hashes, FILES)
    return path.parent


def split_reference(reference: str) -> tuple[str, str | None]:
    """Return owner/name and the revision, if there is one, of hf:owner/name@revision."""
    matched = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", reference)
    if not matched or ".." in reference:  # a revision becomes part of a path in the cache
        raise UserError(f"'{reference}': expected hf:owner/name or hf:owner/name@revision")
    return matched[1], matched[2]


def hub_error(what: str, error: Exception) -> UserError:
    """Return what the hub's refusal means for the user; `what` names the model."""
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    status = _status(error)
    if isinstance(error, RevisionNotFoundError):
        return UserError(f"{what}: the repository has no such revision; expected a branch, a tag or a commit")
    if isinstance(error, EntryNotFoundError) and status:
        return _no_model(what)
    if status in (401, 403) or isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"{what}: there is no such repository, or your token may not use it this way; check owner and name, and "
            f"log in with `hf auth login` or set HF_TOKEN ({_first_line(error)})"
        )
    return UserError(f"{what}: the hub refused the request ({_first_line(error)}); check the name, and try again later")


def _unreachable(reference: str, repository: str, revision: str | None) -> str:
    """Ask the hub for the revision; return the reason if it gives no answer, or "" if it has the revision."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        HfApi().repo_info(repository, revision=revision, timeout=TIMEOUT_S)
    except HFValidationError as error:
        raise UserError(f"'{reference}': {_first_line(error)}") from None
    except Exception as error:  # an answer with a status; or no network, HF_HUB_OFFLINE, a timeout
        if 400 <= _status(error) < 500 and _status(error) != TOO_MANY:
            raise hub_error(reference, error) from error
        return _first_line(error)
    return ""


def _status(error: Exception) -> int:
    """The status of the hub's answer; 0 if it gave none."""
    response = getattr(error, "response", None)
    return 0 if response is None else int(response.status_code)


def _read_card(reference: str, path: Path) -> Mapping[str, Any]:
    """Read `model.json`; raise a UserError if it belongs to something else, before anything large is downloaded."""
    card = read_json(path)
    if not isinstance(card, dict) or card.get("format") != FORMAT or not isinstance(card.get("sha256", {}), dict):
        raise _no_model(reference)
    return card


def _no_model(reference: str) -> UserError:
    return UserError(
        f"{reference}: not a model of facenet2expnet: expected a {CARD} of format {FORMAT}; "
        "check the name, or update facenet2expnet"
    )


def _not_in_cache(reference: str, reason: str) -> UserError:
    return UserError(
        f"{reference}: the hub can't be reached ({reason}), and the model is not in the cache; load it once with a "
        "connection, or name a model folder"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
