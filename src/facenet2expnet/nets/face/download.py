"""Find a weights file: a path, a URL with its checksum, or a file of a Hugging Face repository."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from facenet2expnet.errors import UserError

CACHE_VARIABLE = "FACENET2EXPNET_CACHE"
"""Downloads from URLs go to `weights` in this folder, or in the operating system's cache folder of the user."""


def locate(reference: str | Path) -> Path:
    """Return the path of the file that a reference names; download it if needed.

    A reference is a path; hf:owner/name/file or hf:owner/name@revision/file; or https://…#sha256=HEX. The ending
    #sha256=HEX is required after a URL and allowed after the others.

    Raises:
        UserError: If the file does not exist, can't be downloaded, or has another checksum.
    """
    text, _, sha256 = str(reference).partition("#sha256=")
    sha256 = sha256.lower()
    if re.match("https?://", text):
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise UserError(
                f"{text}: expected a URL with the checksum of its file, {text}#sha256=HEX with 64 hexadecimal digits; "
                "`sha256sum FILE` prints it for a file that you trust"
            )
        return _from_url(text, sha256)
    path = _from_hugging_face(text) if text.startswith("hf:") else Path(os.path.expanduser(text))
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {got}; expected a file, hf:owner/name/file or https://…#sha256=HEX")
    if sha256 and (found := hashlib.sha256(path.read_bytes()).hexdigest()) != sha256:
        raise UserError(f"{path}: expected a file with sha256 {sha256}, got one with {found}")
    return path


def _from_url(url: str, sha256: str) -> Path:
    """Return the file of a URL from the cache; download it if it is not there with the right checksum."""
    import pooch

    folder = Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("facenet2expnet"), "weights")
    try:
        downloader = pooch.HTTPDownloader(timeout=30, chunk_size=1 << 20)
        return Path(pooch.retrieve(url, f"sha256:{sha256}", path=folder, downloader=downloader))
    except (OSError, ValueError) as error:  # the connection, the disk, the checksum
        raise UserError(
            f"{url}: can't be downloaded to {folder} ({first_line(error)}); check the address, the checksum and the "
            f"connection, set {CACHE_VARIABLE} to another folder, or download the file by hand and give its path"
        ) from error


def _from_hugging_face(reference: str) -> Path:
    """Return a file of a Hugging Face repository from the cache of huggingface_hub, which downloads it if needed."""
    matched = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w.-]+))?/(.+)", reference)
    if not matched:
        raise UserError(f"'{reference}': expected hf:owner/name/file or hf:owner/name@revision/file")
    repository, revision, name = matched.groups()
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except Exception as error:  # the hub's errors, those of its HTTP client, ValueError for a bad path
        raise UserError(
            f"{reference}: can't be downloaded ({first_line(error)}); check owner, name and file, log in with "
            "`hf auth login` if the repository is private, or give the path of the file"
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
