"""`nac data view`: an HTML page and a rerun recording of one episode."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("matplotlib")

from test_episode_replay import swayed

from nac_ros.cli.main import main
from nac_ros.datasets.episode import Episode
from nac_ros.datasets.factory import open_dataset
from nac_ros.datasets.lerobot.writer import DatasetWriter
from nac_ros.reporting import plots
from nac_ros.reporting.episode_report import episode_trace
from nac_ros.robot.spec import load_robot

SPEC = load_robot("vx300s")


def write_dataset(folder, robot="vx300s"):
    """Forty frames of two cameras."""
    actions = (SPEC.home + 0.01 * np.arange(40)[:, None]).astype(np.float32)
    frames = np.random.default_rng(0).integers(0, 255, (40, 96, 96, 3), np.uint8)
    writer = DatasetWriter.create_or_resume(
        folder,
        fps=30,
        robot_type=robot,
        names=SPEC.joint_names,
        units=SPEC.units,
        cameras={"scene": (96, 96), "wrist": (96, 96)},
    )
    images = {"scene": frames, "wrist": frames[::-1]}
    writer.add_episode(Episode(actions, actions - 0.01, "Sway <slowly>.", images, True))
    writer.close()
    return folder


def test_a_page_has_cameras_joints_and_numbers(tmp_path, capsys):
    import av

    data, out = write_dataset(tmp_path / "data"), tmp_path / "paths.json"
    words = ["data", "view", str(data), "--out", str(tmp_path), "--json", str(out)]
    assert main(words) == 0
    paths = json.loads(out.read_text())["paths"]
    text = (tmp_path / "episode-000000/episode.html").read_text()
    assert "Sway &lt;slowly&gt;." in text and "40 at 30 Hz, 1.3 s" in text and "success" in text
    assert 'src="episode.mp4"' in text and "data:image/png" in text and "largest step" in text
    with av.open(str(tmp_path / "episode-000000/episode.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 40 and frames[0].shape == (240, 480, 3)
    assert paths[0].endswith("episode.html")
    assert len(paths) == 2 or "no rerun recording" in capsys.readouterr().out


def test_interventions_are_marked_in_the_plots(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "data"))
    episode = replace(dataset.episode(0), intervention=np.arange(40) // 10 % 2 == 1)
    trace = episode_trace(dataset, episode, 0)
    spans = [(round(30 * span.start), round(30 * span.end)) for span in trace.interventions]
    assert spans == [(10, 19), (30, 39)] and trace.holds == ()
    plain = episode_trace(dataset, replace(episode, intervention=None), 0)
    assert plots.plot_joints(trace) != plots.plot_joints(plain)


def test_the_rerun_recording_has_the_entities_of_the_live_view(tmp_path):
    pytest.importorskip("rerun")
    from rerun.dataframe import load_recording

    data = write_dataset(tmp_path / "data")
    assert main(["data", "view", str(data), "--out", str(tmp_path)]) == 0
    assert main(["data", "view", str(data), "--out", str(tmp_path)]) == 0  # again
    recording = load_recording(str(tmp_path / "episode-000000/episode.rrd"))
    columns = {column.entity_path for column in recording.schema().component_columns()}
    assert {"/joints/waist/commanded", "/joints/waist/measured", "/cameras/scene"} <= columns


def test_an_episode_of_an_unknown_robot_has_a_page(tmp_path, capsys):
    data = write_dataset(tmp_path / "data", robot="r2d2")
    assert main(["data", "view", str(data), "--out", str(tmp_path)]) == 0
    assert "no rerun recording: " in capsys.readouterr().out
    assert (tmp_path / "episode-000000/episode.html").is_file()
    assert main(["data", "view", str(data), "--episode", "7"]) == 2
    assert "has no episode 7" in capsys.readouterr().err


def test_an_episode_without_cameras_has_a_page_without_a_video(tmp_path):
    data = swayed(tmp_path / "data")
    assert main(["data", "view", str(data), "--out", str(tmp_path)]) == 0
    assert "<video" not in (tmp_path / "episode-000000/episode.html").read_text()
