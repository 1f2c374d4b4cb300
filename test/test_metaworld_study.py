"""Study of tokenizers on Meta-World: demonstrations, a tiny cell from end to end, resumption."""

import json

import numpy as np
import pytest
import torch

from nac_ros.core.errors import ConfigError, DatasetError, SimulationError
from nac_ros.tokenizers import make_tokenizer
from nac_ros.tokenizers.grammar import PAD
from tools import metaworld_study as study

pytest.importorskip("metaworld")
pytestmark = pytest.mark.filterwarnings("ignore:Constant")  # Meta-World clips its experts' actions

TINY = study.StudyConfig(
    tasks=("drawer-close-v3",),
    demonstrations=5,
    max_steps=100,
    horizon=8,
    n_action_steps=8,
    tokenizer_steps=2,
    dim=16,
    n_layers=1,
    steps=4,
    batch=8,
    warmup=1,
    trials=2,
    log_every=2,
)


@pytest.fixture(scope="module")
def demonstrations_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("metaworld") / "demonstrations.npz"
    study.load_demonstrations(path, TINY)
    return path


@pytest.fixture(scope="module")
def finished(demonstrations_file, tmp_path_factory):
    """Folder with a finished cell of `ar` over `bin`."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("cells")
    study.run_cells([study.Cell("bin", 3)], TINY, out, demonstrations_file)
    return out


def test_demonstrations_of_the_expert_end_in_the_goal_state(demonstrations_file):
    made = study.load_demonstrations(demonstrations_file, TINY)
    assert np.unique(made.episodes).tolist() == [0, 1, 2, 3, 4]
    assert made.observations.shape == (len(made.actions), study.OBSERVATION_DIM)
    assert np.abs(made.actions).max() <= 1
    lengths = np.bincount(made.episodes)
    assert TINY.success_steps <= lengths.min() and lengths.max() < TINY.max_steps


def test_demonstrations_of_other_settings_are_rejected(demonstrations_file):
    other = study.StudyConfig(**{**vars(TINY), "demonstrations": 6})
    with pytest.raises(DatasetError, match="choose another --data"):
        study.load_demonstrations(demonstrations_file, other)


def test_an_expert_that_fails_too_often_is_reported(monkeypatch):
    worlds = study.make_worlds(TINY.tasks[0], 1, 2)
    monkeypatch.setattr(study, "make_worlds", lambda task, seed: worlds)
    impossible = study.StudyConfig(**{**vars(TINY), "max_steps": 1})
    with pytest.raises(SimulationError, match="solved 0 of 4 starts"):
        study.generate_demonstrations(impossible)


def test_a_chunk_repeats_the_last_action_of_its_own_episode():
    frames = study.Demonstrations(
        np.zeros((12, 39), np.float32),
        np.arange(12, dtype=np.float32)[:, None].repeat(4, 1),
        np.repeat(np.arange(6), 2),
        np.zeros(12, np.int64),
    )
    data = study.StudyData.of(frames, horizon=3)
    assert data.chunks[:4, :, 0].tolist() == [[0, 1, 1], [1, 1, 1], [2, 3, 3], [3, 3, 3]]
    assert np.flatnonzero(data.held_out).tolist() == [8, 9]  # episode 4


def test_a_cell_reports_every_trial_its_settings_and_versions(finished):
    result = json.loads((finished / "bin_3" / study.RESULT).read_text())
    outcomes = result["outcomes"]["drawer-close-v3"]
    assert len(outcomes) == result["trials"] == 2
    assert sum(outcomes) == result["solved"] == result["per_task"]["drawer-close-v3"]
    assert result["config"]["seed"] == 3 and result["config"]["steps"] == 4
    assert result["versions"]["metaworld"] and result["git_commit"]
    assert result["tokenizer"]["mse"] > 0 and result["cross_entropy"] > 0


def test_a_finished_cell_is_not_run_again(finished, demonstrations_file, monkeypatch):
    monkeypatch.setattr(study, "run_cell", None)  # calling it would fail
    study.run_cells([study.Cell("bin", 3)], TINY, finished, demonstrations_file)
    other = study.StudyConfig(**{**vars(TINY), "steps": 5})
    with pytest.raises(ConfigError, match="made with steps 4, now 5"):
        study.run_cells([study.Cell("bin", 3)], other, finished, demonstrations_file)


def test_an_interrupted_training_continues_to_the_same_weights(demonstrations_file, tmp_path):
    data = study.StudyData.of(study.load_demonstrations(demonstrations_file, TINY), TINY.horizon)

    def train(folder, fail_at=None):
        torch.manual_seed(0)
        policy = study.make_study_policy(None, TINY)
        targets = study.prepare_targets(policy, data)
        if fail_at is not None:
            calls, loss = [], policy.loss

            def failing_loss(*batch):
                calls.append(1)
                if len(calls) > fail_at:
                    raise KeyboardInterrupt
                return loss(*batch)

            policy.loss = failing_loss
        folder.mkdir(exist_ok=True)
        study.train_policy(policy, targets, data, TINY, folder)
        return torch.cat([p.detach().flatten() for p in policy.parameters()])

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "halted", fail_at=3)
    assert torch.equal(train(tmp_path / "halted"), whole)


def test_trials_of_one_seed_start_alike_for_all_methods_and_unlike_the_demonstrations(
    demonstrations_file,
):
    def first_observations(seed):
        return np.array([w.reset() for w in study.make_worlds("drawer-close-v3", seed, 2)])

    seed = study.TRIAL_STARTS_SEED
    starts = first_observations(seed)
    assert np.array_equal(starts, first_observations(seed))
    known = study.load_demonstrations(demonstrations_file, TINY).observations
    distance = np.abs(starts[:, None] - known).max(-1)
    assert distance.min() > 1e-4


def test_groups_of_similar_length_give_the_loss_of_the_whole_batch(demonstrations_file):
    made = study.load_demonstrations(demonstrations_file, TINY)
    data = study.StudyData.of(made, TINY.horizon)
    fast = make_tokenizer("fast", "small", TINY.horizon, study.ACTION_DIM)
    policy = study.make_study_policy(fast.fit(data.chunks), TINY).eval()
    targets, batch = study.prepare_targets(policy, data), torch.arange(0, 200, 5)
    lengths = [
        len(study._select(targets, rows)["tokens"][0])
        for rows, _ in study._length_groups(targets, batch)
    ]
    assert len(lengths) == study.LENGTH_GROUPS and lengths[0] < lengths[-1]
    grouped = study.batch_loss(policy, targets, data, batch, 0.0)
    whole = policy.loss(study.inputs_of(policy, data, batch), study._select(targets, batch))
    assert torch.allclose(grouped, whole["tokens"], atol=1e-5)


def test_batches_drop_columns_that_are_padding_in_all_rows():
    tokens = torch.tensor([[1, 2, PAD, PAD], [3, PAD, PAD, PAD], [4, 5, 6, 7]])
    chosen = study._select({"tokens": tokens}, torch.tensor([0, 1]))
    assert chosen["tokens"].tolist() == [[1, 2], [3, PAD]]


def test_the_report_lists_finished_cells_with_their_interval(finished, tmp_path, capsys):
    file = tmp_path / "report.json"
    assert study.main(["--out", str(finished), "--report", str(file)]) == 0
    cells = json.loads(file.read_text())["cells"]
    assert [cell["method"] for cell in cells] == ["bin"]
    assert "| bin | 3 | 32.0 | " in capsys.readouterr().out


def test_a_report_keeps_the_cells_of_another_machine_and_replaces_its_own(finished, tmp_path):
    file = tmp_path / "report.json"
    made = study.collect(finished, file)
    (cell,) = made["cells"]
    elsewhere = {**cell, "seed": cell["seed"] + 1}
    outdated = {**cell, "solved": cell["solved"] + 100}
    file.write_text(json.dumps({**made, "cells": [elsewhere, outdated]}))
    assert study.collect(finished, file)["cells"] == [elsewhere, cell]


def test_a_tokenizer_without_a_finished_cell_is_reported_as_not_run(demonstrations_file, tmp_path):
    study.train_tokenizers([study.Cell("fast", 0)], TINY, tmp_path, demonstrations_file)
    results = study.collect(tmp_path, tmp_path / "report.json")
    assert results["cells"] == [] and results["tokenizers"][0]["mse"] > 0
    assert "| fast | 0 | " in study.table(results) and "not run" in study.table(results)


def test_a_cell_without_a_seed_is_rejected(capsys):
    with pytest.raises(SystemExit):
        study.main(["--cells", "nac"])
    assert "must be METHOD:SEED such as nac:0, got 'nac'" in capsys.readouterr().err
