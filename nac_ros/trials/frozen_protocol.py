"""A run's protocol on disk: written once, and verified whenever it is read."""

import json
from pathlib import Path
from typing import Any

from nac_ros.core import config
from nac_ros.core.errors import ConfigError, TrialError, show_text
from nac_ros.core.files import locked, replace_with, unwritable
from nac_ros.core.json_reader import parse_json, read_bytes
from nac_ros.trials.protocol import Frozen, digest

PROTOCOL = "protocol.json"
MAX_BYTES = 1 << 22  # of a protocol; one of 8 tasks has about 5,000


def freeze_into(folder: Path, frozen: Frozen) -> None:
    """Writes the protocol, unless another process was first."""
    content = config.to_plain(frozen)
    text = json.dumps({"sha256": digest(content), **content}, indent=1) + "\n"
    try:
        if folder.exists() and (not folder.is_dir() or any(map(_strange, folder.iterdir()))):
            raise TrialError(f"{folder} holds something else than a run; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if not (folder / PROTOCOL).is_file():
                replace_with(folder / PROTOCOL, lambda to: to.write_text(text))
    except OSError as error:
        raise unwritable(folder / PROTOCOL, error) from error


def _strange(path: Path) -> bool:
    """Whether a file is no protocol that a crash kept from being completed."""
    return not path.name.startswith(PROTOCOL)


def stored(folder: Path) -> tuple[Frozen, str]:
    """The frozen protocol and the hash of what is written there."""
    path = folder / PROTOCOL
    if not path.is_file():
        raise TrialError(f"{folder} holds no run, {PROTOCOL} is missing; name a folder of trials")
    try:
        content = parse_json(read_bytes(path, TrialError, MAX_BYTES), PROTOCOL, TrialError)
        if not isinstance(content, dict) or "sha256" not in content:
            raise ValueError("its SHA-256 is missing")
        said = content.pop("sha256")
        frozen = config.build(Frozen, content, "it")
    except (ValueError, ConfigError, TrialError) as error:
        raise TrialError(
            f"{path} is no frozen protocol: {error}; take it from a backup, or begin anew"
        ) from error
    if said != digest(content):
        raise _changed(path, digest(content), str(said))
    return frozen, said


def check_unchanged(folder: Path, sha256: str, entries: list[dict[str, Any]]) -> None:
    """The log says what the protocol was whenever it was gone on with."""
    for entry in entries:
        said = entry.get("protocol")
        if entry.get("entry") in ("begin", "resume") and said != sha256:
            raise _changed(folder / PROTOCOL, sha256, str(said))


def _changed(path: Path, found: str, frozen: str) -> TrialError:
    return TrialError(
        f"{path} was changed after it was frozen, or the log beside it is of another run: its "
        f"SHA-256 was {show_text(frozen[:12])}, is {found[:12]}; put it back, or begin anew"
    )
