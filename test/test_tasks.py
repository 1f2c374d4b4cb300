"""Success detectors of weighing and marker on states set directly, start poses, docs/tasks.md."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from twin_setup import SPEC, put, put_tool, run

from nac_ros.simulation.domain_randomization import load_randomization
from nac_ros.simulation.tasks import list_tasks, make_task
from nac_ros.simulation.tasks import marker as marker_file
from nac_ros.simulation.tasks import weighing as weighing_file
from nac_ros.simulation.tasks.base import HORIZON
from nac_ros.simulation.twin import Twin

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/tasks.md").read_text()

PROMPTS = {
    "weighing": "Turn on the weighing machine.",
    "grapes": "Place the grapes on the plate.",
    "marker": "Place the marker in the bin.",
    "two_blocks": "Stack the two cubes.",
    "three_blocks": "Stack the three cubes.",
    "chess": "Take the queen with the rook.",
    "place_stone": "Place white stone on board.",
    "fold_towel": "Fold the towel.",
}
HORIZON_S = HORIZON / SPEC.action_rate_hz


@pytest.fixture(scope="module")
def scale():
    return Twin(SPEC, "weighing", render=False)


@pytest.fixture(scope="module")
def pen():
    return Twin(SPEC, "marker", render=False)


def push_button(twin, force, seconds=0.2):
    """Pushes the button with `force` [N] for `seconds`, then releases it."""
    dof = twin.model.joint("button").dofadr[0]
    twin.data.qfrc_applied[dof] = force
    run(twin, seconds)
    twin.data.qfrc_applied[dof] = 0
    run(twin, 0.1)


def button_position(twin):
    return twin.data.body("button").xpos.copy()


def put_marker(twin, position, yaw=0.0):
    put(twin, "marker", position, yaw)


# weighing


def test_a_full_press_turns_on_the_display_and_retracting_is_success(scale):
    scale.reset(0)
    put_tool(scale, button_position(scale) + [0, 0, 0.05])
    push_button(scale, 4.0)
    assert scale.task.is_on
    run(scale, 1.0)
    assert scale.outcome().state == "running"
    put_tool(scale, button_position(scale) + [-0.05, 0, 0.12])
    run(scale, 0.2)
    assert scale.outcome().state == "running"
    run(scale, 0.3)
    assert scale.outcome().state == "success"


def test_the_display_shows_whether_the_scale_is_on(scale):
    scale.reset(0)
    dark = scale.model.geom("display").rgba.copy()
    push_button(scale, 4.0)
    assert scale.model.geom("display").rgba[1] > dark[1] + 0.5
    scale.reset(1)
    np.testing.assert_array_equal(scale.model.geom("display").rgba, dark)


def test_a_second_full_press_turns_it_off_and_is_failure(scale):
    scale.reset(0)
    put_tool(scale, button_position(scale) + [0, 0, 0.05])
    push_button(scale, 4.0)
    push_button(scale, 4.0)
    assert not scale.task.is_on
    put_tool(scale, button_position(scale) + [-0.05, 0, 0.12])
    run(scale, 0.5)
    assert scale.outcome().state == "failure"
    assert scale.outcome().reason == "the button was pressed but the display is not on"


def test_holding_the_button_down_counts_as_one_press(scale):
    scale.reset(0)
    put_tool(scale, button_position(scale) + [0, 0, 0.05])
    push_button(scale, 4.0, seconds=1.0)
    assert scale.task.is_on


def test_a_press_that_is_too_weak_is_failure(scale):
    scale.reset(0)
    push_button(scale, 1.1)
    run(scale, 0.5)
    assert scale.outcome().state == "failure"


def test_a_trial_without_a_touch_runs_until_the_horizon(scale):
    scale.reset(0)
    run(scale, 1.0)
    assert scale.outcome().state == "running"
    scale.data.time = HORIZON_S - 0.1
    run(scale, 0.2)
    assert scale.outcome().state == "failure"
    assert scale.outcome().reason == "the display is not on"


def test_the_first_outcome_is_final(scale):
    scale.reset(0)
    push_button(scale, 1.1)
    run(scale, 0.5)
    push_button(scale, 4.0)
    run(scale, 0.5)
    assert scale.outcome().state == "failure"


# marker


def test_a_marker_at_rest_in_the_bin_is_success(pen):
    pen.reset(0)
    put_marker(pen, [*marker_file.BIN, 0.015])
    run(pen, 0.1)
    assert pen.outcome().state == "running"
    run(pen, 0.6)
    assert pen.outcome().state == "success"


def test_a_marker_that_moves_in_the_bin_is_not_yet_success(pen):
    pen.reset(0)
    put_marker(pen, [*marker_file.BIN, 0.07])
    for _ in range(5):
        run(pen, 0.02)
        assert pen.outcome().state == "running"


@pytest.mark.parametrize(
    ("offset", "inside"),
    [
        ((0, 0, 0.013), True),
        ((0.03, 0.05, 0.013), True),
        ((0.04, 0, 0.013), False),
        ((0, 0.065, 0.013), False),
        ((0, 0, 0.08), False),
    ],
)
def test_every_point_of_the_marker_must_be_between_the_walls_and_below_the_rim(
    pen, offset, inside
):
    pen.reset(0)
    put_marker(pen, np.append(marker_file.BIN, 0) + offset)
    _forward(pen)
    assert pen.task.is_inside() == inside


def test_a_marker_that_stands_above_the_rim_is_not_inside(pen):
    pen.reset(0)
    address = pen.model.joint("marker").qposadr[0]
    upright = (np.sqrt(0.5), 0, np.sqrt(0.5), 0)
    pen.data.qpos[address : address + 7] = (*marker_file.BIN, 0.065, *upright)
    _forward(pen)
    assert not pen.task.is_inside()


def test_a_marker_touched_by_the_arm_in_the_bin_is_not_success(pen):
    pen.reset(0)
    put_marker(pen, [*marker_file.BIN, 0.0131])
    put_tool(pen, [*marker_file.BIN, 0.029])
    run(pen, 0.8)
    assert pen.task.is_inside()
    assert pen.outcome().state == "running"
    pen.data.time = HORIZON_S
    run(pen, 0.1)
    assert pen.outcome().reason == "the marker is in the bin but not released at the end"


def test_a_marker_off_the_table_is_failure_at_once(pen):
    pen.reset(0)
    put_marker(pen, [0.3, -0.7, -0.1])
    run(pen, 0.04)
    assert pen.outcome().state == "failure"
    assert pen.outcome().reason == "the marker fell off the table"


def test_a_marker_out_of_the_arms_reach_is_failure_at_once(pen):
    pen.reset(0)
    put_marker(pen, [0.6, 0.0, 0.009])
    run(pen, 0.04)
    assert pen.outcome().state == "failure"
    assert pen.outcome().reason == "the marker was dropped outside the workspace"


def test_a_trial_with_the_marker_next_to_the_bin_runs_until_the_horizon(pen):
    pen.reset(0)
    run(pen, 1.0)
    assert pen.outcome().state == "running"
    pen.data.time = HORIZON_S
    run(pen, 0.1)
    assert pen.outcome().state == "failure"
    assert pen.outcome().reason == "the marker is outside the bin at the end"


# start poses


def start_poses(twin, body, n=150):
    poses = []
    for seed in range(n):
        twin.reset(seed)
        rotation = twin.data.body(body).xmat.reshape(3, 3)
        yaw = np.arctan2(rotation[1, 0], rotation[0, 0])
        poses.append([*twin.data.body(body).xpos[:2], yaw])
        assert twin.outcome().state == "running"
        assert rotation[2, 2] > 0.999
    return np.array(poses)


def test_the_scale_starts_within_3_cm_and_10_degrees(scale):
    poses = start_poses(scale, "scale") - [weighing_file.START.x, weighing_file.START.y, 0]
    assert np.abs(poses[:, :2]).max() < 0.031
    assert np.ptp(poses[:, :2], axis=0).min() > 0.055
    assert np.deg2rad(9) < np.abs(poses[:, 2]).max() < np.deg2rad(10.5)


def test_the_marker_starts_within_12_by_12_cm_and_45_degrees_either_end_first(pen):
    poses = start_poses(pen, "marker") - [marker_file.START.x, marker_file.START.y, 0]
    assert np.abs(poses[:, :2]).max() < 0.061
    assert np.ptp(poses[:, :2], axis=0).min() > 0.11
    yaw = (poses[:, 2] + np.pi / 2) % np.pi - np.pi / 2
    assert np.deg2rad(42) < np.abs(yaw).max() < np.deg2rad(45.5)


def test_prompts_are_those_of_the_paper():
    prompts = {name: make_task(name).prompt for name in list_tasks()}
    assert prompts.items() <= PROMPTS.items()


def test_docs_have_the_prompts_and_start_poses_of_the_code():
    assert f"{HORIZON} action steps" in PAGE
    for name in list_tasks():
        task = make_task(name)
        assert f'`{name}`: "{task.prompt}"' in PAGE
        rows = re.findall(
            rf"^\| `{name}` \| (\w+).* \| ([-\d.]+), ([-\d.]+) \| ([\d.]+) \| ", PAGE, re.MULTILINE
        )
        documented = {row[0]: tuple(map(float, row[1:])) for row in rows}
        assert documented == {
            start.name: pytest.approx((start.x, start.y, start.spread), abs=6e-4)
            for start in task.start_poses
        }


def test_docs_show_a_small_image_of_each_task():
    for name in list_tasks():
        path = ROOT / f"docs/images/tasks/{name}.png"
        assert f"](images/tasks/{name}.png)" in PAGE
        assert 5_000 < path.stat().st_size < 60_000


def test_docs_have_every_randomization_range_with_its_values():
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| ", PAGE, re.MULTILINE)
    documented = {key: (float(nominal), float(varied)) for key, nominal, varied in rows}
    nominal, varied = load_randomization("nominal"), load_randomization("varied")
    keys = [field.name for field in dataclasses.fields(nominal)]
    assert documented == {key: (getattr(nominal, key), getattr(varied, key)) for key in keys}


def test_the_id_of_a_task_is_its_file_name():
    assert all(make_task(name).id == name for name in list_tasks())


def _forward(twin):
    twin.restore(twin.snapshot())
