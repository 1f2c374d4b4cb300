"""Real-time priority and CPU affinity: of all threads, with a readable result."""

import os
import subprocess
import sys
from threading import Event, Thread

import pytest

from nac_ros.core.errors import ConfigError
from nac_ros.core.realtime import realtime_obstacle, set_cpu_affinity
from nac_ros.evaluation import system_checks

pytestmark = pytest.mark.alone  # it measures time

ALLOWED = not realtime_obstacle()


def output_of(code):
    """Output of a Python process that runs `code`."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not ALLOWED, reason="this user may have no real-time priority")
def test_every_thread_gets_the_priority_also_later_ones():
    out = output_of(
        "import os, threading\n"
        "from nac_ros.core.realtime import set_realtime_priority\n"
        "wait = threading.Event()\n"
        "threading.Thread(target=wait.wait, daemon=True).start()\n"
        "print(set_realtime_priority(7))\n"
        "threading.Thread(target=wait.wait, daemon=True).start()\n"
        "ids = [int(t) for t in os.listdir('/proc/self/task')]\n"
        "print({(os.sched_getscheduler(t) == os.SCHED_FIFO, os.sched_getparam(t).sched_priority)"
        " for t in ids}, len(ids))\n"
    )
    assert "real time, priority 7, memory locked" in out and "{(True, 7)} 3" in out


@pytest.mark.skipif(not ALLOWED, reason="this user may have no real-time priority")
def test_threads_can_be_left_out_by_id_or_by_name():
    out = output_of(
        "import os, threading\n"
        "from pathlib import Path\n"
        "from nac_ros.core.realtime import set_realtime_priority, threads_with_prefix\n"
        "wait, ids = threading.Event(), []\n"
        "def stay(name):\n"
        "    ids.append(threading.get_native_id())\n"
        "    Path('/proc/thread-self/comm').write_text(name)\n"
        "    wait.wait()\n"
        "for name in ('slow-0', 'slow-1', 'other'):\n"
        "    threading.Thread(target=stay, args=(name,), daemon=True).start()\n"
        "while len(threads_with_prefix('slow-')) < 2 or not threads_with_prefix('other'): pass\n"
        "set_realtime_priority(7, but={*threads_with_prefix('slow-'), ids[2]})\n"
        "print([os.sched_getscheduler(t) == os.SCHED_FIFO for t in (os.getpid(), *ids)])\n"
    )
    assert out == "[True, False, False, False]\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without the permission")
def test_without_permission_nothing_changes_and_the_remedy_is_named():
    code = (
        "import os\n"
        "from nac_ros.core.realtime import set_realtime_priority\n"
        "os.setuid(65534)\n"
        "print(set_realtime_priority(7)); print(os.sched_getscheduler(0) == os.SCHED_OTHER)\n"
    )
    out = output_of(code)
    assert (
        "default scheduling, not real time: Operation not permitted; give the user `rtprio`" in out
    )
    assert out.endswith("True\n")


def test_the_check_and_priority_zero_change_nothing():
    from nac_ros.core.realtime import set_realtime_priority

    stop = Event()
    Thread(target=stop.wait, daemon=True).start()
    (finding,) = system_checks.check_realtime_priority()
    assert finding.level == ("ok" if ALLOWED else "warn")
    assert set_realtime_priority(0) == "default scheduling"
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    stop.set()


def test_all_threads_stay_on_the_named_cpus():
    one = min(os.sched_getaffinity(0))
    out = output_of(
        "import os, threading\n"
        "from nac_ros.core.realtime import set_cpu_affinity\n"
        "wait = threading.Event()\n"
        "threading.Thread(target=wait.wait, daemon=True).start()\n"
        f"print(set_cpu_affinity(()), '/', set_cpu_affinity(({one},)))\n"
        "threading.Thread(target=wait.wait, daemon=True).start()\n"
        "ids = [int(t) for t in os.listdir('/proc/self/task')]\n"
        "print([os.sched_getaffinity(t) for t in ids])\n"
    )
    assert f"any CPU / on CPU {one}\n" in out
    assert out.splitlines()[1] == str([{one}] * 3)


@pytest.mark.parametrize("cpus", [(4095,), (-1,), (0, 4095)])
def test_a_cpu_that_does_not_exist_is_rejected_with_the_known_ones(cpus):
    with pytest.raises(
        ConfigError, match=rf"this machine has no CPU {max(cpus, key=abs)}; it has"
    ):
        set_cpu_affinity(cpus)
