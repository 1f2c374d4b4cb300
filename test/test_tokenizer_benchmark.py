"""Tokenizer benchmark and ablation: cached training, results, ranking, plots."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nac_ros.cli.main import main
from nac_ros.core.errors import ConfigError, DatasetError
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.evaluation.published_results import TABLE_1, TABLE_3
from nac_ros.evaluation.token_effects import measure_token_effects
from nac_ros.evaluation.tokenizer_ablation import (
    GROUPS,
    AblationConfig,
    ablation_candidates,
    run_ablation,
)
from nac_ros.evaluation.tokenizer_benchmark import (
    BenchmarkConfig,
    dominating_points,
    ranking,
    run_benchmark,
    search_learning_rate,
    table,
)
from nac_ros.tokenizers import list_tokenizers, make_tokenizer
from nac_ros.training.experiment import BenchmarkData, Candidate, train
from nac_ros.training.tokenizer_metrics import evaluate
from nac_ros.training.tokenizer_trainer import TokenizerTrainingConfig

pytestmark = pytest.mark.timeout(600)  # exporting encoders with beam search takes most of it

KEYS = {
    *("name", "preset", "params_m", "tokens", "vocabulary", "bits", "encode_ms", "decode_ms"),
    *("roundtrip_ms", "runtime", "batch", "threads", "mse", "l1", "max_error", "failed_chunks"),
}


def walks(n=160):
    """Random walks `[n, 8, 3]` with their start as reference."""
    steps = np.random.default_rng(0).standard_normal((n, 8, 3)).cumsum(1).astype(np.float32)
    parts = (steps[40:], steps[:20], steps[20:40])
    train, validation, test = (ActionChunks(part, part[:, 0]) for part in parts)
    columns = {"relative": [True, True, False]}
    return BenchmarkData("walks", train, validation, columns, test)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Results of a whole benchmark with 0.5 s of training each."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("bench")
    config = BenchmarkConfig(
        train_seconds=0.5, cache=str(folder / "cache"), threads=1, batch=16, learnability_steps=2
    )
    return run_benchmark(config, walks(), folder / "out"), folder, config


def test_every_tokenizer_has_rows_with_the_specified_keys(compared):
    results, folder, _ = compared
    assert {row["name"] for row in results["rows"]} == set(list_tokenizers())
    assert all(set(row) >= KEYS for row in results["rows"])
    for name in list_tokenizers():
        first = [r for r in results["rows"] if r["title"] == name and r["batch"] == 1]
        assert {r["runtime"] for r in first} in ({"onnx", "torch"}, {"numpy"})
        assert all(r["threads"] == 1 and r["roundtrip_ms"] > 0 for r in first)
    assert json.loads((folder / "out/bench.json").read_text())["rows"] == results["rows"]
    plots = ("rate_distortion", *(f"tokens_{name}" for name in list_tokenizers()))
    for plot in plots:
        assert (folder / f"out/{plot}.png").read_bytes()[:4] == b"\x89PNG"
    assert "git_commit" in results and results["train_seconds"] == 0.5


def test_onnx_gives_the_same_tokens_and_actions_as_torch(compared):
    results, _, _ = compared
    assert set(results["onnx"]) >= {"nac", "oat", "vqvla"}
    for found in results["onnx"].values():
        assert found["decode_error"] < 1e-5
        assert found["unequal"] == 0 or found["margin"] < 1e-4


def test_the_plot_has_prefixes_and_settings_with_one_of_each_within_120_bits(compared):
    points = compared[0]["points"]
    for name, kind in (("oat", "prefix"), ("fast", "setting"), ("bin", "setting")):
        assert any(p["name"] == name and p["kind"] == kind and p["bits"] <= 120 for p in points)
    assert any(p["label"] == "nac" and p["kind"] == "prefix" for p in points)


def test_a_trained_run_is_loaded_from_the_cache_and_another_seed_is_not(compared, capsys):
    _, _, config = compared
    common = {"seconds": 0.5, "batch": 16}
    again = train(Candidate(name="vqvla"), walks(), common, 0, Path(config.cache))
    assert "found in" in capsys.readouterr().out and again.metrics["train_steps"] > 0
    train(Candidate(name="vqvla"), walks(), common, 1, Path(config.cache))
    assert "found in" not in capsys.readouterr().out


def test_a_truncated_file_in_the_cache_is_named(tmp_path):
    common = {"steps": 1, "batch": 4, "discriminator": "none"}
    train(Candidate(name="vqvla"), walks(), common, 0, tmp_path)
    (results,) = tmp_path.glob("*/metrics.json")
    results.write_text(results.read_text()[:9])
    with pytest.raises(DatasetError, match=r"metrics\.json is not valid JSON"):
        train(Candidate(name="vqvla"), walks(), common, 0, tmp_path)


def test_the_table_shows_the_values_of_the_paper(compared):
    text = table(compared[0])
    assert f"({TABLE_3['nac'].params_m:g})" in text and "round trip" in text


def point(name, bits, mse):
    return {"name": name, "label": name, "bits": bits, "mse": mse, "kind": "full"}


def test_a_tokenizer_with_fewer_bits_and_less_error_dominates():
    ours, worse = point("nac", 120, 1e-3), point("oat", 119.6, 2e-3)
    better, larger = point("fast", 110, 9e-4), point("bin", 240, 1e-5)
    (found,) = dominating_points([ours, worse, better, larger])
    assert found["rival"] is better and found["nac"] is ours
    smaller = point("bin", 112, 3e-3)
    assert ranking([ours, worse, better, larger, smaller]) == ["fast", "nac", "oat", "bin"]


def test_the_candidates_are_table_1_and_the_commitments_with_and_without_discriminator():
    rows = ablation_candidates("nac", "small", AblationConfig().groups)
    pairs = {(group, setting) for group, setting, _ in rows}
    assert pairs >= {(group, setting) for group in TABLE_1 for setting in TABLE_1[group]}
    assert sum(group == "commitment" for group, _, _ in rows) == 6
    changed = {(c.model, c.training) for _, _, c in rows}
    assert len(changed) == len(rows)


@pytest.mark.parametrize("group", [group for group in GROUPS if group not in TABLE_1])
def test_every_setting_of_our_groups_can_be_built(group):
    for _, setting, candidate in ablation_candidates("rotated_rvq", "small", [group]):
        values = {"relative": (True,) * 7, **dict(candidate.model)}
        made = make_tokenizer(candidate.name, candidate.preset, **values)
        assert made.is_relative == (setting != "absolute")
        TokenizerTrainingConfig(**dict(candidate.training))


def test_an_ablation_reports_each_setting_and_rejects_an_unknown_group(tmp_path):
    torch.set_num_threads(1)
    common = {"train_seconds": 0.2, "seeds": 1, "threads": 1, "batch": 16}
    config = AblationConfig(
        groups=("representation",), preset="small", **common, cache=str(tmp_path / "cache")
    )
    results = run_ablation(config, walks(), tmp_path / "out")
    assert [row["setting"] for row in results["rows"]] == ["default", "absolute"]
    assert results["rows"][0]["mse"] != results["rows"][1]["mse"]
    assert {row["tokenizer"] for row in results["rows"]} == {"nac"}
    assert "| nac | representation | absolute |" in (tmp_path / "out/ablation.md").read_text()
    with pytest.raises(ConfigError, match="no group 'heads'; known are loss"):
        AblationConfig(groups=("heads",))


def test_a_token_of_bin_affects_one_joint_and_step_and_one_of_nac_all_steps():
    chunks = walks()
    facts = {"horizon": 8, "action_dim": 3, "relative": (True, True, False)}
    effects = {
        name: measure_token_effects(
            make_tokenizer(name, **facts).fit(*chunks.train), chunks.test
        ).effects
        for name in ("bin", "nac")
    }
    assert effects["bin"].shape == (24, 8) and (effects["bin"] > 0).sum() == 24
    assert effects["nac"].shape[1] == 8 and (effects["nac"] > 0).all()


def test_the_learning_rate_of_least_validation_error_is_kept(tmp_path):
    config = BenchmarkConfig(
        train_seconds=0.3, cache=str(tmp_path), threads=1, batch=16, search=(1e-3, 1.0)
    )
    data = walks()
    found = search_learning_rate(Candidate(name="vqvla"), config, data)
    assert found.rate == min(found.errors, key=found.errors.get)
    assert dict(found.candidate.training) == {"learning_rate": found.rate}
    assert [row["learning_rate"] for row in found.facts()["search"]] == list(found.errors)
    assert search_learning_rate(Candidate(name="bin"), config, data).rate is None
    plain = search_learning_rate(Candidate(name="vqvla"), replace(config, search=()), data)
    assert plain.candidate == Candidate(name="vqvla") and plain.rate in found.errors


def test_published_errors_are_of_test_chunks_and_choices_of_validation_chunks(compared):
    rows = {row["title"]: row for row in compared[0]["rows"]}
    data = walks()
    tokenizer = make_tokenizer("bin", horizon=8, action_dim=3, **data.columns).fit(*data.train)
    assert rows["bin"]["mse"] == pytest.approx(evaluate(tokenizer, data.test)["mse"])
    validation = evaluate(tokenizer, data.validation)["mse"]
    assert rows["bin"]["validation_mse_seeds"] == [pytest.approx(validation)]
    assert compared[0]["chunks"] == {"train": 120, "validation": 20, "test": 20}


def test_a_benchmark_without_test_chunks_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="walks: a benchmark needs test episodes"):
        run_benchmark(BenchmarkConfig(), replace(walks(), test=None), tmp_path)


def test_invalid_input_is_rejected(capsys, tmp_path):
    with pytest.raises(ConfigError, match="train_seconds must be at least"):
        BenchmarkConfig(train_seconds=0)
    assert main(["tokenizer", "bench", "--data", str(tmp_path / "none")]) == 2
    assert "no dataset at" in capsys.readouterr().err
