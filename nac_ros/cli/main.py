"""Entry point of the command line `nac`: parser and exit status."""

import argparse
import errno
import sys
from collections.abc import Sequence

from nac_ros.cli import data, environments, evaluate, options, policy, ros, tokenizer, trials
from nac_ros.core.errors import NacError

DESCRIPTION = (
    "Record demonstrations, train, export and evaluate policies, and run them on a robot."
)
# Errors of a write to standard output or to a file whose name the system does not report.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0 = done, 2 = bad input (one sentence on stderr), 130 = Ctrl-C,
    1 = the command ran and reported a failure, or an unexpected error."""
    args = _parser().parse_args(argv)
    target = getattr(args, "json", None)
    try:
        if target:
            options.check_target(target)
        results = args.run(args)
        if target and results is not None:
            options.write_results(target, results)
    except NacError as error:
        print(f"nac: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None and error.errno not in NO_SPACE:
            raise
        print(f"nac: {_file_error(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nac: stopped", file=sys.stderr)
        return 130
    return 1 if results and results.get("failed") else 0


def _file_error(error: OSError) -> str:
    if error.errno == errno.EPIPE:
        return "the program that read the output of the command ended before the command"
    if error.filename is None:
        return f"{error.strerror}: the output of the command could not be written; free some space"
    return f"{error.filename}: {error.strerror}; name another file or change its permissions"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nac", description=DESCRIPTION)
    groups = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for group in (ros, data, tokenizer, policy, evaluate, trials, environments):
        group.add_commands(groups)
    return parser


if __name__ == "__main__":
    sys.exit(main())
