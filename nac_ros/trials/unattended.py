"""Whole runs on the twin with nobody there: what is pending is played, judged, written down."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from nac_ros.data.layout import replace_with
from nac_ros.errors import ConfigError
from nac_ros.simulation.tasks import make_task
from nac_ros.trials.executors import Executor
from nac_ros.trials.log import unwritable
from nac_ros.trials.protocol import TWIN, Protocol
from nac_ros.trials.run import Record, Run
from nac_ros.trials.twin import Job, Played, play

STRIPS = "strips"


def play_all(
    run: Run,
    executor: Executor,
    pictures: bool = True,
    report: Callable[[Record], None] = lambda record: None,
) -> None:
    """Brings a run on the twin to its end and unblinds it; a film strip of each trial with
    `pictures`. What was judged stays; raises ConfigError for another robot."""
    check_unattended(run.protocol)
    for played in executor.run(play, _jobs(run, pictures)):
        if run.wants(played.slot):  # others ran ahead of the stop rule
            report(run.judge(played.slot, replace(played.verdict, strip=_keep(run, played))))
    run.unblind()


def check_unattended(protocol: Protocol) -> None:
    """Raises ConfigError unless the protocol can be played with nobody there, and UnknownName
    for a task that the twin does not have."""
    if protocol.robot != TWIN:
        raise ConfigError(
            f"robot {protocol.robot} has no judge but a person: start `ros2 launch nac_ros "
            f"evaluate.launch.py robot:={protocol.robot} protocol:=FILE` with one there, or play "
            "on the twin (--robot twin)"
        )
    for task in protocol.tasks:
        make_task(task)


def _jobs(run: Run, pictures: bool) -> Iterator[Job]:
    methods = {code: method for method, code in run.codes.items()}
    for slot in run.pending():
        source = run.protocol.methods[methods[slot.code]]
        yield Job(run.protocol, slot, source, pictures, run.variation)


def _keep(run: Run, played: Played) -> str:
    """Writes the strip; its path relative to the run's folder."""
    if not played.strip:
        return ""
    slot = played.slot
    name = f"{STRIPS}/{slot.task}-{slot.trial:03d}-{slot.code}.jpg"
    try:
        replace_with(run.folder / name, lambda to: to.write_bytes(played.strip))
    except OSError as error:
        raise unwritable(run.folder / name, error) from error
    return name
