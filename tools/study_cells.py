"""Shared by the studies in this folder: options of the command line, and finished cells."""

import argparse
import json
from pathlib import Path
from typing import Any

from nac_ros.cli.options import key_value, positive_int
from nac_ros.core import config as configs
from nac_ros.core.errors import ConfigError

RESULT = "result.json"  # in the folder of a finished cell


def add_study_options(parser: argparse.ArgumentParser, out: Path) -> None:
    """--out, --threads, --report and --set; out: default folder of all cells"""
    add = parser.add_argument
    add("--out", type=Path, default=out, help=f"folder of all cells ({out})")
    add("--threads", type=positive_int, default=1, help="number of CPU threads of torch (1)")
    add(
        "--report",
        type=Path,
        metavar="FILE",
        help="write the results of the cells to this JSON file, and print a table of them",
    )
    add(
        "--set",
        type=key_value,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a field of StudyConfig, such as steps=2000",
    )


def is_finished(folder: Path, config: Any) -> bool:
    """Whether the folder has a result; raises ConfigError if it is one of other settings.

    config: StudyConfig of the cell
    """
    path = folder / RESULT
    if not path.is_file():
        return False
    found, wanted = json.loads(path.read_text())["config"], configs.to_plain(config)
    for key in sorted({*found, *wanted}):
        if found.get(key) != wanted.get(key):
            raise ConfigError(
                f"{path} was made with {key} {found.get(key)}, now {wanted.get(key)}; choose "
                "another --out"
            )
    return True
