"""Training commands on several datasets: compatible ones are joined, others rejected."""

import json
from contextlib import closing

import h5py
import numpy as np
import pytest
from test_aloha import write_episode
from test_cli import run
from test_hdf5_damage import STATES, write_layout

from nac_ros.datasets.episode import Episode
from nac_ros.datasets.frames import load_frames
from nac_ros.datasets.lerobot.writer import DatasetWriter

NAMES = tuple("abcdef")
TINY = [
    part
    for field in ("dim=32", "n_layers=1", "n_heads=2", "vision_width=32", "image_size=32")
    for part in ("--model", field)
] + ["--set", "steps=1", "--set", "batch=2", "--threads", "1"]
FIT = ("--tokenizer", "bin", "--horizon", 8, "--model", "limit=9")  # for other random walks


def lerobot(root, names=NAMES, fps=30, episodes=5, size=(32, 32), edit=lambda k, a: a):
    """A LeRobot folder with moving joints and one camera."""
    cameras = {"scene": size} if size else {}
    options = {"fps": fps, "robot_type": "arm", "names": list(names), "cameras": cameras}
    rng = np.random.default_rng(0)
    with closing(DatasetWriter.create_or_resume(root, **options)) as writer:
        for k in range(episodes):
            steps = rng.normal(0, 0.1, (12, len(names))).cumsum(0).astype(np.float32)
            images = {c: rng.integers(0, 255, (12, *s, 3), np.uint8) for c, s in cameras.items()}
            writer.add_episode(Episode(steps, edit(k, steps.copy()), "do it", images))
    return root


def hdf5(path, names=NAMES, fps=30, episodes=5):
    """A robomimic file with names in this package's attribute."""
    rng = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        facts = {"env_name": "do it", "env_kwargs": {"control_freq": fps, "robots": "arm"}}
        own = {"names": list(names), "state_names": list(names), "units": []}
        for k in range(episodes):
            steps = rng.normal(0, 0.1, (12, len(names))).cumsum(0)
            file[f"data/demo_{k}/actions"] = file[f"data/demo_{k}/obs/state"] = steps
            file[f"data/demo_{k}/obs/scene_image"] = rng.integers(0, 255, (12, 48, 64, 3), "u1")
        file["data"].attrs["env_args"] = json.dumps(facts)
        file["data"].attrs["nac"] = json.dumps(own)
    return path


@pytest.fixture
def codec(tmp_path, capsys):
    """A tokenizer of the joints `NAMES` at 30 Hz."""
    data = lerobot(tmp_path / "fitted", size=None)
    code, _, error = run(
        capsys, "tokenizer", "train", *FIT, "--data", data, "--out", tmp_path / "codec"
    )
    assert code == 0, error
    return tmp_path / "codec"


def test_a_policy_learns_from_lerobot_and_hdf5_together(tmp_path, capsys, codec):
    data = [lerobot(tmp_path / "a"), hdf5(tmp_path / "b.hdf5")]
    call = ("policy", "train", "--tokenizer", codec, "--data", *data, "--out", tmp_path / "out")
    code, out, error = run(capsys, *call, *TINY, "--frames", tmp_path / "frames")
    assert code == 0, error
    assert "120 frames" in out and len(list((tmp_path / "frames").glob("*.npy"))) == 2
    sources = json.loads((tmp_path / "out/run.json").read_text())["data"]
    assert [(s["name"], s["episodes"]) for s in sources] == [("a", 5), ("b.hdf5", 5)]


def test_every_joining_command_rejects_other_joint_orders_and_rates(tmp_path, capsys, codec):
    first = lerobot(tmp_path / "a")
    turned = lerobot(tmp_path / "turned", NAMES[::-1])
    slow = hdf5(tmp_path / "slow.hdf5", fps=10)
    out = ("--out", tmp_path / "out")
    commands = [
        ("tokenizer", "train", *FIT, *out),
        ("tokenizer", "eval", codec),
        ("tokenizer", "bench", "--tokenizers", "bin", "--horizon", 8, *out),
        ("tokenizer", "ablate", "--horizon", 8, *out),
        ("policy", "train", "--tokenizer", codec, *out),
    ]
    for command in commands:
        for other, words in ((turned, "(f, e, d, c, b, a)"), (slow, "10 Hz")):
            code, _, error = run(capsys, *command, "--data", first, other)
            assert code == 2 and error.count("\n") == 1, (command, error)
            assert words in error and str(other) in error, (command, error)


def test_data_of_other_joints_than_the_tokenizer_s_is_rejected(tmp_path, capsys, codec):
    turned = lerobot(tmp_path / "turned", NAMES[::-1])
    fewer = lerobot(tmp_path / "fewer", NAMES[:4])
    slow = lerobot(tmp_path / "slow", fps=10)
    for data, words in ((turned, "f, e, d"), (fewer, "4 action dim"), (slow, "10 Hz")):
        for command in (
            ("tokenizer", "eval", codec),
            ("policy", "train", "--tokenizer", codec, "--out", tmp_path / "out"),
        ):
            code, _, error = run(capsys, *command, "--data", data)
            assert code == 2 and words in error and error.count("\n") == 1, error


def test_columns_can_be_chosen_in_policy_train_info_and_check(tmp_path, capsys):
    path, key = tmp_path / "demo.hdf5", STATES["libero"]
    write_layout(path, "libero")
    with h5py.File(
        path, "r+"
    ) as file:  # the held-out episode stays within the range of the others
        for k in (1, 2):
            file[f"data/demo_{k}/{key}"][:] = file[f"data/demo_0/{key}"][()]
    code, out, _ = run(capsys, "data", "info", path, "--action-key", key, "--state-key", key)
    assert code == 0 and f"'{key}.0'" in out
    code, out, _ = run(capsys, "data", "check", path, "--state-key", "obs/none")
    assert code == 2 and "no table 'obs/none'" in out
    keys = ("--action-key", key, "--state-key", key, "--data", path)
    tokenizer = ("tokenizer", "train", "--tokenizer", "bin", "--horizon", 3, *keys)
    assert run(capsys, *tokenizer, "--out", tmp_path / "tok")[0] == 0
    policy = ("policy", "train", "--tokenizer", tmp_path / "tok", *keys)
    code, out, error = run(capsys, *policy, "--out", tmp_path / "pol", *TINY)
    assert code == 0 and "15 frames" in out, error  # the action is the next state: T - 1 each


def test_a_policy_learns_from_a_folder_of_aloha_episodes(tmp_path, capsys):
    for k in range(5):
        write_episode(tmp_path / f"cube/episode_{k}.hdf5", jpeg=True)
    data = ("--data", tmp_path / "cube")
    tokenizer = ("tokenizer", "train", "--tokenizer", "bin", "--horizon", 3, *data)
    assert run(capsys, *tokenizer, "--out", tmp_path / "tok")[0] == 0
    policy = ("policy", "train", "--tokenizer", tmp_path / "tok", *data, "--cameras", "cam_low")
    code, out, error = run(capsys, *policy, "--out", tmp_path / "pol", *TINY)
    assert code == 0 and "30 frames" in out, error
    code, out, _ = run(capsys, "data", "info", tmp_path / "cube")
    assert code == 0 and "left_waist" in out and "cam_high" in out


def test_policy_training_rejects_data_without_a_state_and_impossible_sizes(
    tmp_path, capsys, codec
):
    path = hdf5(tmp_path / "b.hdf5")
    with h5py.File(path, "r+") as file:
        for k in range(5):
            del file[f"data/demo_{k}/obs/state"]
    call = ("policy", "train", "--tokenizer", codec, "--out", tmp_path / "out")
    code, _, error = run(capsys, *call, "--data", path)
    assert code == 2 and "has no joint state" in error and "--state-key" in error
    code, _, error = run(
        capsys, *call, "--data", lerobot(tmp_path / "a"), "--model", "image_size=many"
    )
    assert code == 2 and "image_size must be" in error and "got many" in error


def test_left_out_data_is_reported_on_stderr(tmp_path, capsys):
    def still(k, actions):
        actions[:, 5] = 0 if k != 4 else np.linspace(0, 100, len(actions))
        return actions

    data = lerobot(tmp_path / "a", size=None, edit=still)
    call = ("tokenizer", "bench", "--tokenizers", "bin", "fast", "--learnability-steps", 2)
    more = ("--cache", tmp_path / "cache", "--out", tmp_path / "bench")
    code, _, error = run(capsys, *call, "--horizon", 8, "--data", data, *more)
    assert code == 0 and "f never moves in the training episodes" in error, error
    assert json.loads((tmp_path / "bench/bench.json").read_text())["constant"] == ["f"]


def test_images_of_recordings_are_decoded_a_few_at_a_time(tmp_path):
    pytest.importorskip("mcap")
    pytest.importorskip("rosbags")
    from test_resampler import write_recording

    from nac_ros.datasets.factory import open_dataset
    from nac_ros.datasets.mcap.resampler import RecordingResampler

    for name, seconds in (("a", 2.0), ("b", 3.0)):
        write_recording(tmp_path / name, seconds=seconds)
    dataset = open_dataset(tmp_path)
    most = 0
    add_message = RecordingResampler.add_message

    def counted(resampler, message):
        nonlocal most
        add_message(resampler, message)
        segments = resampler.result.segments
        frames = [frame for segment in segments for frame in segment.observations]
        most = max(most, sum(bool(frame.images) for frame in frames))

    cameras = list(dataset.cameras)
    RecordingResampler.add_message = counted
    try:
        frames = load_frames([dataset], cameras)
    finally:
        RecordingResampler.add_message = add_message
    assert 0 < most <= 4
    episodes = [dataset.episode(i) for i in range(len(dataset.episodes))]
    for camera in cameras:
        wanted = np.concatenate([episode.images[camera] for episode in episodes])
        np.testing.assert_array_equal(frames.images[camera][np.arange(len(frames))], wanted)
