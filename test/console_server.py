"""A console whose robot prints its stops, in a process with few file descriptors.

`python console_server.py REQUEST_S` prints its address, then a line `stopped` at each stop. It
ends when its standard input is closed.
"""

import resource
import sys

from fake_trial_robot import FakeTrialRobot

from nac_ros.core.errors import TrialError
from nac_ros.trials.console.connections import ConnectionLimits
from nac_ros.trials.console.controller import ConsoleController
from nac_ros.trials.console.server import ConsoleServer

FILES = 1024  # a common limit of a process


class StopPrintingRobot(FakeTrialRobot):
    def abort(self):
        print("stopped", flush=True)


def fail():
    raise TrialError("there is no run")


def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    limits = ConnectionLimits(request_s=float(sys.argv[1]))
    controller = ConsoleController(fail, StopPrintingRobot(), 8.0)
    console = ConsoleServer(controller, "127.0.0.1", 0, limits)
    print(console.address, flush=True)
    sys.stdin.read()
    console.close()


if __name__ == "__main__":
    main()
