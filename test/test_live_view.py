"""The live view: a real node saves the topics of a fake robot; rerun reads the file."""

import numpy as np
import pytest

pytest.importorskip("rclpy")

from fake_ros_graph import NEEDS, RAMP, RED, SPEC, STAMP, TICKS, TOKENS, rows, series, watch

from nac_ros.core.errors import ConfigError, NacError


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """The recording that the node saved."""
    pytest.importorskip("rerun", reason=NEEDS)
    from rerun.dataframe import load_recording

    folder = tmp_path_factory.mktemp("view")
    watch(folder, save=str(folder / "new/run.rrd"))
    return load_recording(folder / "new/run.rrd")


@pytest.mark.parametrize("joint", range(SPEC.action_dim))
def test_measured_and_commanded_joints_are_logged_at_their_stamps(recording, joint):
    name = SPEC.joint_names[joint]
    for source, offset in (("measured", 0.0), ("commanded", 1.0)):
        stamps, values = series(recording, f"joints/{name}/{source}")
        assert len(stamps) >= (TICKS // 3 if source == "measured" else TICKS), "sensors may lose"
        np.testing.assert_allclose(values, stamps + RAMP[joint] + offset, atol=1e-6)


def test_chunk_points_are_logged_when_they_are_due(recording):
    stamps, values = series(recording, "joints/gripper/planned")
    np.testing.assert_allclose(stamps, np.arange(1, 5) / 30, atol=1e-6)
    np.testing.assert_allclose(values, np.arange(4) + RAMP[-1], atol=1e-6)


def test_series_are_named_with_their_units(recording):
    units = {}
    for joint in SPEC.joints:
        view = recording.view(index="ros_time", contents=f"/joints/{joint.name}/measured")
        column = f"/joints/{joint.name}/measured:SeriesLines:names"
        units[joint.name] = view.select_static(column).read_all().column(0).to_pylist()[0][0]
    assert units["waist"] == "measured [rad]" and units["gripper"] == "measured [m]"


@pytest.mark.parametrize("camera", [camera.name for camera in SPEC.cameras])
def test_images_of_each_camera_are_jpeg_and_at_most_images_hz(recording, camera):
    import cv2

    stamps, blobs = rows(recording, f"cameras/{camera}", "EncodedImage:blob")
    assert 1 <= len(stamps) <= 4, "0.3 s at 10 Hz"
    assert len(set(np.floor(10 * (stamps + STAMP % 1)))) == len(stamps)
    image = cv2.imdecode(np.array(blobs[0][0], np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (96, 96, 3)
    np.testing.assert_allclose(image[48, 48, ::-1], RED[0, 0], atol=8)


def test_tokens_and_timing_are_logged_once_for_each_chunk(recording):
    stamps, values = rows(recording, "policy/tokens", "BarChart:values")
    assert stamps == pytest.approx([0.0], abs=1e-6)
    assert list(values[0][0]["buffer"]) == TOKENS
    for name, wanted in (("observation_to_chunk", 81.5), ("predict", 70.0), ("decode", 1.5)):
        assert series(recording, f"latency/{name}")[1].tolist() == [wanted]


def test_the_guard_s_state_is_a_number_and_the_age_of_its_chunk_is_in_ms(recording):
    from nac_ros.reporting.rerun import STATES

    stamps, numbers = series(recording, "guard/state")
    assert [STATES[int(n)] for n in numbers] == ["armed", "running", "running", "stopping"]
    np.testing.assert_allclose(stamps, np.arange(4), atol=1e-6)
    np.testing.assert_allclose(series(recording, "latency/chunk_age")[1], 200 + 1e3 * np.arange(4))


def test_changes_of_state_are_logged_once_as_text(recording):
    _, texts = rows(recording, "guard/events", "TextLog:text")
    _, levels = rows(recording, "guard/events", "TextLog:level")
    assert [(text[0], level[0]) for text, level in zip(texts, levels)] == [
        ("armed; mode policy", "INFO"),
        ("running", "INFO"),
        ("stopping; fault jump", "ERROR"),
    ]
    assert rows(recording, "policy/events", "TextLog:text")[1] == [["planning"]]


def test_there_is_one_timeline(recording):
    indices = {column.name for column in recording.schema().index_columns()}
    assert indices - {"log_time", "log_tick"} == {"ros_time"}
    assert series(recording, "joints/waist/measured")[0].min() >= 0


def test_the_number_of_waiting_joint_samples_is_bounded(tmp_path):
    pytest.importorskip("rerun", reason=NEEDS)
    from nac_ros.reporting import rerun

    log = rerun.RerunLogger(SPEC, 10.0)
    log.save(tmp_path / "run.rrd")
    for _ in range(250):  # with the same stamp
        log.log_joints("measured", STAMP, RAMP)
        assert len(log._rows["measured"]) < rerun.BATCH_ROWS
    log.close()


def test_parameters_that_are_no_file_or_address_are_rejected():
    from nac_ros.nodes.view import ViewParameters

    for wrong, text in (({"save": "run.mp4"}, ".rrd"), ({"connect": "viewer"}, "host:port")):
        with pytest.raises(ConfigError, match=text):
            ViewParameters(**wrong)
    with pytest.raises(ConfigError, match="images_hz"):
        ViewParameters(images_hz=0.0)


def test_a_recording_is_never_overwritten(tmp_path):
    pytest.importorskip("rerun", reason=NEEDS)
    from nac_ros.reporting import rerun

    (tmp_path / "run.rrd").write_text("precious")
    with pytest.raises(NacError, match="exists already"):
        rerun.RerunLogger(SPEC, 10.0).save(tmp_path / "run.rrd")
