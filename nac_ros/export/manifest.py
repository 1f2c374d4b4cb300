"""Manifest of a bundle: robot, tasks, rate and the hash of every file, which it verifies."""

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from nac_ros.core import config as configs
from nac_ros.core.config import REQUIRED, check_fields, number_field, sequence_field
from nac_ros.core.errors import BundleError, ConfigError, show_text
from nac_ros.core.files import sha256, write_text
from nac_ros.core.json_reader import read_json

MANIFEST = "manifest.json"
FORMAT = 2
MAX_FILES = 1000
MAX_FILE_BYTES = 2 << 30
MIN_RATE_HZ, MAX_RATE_HZ, MAX_HORIZON = 1e-3, 1000.0, 10_000


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """format: version of the layout; files: relative path -> sha256; created_by: provenance"""

    format: int = FORMAT
    robot: str = ""
    tasks: dict[str, str] = field(default_factory=dict)
    rate_hz: float = number_field(REQUIRED, MIN_RATE_HZ, MAX_RATE_HZ)
    horizon: int = number_field(REQUIRED, 1, MAX_HORIZON)
    files: dict[str, str] = sequence_field(REQUIRED, 1, MAX_FILES)
    created_by: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)


def write_manifest(folder: Path, **facts: Any) -> Manifest:
    """Hashes every file of `folder` and writes manifest.json."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST]
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(paths)}
    manifest = Manifest(files=files, **facts)
    (folder / MANIFEST).write_text(json.dumps(configs.to_plain(manifest), indent=1) + "\n")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, after verifying its files; raises BundleError."""
    path = folder / MANIFEST
    if path.is_symlink():
        raise BundleError(_LINK.format(folder=folder, name=MANIFEST))
    if not path.is_file():
        raise BundleError(f"no bundle at {folder}: {MANIFEST} is missing; make one: nac export")
    content = read_json(path, BundleError)
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise BundleError(f"{path} is not a bundle's manifest: it holds a {kind}; export it again")
    if content.get("format") != FORMAT:
        raise BundleError(
            f"{path} has format {show_text(content.get('format'), 40)}, this version reads "
            f"{FORMAT}; export the bundle again"
        )
    try:
        manifest = configs.build(Manifest, content, str(path))
    except ConfigError as error:
        raise BundleError(f"{show_text(error, 400)}; export the bundle again") from error
    for name, wanted in manifest.files.items():
        _verify(folder, name, wanted)
    return manifest


def add_file(folder: Path, name: str, content: str) -> Manifest:
    """Writes a text file into a verified bundle and its hash into the manifest."""
    manifest = read_manifest(folder)
    hashes = {**manifest.files, name: hashlib.sha256(content.encode()).hexdigest()}
    manifest = replace(manifest, files=dict(sorted(hashes.items())))
    write_text(folder / name, content)
    write_text(folder / MANIFEST, json.dumps(configs.to_plain(manifest), indent=1) + "\n")
    return manifest


_HASH = re.compile("[0-9a-f]{64}")
_LINK = (
    "{folder}: {name} is a symbolic link, and only plain files are read; copy the bundle with "
    "`cp -rL`"
)


def _verify(folder: Path, name: str, wanted: str) -> None:
    path, shown = _file_path(folder, name), show_text(name)
    if not _HASH.fullmatch(wanted):
        raise BundleError(
            f"{folder}: the manifest has {show_text(wanted, 40)!r} for {shown}, which is no "
            "sha256; copy the bundle again or export it again"
        )
    try:
        if not path.is_file():
            raise BundleError(f"{folder}: {shown} is missing; copy the whole bundle again")
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise BundleError(
                f"{folder}: {shown} has {size} bytes, more than {MAX_FILE_BYTES}; export it again"
            )
        found = sha256(path)
    except OSError as error:
        raise BundleError(
            f"{folder}: {shown} cannot be read: {error.strerror}; copy the whole bundle again"
        ) from error
    if found != wanted:
        raise BundleError(
            f"{folder}: {shown} was altered: sha256 {found[:12]}..., the manifest has "
            f"{wanted[:12]}...; copy the bundle again or export it again"
        )


def _file_path(folder: Path, name: str) -> Path:
    """Path of a file in the manifest; raises BundleError outside the bundle and for links."""
    pure = PurePosixPath(name)
    inside = name == str(pure) and not pure.is_absolute() and ".." not in pure.parts
    if not inside or "\\" in name or not pure.parts or len(name) > 200:
        raise BundleError(
            f"{folder}: the manifest names '{show_text(name)}', which is outside the bundle or no "
            "path in it; export the bundle again"
        )
    path = folder
    for part in pure.parts:
        path = path / part
        if path.is_symlink():
            raise BundleError(_LINK.format(folder=folder, name=name))
    return path
