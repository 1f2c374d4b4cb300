"""What keeps a trial from being begun: who is silent, what it says, and how to mend it."""

from collections.abc import Iterator
from math import isinf

from nac_ros.nodes.access import camera_node
from nac_ros.nodes.watching import Watching
from nac_ros.robot import RobotSpec
from nac_ros.trials.arm import Missing

BLIND_S = 1.0  # a camera without a picture for longer is lost
SILENT_S = 3.0  # a node that told nothing for longer; each does once a second
WRONG = "wrong."  # what the recorder finds wrong with the streams


def doubts(seen: Watching, spec: RobotSpec) -> list[Missing]:
    """All of them, the gravest first."""
    return [*_guard(seen), *_cameras(seen, spec), *_policy(seen), *_recorder(seen)]


def _guard(seen: Watching) -> Iterator[Missing]:
    said = seen.newest("guard")
    if silence := _silence(seen, "guard"):
        yield silence
    elif said.get("state") == "inactive":
        yield Missing("the guard is not active", "activate it: ros2 lifecycle set /guard activate")
    elif fault := said.get("fault"):
        yield Missing(
            f"the guard stopped the arm ({fault})",
            "see that nothing is in the arm's way, then press G (reset the guard)",
            "release",
        )


def _cameras(seen: Watching, spec: RobotSpec) -> Iterator[Missing]:
    ages = seen.ages()
    for camera in spec.cameras:
        if (age_s := ages[camera.name]) > BLIND_S:
            since = "no picture yet" if isinf(age_s) else f"no picture for {age_s:.0f} s"
            node = camera_node(camera.name)
            yield Missing(
                f"camera {camera.name}: {since} on {camera.topic}",
                f"look at its plug, and whether the node {node} (or the twin) runs",
            )


def _policy(seen: Watching) -> Iterator[Missing]:
    if silence := _silence(seen, "policy"):
        yield silence
    elif seen.newest("policy").get("message") == "not configured":
        yield Missing("the policy has nothing loaded", "press R (load again)", "retry")


def _recorder(seen: Watching) -> Iterator[Missing]:
    said = seen.newest("recorder")
    if silence := _silence(seen, "recorder"):
        yield silence
    elif said.get("state") == "inactive":
        yield Missing("the recorder is not active", "activate it, as evaluate.launch.py does")
    else:
        for key, text in said.items():
            if key.startswith(WRONG):
                yield Missing(f"the recorder cannot record: {text}", "mend that stream or disk")


def _silence(seen: Watching, node: str) -> Missing | None:
    if seen.silence_s(node) < SILENT_S:
        return None
    return Missing(
        f"the node {node} says nothing on diagnostics",
        "start it (evaluate.launch.py does), and look at its last words in its log",
    )
