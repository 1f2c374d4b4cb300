"""`nac env`: arguments and actions."""

from argparse import Namespace
from typing import Any

from nac_ros.cli import options, output
from nac_ros.cli.options import Results


def add_commands(groups: Any) -> None:
    """Adds `nac env list`."""
    group = options.add_group(groups, "env", "simulated worlds")
    options.add_command(group, "list", list_all, "environments, their sizes, what is installed")


def list_all(args: Namespace) -> Results:
    """Every environment by name, also of suites that are not installed."""
    from nac_ros.environments import SUITES, environment_spec, list_environments

    installed = {name: SUITES.get(name)().is_installed() for name in SUITES.names()}
    rows = []
    for name in list_environments():
        spec = environment_spec(name)
        rows.append(
            {
                "name": name,
                "state_dim": len(spec.state_names),
                "environment_state_dim": spec.environment_state_dim,
                "action_dim": spec.actions.dim,
                "rate_hz": spec.actions.rate_hz,
                "cameras": list(spec.cameras),
                "installed": installed[name.partition("/")[0]],
            }
        )
    output.table([{**row, "cameras": ", ".join(row["cameras"])} for row in rows])
    for suite, present in installed.items():
        if not present:
            print(f"{suite} is not installed: {SUITES.get(suite)().install}")
    return {"rows": rows}
