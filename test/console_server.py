"""The console with an arm that only counts stops, in a process with few file descriptors.

`python console_server.py REQUEST_S` prints its address, then a line `stopped` at each stop; it
ends with its standard input.
"""

import resource
import sys

from fake_trial_robot import StandIn

from nac_ros.core.errors import TrialError
from nac_ros.trials.console.connections import ConnectionLimits
from nac_ros.trials.console.controller import ConsoleController
from nac_ros.trials.console.server import Console

FILES = 1024  # a usual limit of a process


class CountedArm(StandIn):
    def abort(self):
        print("stopped", flush=True)


def refuse():
    raise TrialError("there is no run")


def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    limits = ConnectionLimits(request_s=float(sys.argv[1]))
    console = Console(ConsoleController(refuse, CountedArm(), 8.0), "127.0.0.1", 0, limits)
    print(console.address, flush=True)
    sys.stdin.read()
    console.close()


if __name__ == "__main__":
    main()
