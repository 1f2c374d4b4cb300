"""The Foxglove layout: every panel is shown once and uses existing topics."""

import json
import re

from nac_ros.core.config import config_dir
from nac_ros.robot.spec import load_robot

SPEC = load_robot("vx300s")
LAYOUT = json.loads((config_dir() / "foxglove/nac_ros.json").read_text())


def panels(layout):
    """Ids of the panels in a layout, including those in tabs."""
    if isinstance(layout, str):
        yield layout
        for tab in LAYOUT["configById"][layout].get("tabs", []):
            yield from panels(tab["layout"])
    else:
        yield from panels(layout["first"])
        yield from panels(layout["second"])


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for item in value.values() for text in strings(item))
    elif isinstance(value, list):
        yield from (text for item in value for text in strings(item))


def test_every_panel_of_the_foxglove_layout_is_configured_and_shown_once():
    shown = list(panels(LAYOUT["layout"]))
    assert len(shown) == len(set(shown)) and set(shown) == set(LAYOUT["configById"])


def test_the_foxglove_layout_names_only_what_the_graph_publishes():
    topics = {"/diagnostics", "/policy/chunk", "/guard/command", f"/{SPEC.joint_states_topic}"}
    topics |= {f"/{camera.topic}" for camera in SPEC.cameras}
    services = {"/guard/stop", "/guard/reset"}
    named = {re.split(r"[.{\[]", text)[0] for text in strings(LAYOUT) if text.startswith("/")}
    assert named == topics | services


def test_the_foxglove_layout_plots_every_joint_planned_commanded_and_measured():
    for i, joint in enumerate(SPEC.joints):
        panel = LAYOUT["configById"][f"Plot!{joint.name}"]
        assert panel["yAxisLabel"] == joint.unit
        assert [path["value"] for path in panel["paths"]] == [
            f"/policy/chunk.points[0].positions[{i}]",
            f"/guard/command.position[{i}]",
            f"/{SPEC.joint_states_topic}.position[{i}]",
        ]
