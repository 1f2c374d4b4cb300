"""Observation buffer: synchronised samples, and reasons for missing, stale or invalid ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nac_ros.core.errors import BadObservation
from nac_ros.robot.observation_buffer import ObservationBuffer, TimeSeriesBuffer
from nac_ros.robot.spec import load_robot

ROBOT = load_robot("vx300s")
SCENE = ROBOT.camera("scene")
STAMPS = st.lists(st.floats(0, 100), min_size=1, max_size=30, unique=True).map(sorted)


def image(value: int = 0, camera=SCENE) -> np.ndarray:
    return np.full((camera.height, camera.width, 3), value, np.uint8)


def filled(until: float = 1.0, cameras: tuple[str, ...] = ("scene", "wrist"), steps: int = 2):
    """A buffer with joint states at 100 Hz and images at 30 Hz from 0 to `until` [s]."""
    buffer = ObservationBuffer(ROBOT, cameras, steps)
    for k in range(int(until * 100) + 1):
        buffer.add_joint_state(k / 100, ROBOT.home + k / 100)
    for k in range(int(until * 30) + 1):
        for name in cameras:
            buffer.add_image(name, k / 30, image(k, ROBOT.camera(name)))
    return buffer


def reason_of(call, *arguments) -> str:
    with pytest.raises(BadObservation) as caught:
        call(*arguments)
    return caught.value.reason


@given(STAMPS, st.floats(-10, 110))
def test_the_nearest_sample_has_the_smallest_distance(stamps, wanted):
    series = TimeSeriesBuffer("s", depth=64)
    for stamp in stamps:
        series.add(stamp, np.array(stamp))
    found, value = series.nearest(wanted)
    assert found == value and abs(found - wanted) == min(abs(s - wanted) for s in stamps)


@given(STAMPS, st.integers(1, 8))
def test_a_time_series_keeps_only_its_newest_samples(stamps, depth):
    series = TimeSeriesBuffer("s", depth)
    for stamp in stamps:
        series.add(stamp, np.array(stamp))
    assert series.newest_stamp == stamps[-1]
    assert series.nearest(-1.0)[0] == stamps[-depth:][0]


@given(st.floats(0, 10), st.floats(0, 10))
def test_a_stamp_that_does_not_advance_is_rejected(first, back):
    series = TimeSeriesBuffer("s", depth=4)
    series.add(first, np.zeros(1))
    assert reason_of(series.add, first - back, np.zeros(1)) == "clock"


@given(st.sampled_from([np.nan, np.inf, -np.inf]), st.booleans())
def test_a_stamp_that_is_not_finite_is_rejected_and_changes_nothing(stamp, first):
    series = TimeSeriesBuffer("s", depth=4)
    if not first:
        series.add(1.0, np.zeros(1))
    with pytest.raises(BadObservation, match=r"s: stamp -?(nan|inf) s is not finite") as caught:
        series.add(stamp, np.zeros(1))
    assert caught.value.reason == "clock"
    assert series.newest_stamp == (None if first else 1.0)


def test_an_observation_has_the_history_oldest_first():
    observation = filled().get_observation(1.0, "marker")
    assert observation.images["scene"].shape == (2, SCENE.height, SCENE.width, 3)
    assert observation.images["scene"][:, 0, 0, 0].tolist() == [29, 30]
    assert observation.proprio.shape == (2, ROBOT.action_dim) and observation.task == "marker"
    assert np.allclose(observation.proprio - ROBOT.home, [[0.97], [1.0]], atol=1e-6)


def test_an_observation_has_the_stamp_of_the_slowest_camera():
    buffer = ObservationBuffer(ROBOT, ("scene", "wrist"), 1)
    for k in range(101):
        buffer.add_joint_state(k / 100, ROBOT.home + k / 100)
    buffer.add_image("scene", 0.99, image())
    buffer.add_image("wrist", 0.90, image(camera=ROBOT.camera("wrist")))
    observation = buffer.get_observation(1.0, "t")
    assert observation.stamp == 0.90
    assert np.allclose(observation.reference - ROBOT.home, 0.90, atol=1e-6)


def test_without_cameras_the_stamp_is_that_of_the_joints():
    buffer = ObservationBuffer(ROBOT, (), 1)
    buffer.add_joint_state(3.0, ROBOT.home)
    assert buffer.get_observation(3.01, "t").stamp == 3.0


@given(st.floats(0.001, 5))
def test_a_stream_older_than_its_limit_is_stale(extra):
    buffer = filled(0.1)
    limit = min(ROBOT.joint_states_max_age_s, SCENE.max_age_s)
    assert reason_of(buffer.get_observation, 0.1 + limit + extra, "t") == "stale"


def test_a_camera_that_stopped_is_named():
    buffer = filled(0.1)
    for k in range(11, 101):
        buffer.add_joint_state(k / 100, ROBOT.home)
    with pytest.raises(BadObservation, match=r"camera scene: stale, .* at most 0\.2 s"):
        buffer.get_observation(1.0, "t")


@given(st.floats(0.01, 5))
def test_stamps_in_the_future_are_rejected(extra):
    buffer = filled(0.1)
    limit = max(ROBOT.joint_states_max_age_s, SCENE.max_age_s)
    assert reason_of(buffer.get_observation, 0.1 - limit - extra, "t") == "future"


def test_a_stream_without_samples_is_missing_and_named():
    buffer = ObservationBuffer(ROBOT, ("scene",), 1)
    assert reason_of(buffer.get_observation, 0.0, "t") == "missing"
    buffer.add_joint_state(0.0, ROBOT.home)
    with pytest.raises(BadObservation, match="camera scene: nothing received yet"):
        buffer.get_observation(0.0, "t")


def test_clearing_forgets_all_samples_and_allows_an_earlier_clock():
    buffer = filled()
    buffer.clear()
    assert reason_of(buffer.get_observation, 1.0, "t") == "missing"
    buffer.add_joint_state(0.0, ROBOT.home)


@given(st.integers(0, ROBOT.action_dim - 1), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_a_joint_that_is_not_finite_is_rejected_by_name(joint, value):
    positions = ROBOT.home.copy()
    positions[joint] = value
    buffer = ObservationBuffer(ROBOT, (), 1)
    with pytest.raises(BadObservation, match=f"not finite at {ROBOT.joint_names[joint]}"):
        buffer.add_joint_state(0.0, positions)
    assert reason_of(buffer.get_observation, 0.0, "t") == "missing"


@given(st.integers(0, 20).filter(lambda n: n != ROBOT.action_dim))
def test_another_number_of_joints_is_rejected(count):
    assert (
        reason_of(ObservationBuffer(ROBOT, (), 1).add_joint_state, 0.0, np.zeros(count))
        == "joint_names"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        image()[1:],
        image()[..., :1],
        image()[..., 0],
        image().astype(np.float32),
    ],
    ids=["rows", "channels", "grey", "float"],
)
def test_an_image_of_another_size_or_type_is_rejected_with_both_sizes(wrong):
    with pytest.raises(BadObservation, match=r"camera scene: wanted a uint8 image") as caught:
        ObservationBuffer(ROBOT, ("scene",), 1).add_image("scene", 0.0, wrong)
    assert caught.value.reason == "image_size"


def test_the_error_of_a_stale_camera_says_why_newer_images_were_rejected():
    buffer = filled(1.0)
    encoding = BadObservation("an image of encoding '16UC1'; known are: rgb8", "image_encoding")
    buffer.reject("scene", encoding)
    assert buffer.get_observation(1.0, "t").stamp == 1.0  # as long as it is not stale
    for k in range(101, 151):
        buffer.add_joint_state(k / 100, ROBOT.home)
    with pytest.raises(BadObservation, match=r"camera scene: stale, .*'16UC1'; known") as caught:
        buffer.get_observation(1.5, "t")
    assert caught.value.reason == "image_encoding"
    buffer.add_image("scene", 1.5, image())
    with pytest.raises(BadObservation, match=r"camera wrist: stale, [^;]*; at most [^;]*$"):
        buffer.get_observation(1.5, "t")


def test_the_error_of_a_camera_without_usable_images_says_why():
    buffer = ObservationBuffer(ROBOT, ("scene",), 1)
    buffer.add_joint_state(0.0, ROBOT.home)
    buffer.reject("scene", BadObservation("an image of encoding 'bayer'", "image_encoding"))
    with pytest.raises(BadObservation, match="camera scene: nothing usable received yet: an im"):
        buffer.get_observation(0.0, "t")


def test_past_commands_are_one_each_control_period_up_to_the_stamp():
    buffer = ObservationBuffer(ROBOT, (), 1, n_past_commands=3)
    buffer.add_joint_state(1.0, ROBOT.home)
    for k in range(101):
        buffer.add_command(k / 100, ROBOT.home + k / 100)
    found = buffer.get_observation(1.0, "t").past_commands
    assert found.shape == (3, ROBOT.action_dim) and found.dtype == np.float32
    assert np.allclose(found - ROBOT.home, [[1 - 2 / 30], [1 - 1 / 30], [1.0]], atol=0.006)


def test_the_joint_state_stands_in_for_commands_that_were_never_sent():
    buffer = ObservationBuffer(ROBOT, (), 1, n_past_commands=30)
    for k in range(101):
        buffer.add_joint_state(k / 100, ROBOT.home + 1)
    assert np.allclose(buffer.get_observation(1.0, "t").past_commands, ROBOT.home + 1)
    buffer.add_command(1.0, ROBOT.home)
    found = buffer.get_observation(1.0, "t").past_commands
    assert np.allclose(found[:20], ROBOT.home + 1) and np.allclose(found[-1], ROBOT.home)


def test_a_command_that_is_not_finite_or_goes_back_in_time_is_rejected():
    buffer = ObservationBuffer(ROBOT, (), 1, n_past_commands=1)
    assert reason_of(buffer.add_command, 1.0, np.full(7, np.nan)) == "not_finite"
    buffer.add_command(1.0, ROBOT.home)
    assert reason_of(buffer.add_command, 0.9, ROBOT.home) == "clock"
    buffer.clear()
    buffer.add_command(0.9, ROBOT.home)
