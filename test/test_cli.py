"""The command line: small complete runs, results as JSON, one sentence for bad input."""

import errno
import json

import pytest

from nac_ros.cli import tokenizer
from nac_ros.cli.main import main
from nac_ros.robot.spec import load_robot


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    code = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_from_demonstrations_to_an_evaluated_bundle(capsys, tmp_path):
    data, codec, policy = tmp_path / "data", tmp_path / "codec", tmp_path / "policy"
    code, _, _ = run(
        capsys,
        "data",
        "generate",
        "--task",
        "weighing",
        "--episodes",
        5,
        "--out",
        data,
        "--workers",
        1,
        "--disturbed-share",
        0,
    )
    assert code == 0
    assert run(capsys, "data", "check", data)[0] == 0
    code, out, _ = run(capsys, "data", "info", data)
    assert code == 0 and "Turn on the weighing machine." in out
    small = ["latent_dim=16", "n_filters=4", "decoder_dim=32", "decoder_hidden=64"]
    changes = [part for field in [*small, "decoder_blocks=1"] for part in ("--model", field)]
    code, _, _ = run(
        capsys,
        "tokenizer",
        "train",
        "--robot",
        "vx300s",
        "--data",
        data,
        "--out",
        codec,
        "--set",
        "steps=20",
        "--threads",
        1,
        *changes,
        "--json",
        tmp_path / "train.json",
    )
    assert code == 0 and json.loads((tmp_path / "train.json").read_text())["bits"] == 120
    robot = load_robot("vx300s")
    floor = 0.002 * (robot.position_high - robot.position_low)
    normalizer = json.loads((codec / "config.json").read_text())["config"]["normalizer"]
    assert normalizer == {"range": "minmax", "min_half_range": pytest.approx(floor.tolist())}
    sizes = ["dim=32", "n_layers=1", "n_heads=2", "vision_width=32"]
    changes = [part for field in sizes for part in ("--model", field)]
    code, _, _ = run(
        capsys,
        "policy",
        "train",
        "--tokenizer",
        codec,
        "--data",
        data,
        "--out",
        policy,
        "--set",
        "steps=4",
        "--set",
        "batch=8",
        "--set",
        "log_every=2",
        "--threads",
        1,
        *changes,
    )
    assert code == 0
    log = [json.loads(line) for line in (policy / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 4 and "l1" in log[-1]
    bundle = tmp_path / "bundle"
    code, out, _ = run(capsys, "export", "--policy", policy, "--tokenizer", codec, "--out", bundle)
    assert code == 0 and "verified" in out
    results = tmp_path / "eval.json"
    code, out, _ = run(
        capsys,
        "tokenizer",
        "eval",
        bundle,
        "--data",
        data,
        "--json",
        results,
        "--learnability-steps",
        2,
    )
    errors = json.loads(results.read_text())
    wanted = {"mse", "l1", "per_joint", "codebook_use", "tokens", "bits", "params_m"}
    assert code == 0 and wanted <= set(errors) and errors["onnx_error"] <= 1e-5
    code, out, _ = run(
        capsys,
        "eval",
        "--bundle",
        bundle,
        "--trials",
        1,
        "--baseline",
        "mean-demonstration",
        "--data",
        data,
        "--json",
        results,
    )
    row = json.loads(results.read_text())["tasks"]["weighing"]
    assert code == 0 and row["trials"] == 1 and len(row["wilson95"]) == 2


def test_tokenizer_list_gives_the_specified_columns(capsys, tmp_path):
    code, out, _ = run(capsys, "tokenizer", "list", "--json", tmp_path / "f.json")
    rows = json.loads((tmp_path / "f.json").read_text())["rows"]
    assert code == 0 and "nac" in out
    paper = next(row for row in rows if (row["name"], row["preset"]) == ("nac", "paper"))
    assert paper == {
        "name": "nac",
        "preset": "paper",
        "params_m": 63.005842,
        "tokens": 12,
        "vocabulary": 1024,
        "bits": 120.0,
    }


def test_policy_list_names_the_presets(capsys):
    code, out, _ = run(capsys, "policy", "list")
    assert code == 0 and "paper" in out and "small" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("data", "info", "nowhere"), "nowhere"),
        (("tokenizer", "eval", "nowhere", "--data", "x"), "nowhere"),
        (("eval", "--bundle", "nowhere"), "nowhere"),
        (("data", "generate", "--task", "juggle", "--episodes", "1", "--out", "OUT"), "marker"),
        (
            (
                "data",
                "generate",
                "--task",
                "marker",
                "--episodes",
                "1",
                "--out",
                "OUT",
                "--robot",
                "r2d2",
            ),
            "vx300s",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_exit_status_2(capsys, tmp_path, arguments, words):
    chosen = [str(tmp_path / "out") if a == "OUT" else a for a in arguments]
    code, _, err = run(capsys, *chosen)
    assert code == 2
    assert words in err and err.count("\n") == 1


def test_an_unknown_task_of_a_bundle_is_rejected(capsys, tiny_bundle):
    code, _, err = run(capsys, "eval", "--bundle", tiny_bundle, "--task", "juggle")
    assert code == 2 and "weighing" in err


@pytest.mark.parametrize("arguments", [[], ["eval", "--trials", "0"], ["tokenizer", "fly"]])
def test_a_misspelt_command_prints_the_usage(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_every_command_has_help(capsys):
    for arguments in ([], ["data"], ["tokenizer"], ["policy"], ["eval"], ["export"], ["demo"]):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--help"])
        assert ended.value.code == 0


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (".", r"--json .: . is a folder; name a file"),
        ("file/figures.json", "file is a file; name a file in a folder"),
        ("/proc/none/figures.json", "--json /proc/none/figures.json"),
    ],
)
def test_a_json_file_that_cannot_be_written_is_one_sentence(
    capsys, tmp_path, monkeypatch, target, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    code, _, error = run(capsys, "tokenizer", "list", "--json", target)
    assert code == 2 and words in error and error.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("number", "expected"), [(errno.ENOSPC, True), (errno.EBADF, False)])
def test_a_full_disk_is_one_sentence(capsys, monkeypatch, number, expected):
    def failing(args):
        raise OSError(number, "it went wrong")

    monkeypatch.setattr(tokenizer, "list_presets", failing)
    if expected:
        code, _, error = run(capsys, "tokenizer", "list")
        assert (
            code == 2 and "it went wrong: the output of the command could not be written" in error
        )
    else:
        with pytest.raises(
            OSError, match="it went wrong"
        ):  # unexpected, so the traceback is shown
            main(["tokenizer", "list"])
