"""Pinned weights from the Hugging Face Hub: repository, revision, file, size and sha256; mirrors in order."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .local import file_sha256


class HubError(RuntimeError):
    """The file cannot be had, in one sentence with the next step."""


@dataclass(frozen=True, kw_only=True)
class Mirror:
    repository: str
    revision: str  # 40 hex digits: a commit, never a branch
    file: str


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A weight file by content, and where it may be had."""

    size: int  # bytes
    sha256: str
    mirrors: tuple[Mirror, ...]


def fetch(pin: Pin, *, what: str, otherwise: str, cache: Path | None = None) -> Path:
    """Path of the verified file in the hub's cache (`cache`, else the hub client's own folder).

    what: such as "the weights of parser 'bisenet'"; otherwise: what to do instead of trying again.

    The cache is asked first, then each mirror. A file of another size or hash is removed from the cache, and so is what
    a broken download leaves behind. Raises HubError, which names each mirror's failure and the next step.
    """
    for mirror in pin.mirrors:
        cached = _cached(mirror, cache)
        if cached is not None and _damage(cached, pin) is None:
            return cached
    failures = []
    for mirror in pin.mirrors:
        failure = _fetch_from(mirror, pin, cache)
        if isinstance(failure, Path):
            return failure
        failures.append(f"{mirror.repository}: {failure}")
    raise HubError(f"{what} cannot be had ({'; '.join(failures)}); try again with a connection, {otherwise}")


def _fetch_from(mirror: Mirror, pin: Pin, cache: Path | None) -> Path | str:
    """The verified file, or the reason why this mirror did not give it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    cached = _cached(mirror, cache)
    if cached is not None:  # found damaged before
        _remove(cached)
    endpoint = os.environ.get("HF_ENDPOINT")  # the client reads it only when it is first imported
    try:
        # hf_hub_download itself asks an absent hub for half a minute before it gives up.
        url = hf_hub_url(mirror.repository, mirror.file, revision=mirror.revision, endpoint=endpoint)
        get_hf_file_metadata(url, timeout=10)
        path = Path(
            hf_hub_download(
                mirror.repository, mirror.file, revision=mirror.revision, cache_dir=cache, endpoint=endpoint
            )
        )
    except Exception as error:  # the client has raised requests', httpx's and its own types over its versions
        _remove_partial(mirror, cache)
        return _reason(error)
    damage = _damage(path, pin)
    if damage is None:
        return path
    _remove(path)
    return damage


def _cached(mirror: Mirror, cache: Path | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(mirror.repository, mirror.file, revision=mirror.revision, cache_dir=cache)
    return Path(found) if isinstance(found, str) and Path(found).exists() else None


def _damage(path: Path, pin: Pin) -> str | None:
    size = path.stat().st_size
    if size != pin.size:
        return f"a file of {size} bytes came instead of {pin.size}"
    digest = file_sha256(path)
    return None if digest == pin.sha256 else f"a file with sha256 {digest[:12]}... came instead of {pin.sha256[:12]}..."


def _remove(path: Path) -> None:
    blob = path.resolve()  # snapshots hold links into blobs/
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


def _remove_partial(mirror: Mirror, cache: Path | None) -> None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    root = Path(constants.HF_HUB_CACHE) if cache is None else cache
    blobs = root / repo_folder_name(repo_id=mirror.repository, repo_type="model") / "blobs"
    for partial in blobs.glob("*.incomplete"):
        partial.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """A few words in place of the client's paragraphs and addresses."""
    from huggingface_hub import errors

    name = type(error).__name__
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled) or name.startswith("Connect"):
        return "not reachable, and not in the cache"
    if isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError | errors.EntryNotFoundError):
        return "no such repository, revision or file any more"
    if "Consistency check failed" in str(error):
        return "the download ended short"
    return f"the download failed ({name})"
