"""The example file of docs/adding-a-policy.md works in every command without other changes."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import nac_ros.policies as package
from nac_ros.cli.main import main
from nac_ros.core.types import Observation
from nac_ros.export.bundle import load_bundle
from nac_ros.inference.engine import Engine
from nac_ros.inference.torch_runtime import TorchRuntime
from nac_ros.policies import list_policies
from nac_ros.policies.base import POLICIES
from nac_ros.robot.spec import load_robot

DOC = Path(__file__).resolve().parent.parent / "docs/adding-a-policy.md"
SPEC = load_robot("vx300s")


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The example file in a temporary folder that is added to the package's path."""
    code = re.search(r"```python\n(.*?)```", DOC.read_text(), re.S).group(1)
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "linear.py").write_text(code)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield "linear"
    POLICIES._classes.pop("linear", None)
    sys.modules.pop("nac_ros.policies.linear", None)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Five demonstrations of `weighing` in the twin."""
    folder = tmp_path_factory.mktemp("data") / "weighing"
    words = ["--episodes", "5", "--workers", "1", "--disturbed-share", "0", "--out", str(folder)]
    assert main(["data", "generate", "--task", "weighing", *words]) == 0
    return folder


def test_the_command_line_trains_exports_and_loads_it(added, dataset, tmp_path, capsys):
    assert added in list_policies()
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    quick = ["--set", "steps=4", "--set", "batch=8", "--set", "log_every=4", "--threads", "1"]
    data = ["--data", str(dataset), "--out", str(run), "--robot", "vx300s"]
    assert main(["policy", "train", "--policy", added, *data, *quick]) == 0
    assert main(["export", "--policy", str(run), "--out", str(bundle)]) == 0
    assert main(["policy", "list"]) == 0
    assert capsys.readouterr().out.count("linear") >= 3
    loaded = load_bundle(bundle)
    config = loaded.policy.config
    shape = (config.n_obs_steps, config.image_size, config.image_size, 3)
    images = {camera: np.zeros(shape, np.uint8) for camera in config.cameras}
    proprio = np.repeat(SPEC.home[None].astype(np.float32), config.n_obs_steps, 0)
    observation = Observation(1.0, images, proprio, "weighing")
    chunk = Engine(TorchRuntime(loaded)).predict_chunk(observation)
    assert chunk.actions.shape == (32, SPEC.action_dim) and len(chunk.tokens) == 0
    # The arm's columns are relative to the joint state, the gripper's is absolute.
    moved = Observation(1.0, images, proprio + np.float32(0.01), "weighing")
    shift = Engine(TorchRuntime(loaded)).predict_chunk(moved).actions - chunk.actions
    assert np.isfinite(shift).all() and np.abs(shift).max() < 1


def test_a_policy_without_tokens_takes_no_tokenizer_on_the_command_line(added, dataset, capsys):
    words = ["policy", "train", "--policy", added, "--data", str(dataset), "--out", "unused"]
    assert main([*words, "--tokenizer", "codec"]) == 2
    assert "predicts no tokens and takes no --tokenizer" in capsys.readouterr().err
    words[3] = "ar"
    assert main(words) == 2
    assert "policy ar needs --tokenizer" in capsys.readouterr().err
