"""Study of policies on the twin's tasks: a tiny cell from end to end, resumption, the table."""

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from nac_ros.core.errors import ConfigError
from nac_ros.datasets.episode import Episode
from nac_ros.datasets.lerobot.writer import DatasetWriter
from nac_ros.policies.base import load_policy
from nac_ros.robot.spec import load_robot
from nac_ros.simulation.tasks import make_task
from nac_ros.tokenizers import load_tokenizer
from tools import twin_study as study

SPEC = load_robot("vx300s")
TINY = ["--set", "steps=2", "--set", "batch=4", "--set", "trials=1"]
CELLS = ["ar_guided:rotated_rvq", "ar_guided:rotated_rvq:regression", "regression"]


@pytest.fixture(scope="module")
def arguments(tiny_bundle, tmp_path_factory):
    """Command line of a study of two episodes, without cells."""
    root = tmp_path_factory.mktemp("twin_study")
    rng = np.random.default_rng(0)
    cameras = {camera.name: (96, 96) for camera in SPEC.cameras}
    options = {"names": SPEC.joint_names, "units": SPEC.units, "cameras": cameras}
    with closing(
        DatasetWriter.create_or_resume(root / "data", fps=30, robot_type="vx300s", **options)
    ) as writer:
        for _ in range(2):
            images = {
                name: rng.integers(0, 256, (12, *size, 3)).astype(np.uint8)
                for name, size in cameras.items()
            }
            path = np.linspace(0, 0.1, 12)[:, None] + np.array(SPEC.home) * 0.9
            joints = path.astype(np.float32)
            writer.add_episode(Episode(joints, joints, make_task("weighing").prompt, images))
    given = {
        "--data": root / "data",
        "--tokenizers": tiny_bundle / "tokenizer",
        "--vision": tiny_bundle,
        "--out": root / "cells",
    }
    return [text for pair in given.items() for text in map(str, pair)] + TINY


@pytest.fixture(scope="module")
def out(arguments) -> Path:
    return Path(arguments[arguments.index("--out") + 1])


@pytest.fixture(scope="module")
def report(arguments, out):
    torch.set_num_threads(1)
    file = out / "report.json"
    assert study.main([*arguments, "--cells", *CELLS, "--report", str(file)]) == 0
    return json.loads(file.read_text())


def test_cells_report_trials_settings_and_paired_differences(report):
    first, *others = report["cells"]
    assert [cell["cell"] for cell in report["cells"]] == CELLS
    assert first["config"]["steps"] == 2 and first["git_commit"] and "difference" not in first
    for cell in others:
        assert cell["tasks"]["weighing"]["trials"] == 1
        assert cell["difference"]["weighing"]["trials"] == 1


def test_image_encoders_are_those_of_the_vision_policy_and_their_features_are_shared(
    report, out, tiny_bundle
):
    assert len(list((out / "features").iterdir())) == 1
    wanted = load_policy(tiny_bundle / "policy", load_tokenizer(tiny_bundle / "tokenizer"))
    made = load_policy(out / "regression" / "training" / "policy", None).state_dict()
    for key, value in wanted.state_dict().items():
        if key.startswith(study.VISION):
            assert torch.equal(made[key], value), key


def test_a_cell_that_acts_otherwise_is_not_trained_again(report, out):
    folder = out / CELLS[1].replace(":", "-")
    assert (folder / "bundle").is_dir() and not (folder / "training").exists()
    saved = json.loads((folder / "bundle/policy/config.json").read_text())
    assert saved["config"]["acts_by"] == "regression"


def test_the_table_has_a_row_for_each_cell(report):
    lines = study.table(report).splitlines()
    assert len(lines) == 2 + len(CELLS)
    assert lines[2].startswith("| ar_guided:rotated_rvq | ")


def test_finished_cells_are_skipped_and_those_of_other_settings_rejected(
    report, arguments, capsys
):
    assert study.main([*arguments, "--cells", *CELLS]) == 0
    assert capsys.readouterr().out.count("found in") == len(CELLS)
    assert study.main([*arguments, "--set", "steps=3", "--cells", CELLS[2]]) == 2
    assert "was made with steps 2, now 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("ar:fast", "no tokenizer 'fast' in --tokenizers, which has rotated_rvq"),
        ("ar:rotated_rvq:regression", "ar cannot act by 'regression'; it acts by: in one way"),
        ("ar_guided:rotated_rvq:hope", "it acts by: tokens, regression, regression_tokens"),
    ],
)
def test_a_cell_that_does_not_exist_is_rejected(arguments, cell, words, capsys):
    assert study.main([*arguments, "--cells", cell]) == 2
    assert words in capsys.readouterr().err


def test_data_of_another_task_is_rejected(arguments):
    with pytest.raises(ConfigError, match="the twin has no task with the prompt 'Dance'"):
        study._task_ids(type("Frames", (), {"tasks": ("Dance",)})())
