"""The protocol of a run on disk: written once, verified with its hash at every read."""

import json
from pathlib import Path
from typing import Any

from nac_ros.core import config
from nac_ros.core.errors import ConfigError, TrialError, show_text
from nac_ros.core.files import lock_folder, write_error, write_text
from nac_ros.core.json_reader import parse_json, read_bytes
from nac_ros.trials.protocol import FORMAT, FrozenProtocol, content_hash

PROTOCOL = "protocol.json"
MAX_BYTES = 1 << 22  # of the file; a protocol with 8 tasks has about 5,000


def write_protocol(folder: Path, frozen: FrozenProtocol) -> None:
    """Writes the protocol unless the folder already has one; raises TrialError."""
    content = config.to_plain(frozen)
    text = json.dumps({"sha256": content_hash(content), **content}, indent=1) + "\n"
    try:
        if folder.exists() and not _is_free(folder):
            raise TrialError(f"{folder} has files of something else; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        with lock_folder(folder):
            if not (folder / PROTOCOL).is_file():
                write_text(folder / PROTOCOL, text)
    except OSError as error:
        raise write_error(folder / PROTOCOL, error) from error


def read_protocol(folder: Path) -> tuple[FrozenProtocol, str]:
    """The frozen protocol and its SHA-256; raises TrialError if it was changed."""
    path = folder / PROTOCOL
    if not path.is_file():
        raise TrialError(f"{folder} has no run, {PROTOCOL} is missing; name a folder of trials")
    try:
        content = parse_json(read_bytes(path, TrialError, MAX_BYTES), PROTOCOL, TrialError)
        if not isinstance(content, dict) or "sha256" not in content:
            raise ValueError("its SHA-256 is missing")
        if (version := content.get("format")) != FORMAT:
            raise ValueError(
                f"its format is {show_text(version, 40)}, this version reads {FORMAT}"
            )
        sha256 = content.pop("sha256")
        frozen = config.build(FrozenProtocol, content, "it")
    except (ValueError, ConfigError, TrialError) as error:
        raise TrialError(
            f"{path} cannot be used: {error}; take it from a backup, or start a new run"
        ) from error
    if sha256 != content_hash(content):
        raise _changed(path, content_hash(content), str(sha256))
    return frozen, sha256


def check_unchanged(folder: Path, sha256: str, entries: list[dict[str, Any]]) -> None:
    """Raises TrialError unless every session in the log used the protocol with this SHA-256."""
    for entry in entries:
        logged = entry.get("protocol")
        if entry.get("entry") in ("begin", "resume") and logged != sha256:
            raise _changed(folder / PROTOCOL, sha256, str(logged))


def _is_free(folder: Path) -> bool:
    """Whether the folder is empty but for a protocol, complete or cut off by a crash."""
    return folder.is_dir() and all(path.name.startswith(PROTOCOL) for path in folder.iterdir())


def _changed(path: Path, found: str, frozen: str) -> TrialError:
    return TrialError(
        f"{path} was changed after it was frozen, or the log next to it is of another run: its "
        f"SHA-256 was {show_text(frozen[:12])}, is {found[:12]}; restore it, or start a new run"
    )
