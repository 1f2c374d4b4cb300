"""Entry point of the command line `nac`: parser and exit status."""

import argparse
import errno
import sys
from collections.abc import Sequence

from nac_ros.cli import data, evaluate, options, policy, ros, tokenizer, trials
from nac_ros.core.errors import NacError

DESCRIPTION = "Record, train, export and evaluate policies, and run them on a robot."
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE)  # of a write that names no file


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 done, 2 bad input (one sentence on stderr), 1 anything else."""
    said = _parser().parse_args(argv)
    target = getattr(said, "json", None)
    try:
        if target:
            options.check_target(target)
        figures = said.run(said)
        if target and figures is not None:
            options.write_figures(target, figures)
    except NacError as error:
        print(f"nac: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None and error.errno not in NO_ROOM:
            raise
        print(f"nac: {_of_disk(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nac: stopped", file=sys.stderr)
        return 130
    return 1 if figures and figures.get("failed") else 0


def _of_disk(error: OSError) -> str:
    if error.filename is None:
        return f"{error.strerror}: no room for what the command prints or writes; make some"
    return f"{error.filename}: {error.strerror}; give another or allow it"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nac", description=DESCRIPTION)
    groups = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for group in (ros, data, tokenizer, policy, evaluate, trials):
        group.add_commands(groups)
    return parser
