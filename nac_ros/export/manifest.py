"""A bundle's manifest: what each file must hash to, and the sentences when one does not."""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nac_ros import config as configs
from nac_ros.errors import BundleError, ConfigError

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """format: version of the layout; files: relative path -> sha256; created_by: provenance."""

    format: int = FORMAT
    robot: str = ""
    tasks: dict[str, str] = field(default_factory=dict)
    rate_hz: float = 0.0
    horizon: int = 0
    files: dict[str, str] = field(default_factory=dict)
    created_by: dict[str, Any] = field(default_factory=dict)


def write_manifest(folder: Path, **facts: Any) -> Manifest:
    """Hashes every file of `folder` and writes manifest.json."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST]
    files = {str(path.relative_to(folder)): sha256(path) for path in sorted(paths)}
    manifest = Manifest(files=files, **facts)
    (folder / MANIFEST).write_text(json.dumps(configs.to_plain(manifest), indent=1) + "\n")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, its files verified; raises BundleError with the reason."""
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"no bundle at {folder}: {MANIFEST} is missing; make one: nac export")
    try:
        content = json.loads(path.read_text())
        if content.get("format") != FORMAT:
            raise BundleError(
                f"{path} has format {content.get('format')}, this version reads {FORMAT}; "
                "export the bundle again"
            )
        manifest = configs.build(Manifest, content, str(path))
    except (json.JSONDecodeError, AttributeError, ConfigError) as error:
        raise BundleError(f"{path} is not a bundle's manifest: {error}") from error
    for name, wanted in manifest.files.items():
        _verify(folder, name, wanted)
    return manifest


def add_file(folder: Path, name: str, content: str) -> Manifest:
    """Puts a file into a bundle and its hash into the manifest; all that was there must verify."""
    manifest = read_manifest(folder)
    hashes = {**manifest.files, name: hashlib.sha256(content.encode()).hexdigest()}
    manifest = replace(manifest, files=dict(sorted(hashes.items())))
    put(folder / name, content)
    put(folder / MANIFEST, json.dumps(configs.to_plain(manifest), indent=1) + "\n")
    return manifest


def put(path: Path, content: str) -> None:
    """Writes a file whole or not at all; raises BundleError where that is not allowed."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(content)
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise BundleError(f"cannot write {path}: {error.strerror}; free the place") from error


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _verify(folder: Path, name: str, wanted: str) -> None:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BundleError(f"{folder}: the manifest names '{name}', which is outside the bundle")
    if not path.is_file():
        raise BundleError(f"{folder}: {name} is missing; copy the whole bundle again")
    found = sha256(path)
    if found != wanted:
        raise BundleError(
            f"{folder}: {name} was altered: sha256 {found[:12]}..., the manifest says "
            f"{wanted[:12]}...; copy the bundle again or export it anew"
        )
