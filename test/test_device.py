"""Choice of the device and the precision, and training and inference with them."""

import numpy as np
import pytest
import torch

from nac_ros.cli.main import main
from nac_ros.core import device as devices
from nac_ros.core.device import CPU, ComputeDevice, DeviceConfig, resolve_device
from nac_ros.core.errors import ConfigError
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.export.bundle import load_bundle
from nac_ros.export.onnx_session import OnnxDetokenizer
from nac_ros.inference.torch_runtime import TorchRuntime
from nac_ros.tokenizers import make_tokenizer
from nac_ros.training.tokenizer_trainer import TokenizerTrainer, TokenizerTrainingConfig

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@needs_no_gpu
def test_auto_reports_that_it_chose_the_cpu_and_why():
    reports = []
    assert resolve_device(DeviceConfig(), reports.append) == CPU
    (report,) = reports
    assert report.startswith("device auto: computing on the CPU, because torch")
    assert "CUDA" in report


def test_a_given_device_is_not_reported():
    def report(text):
        raise AssertionError(text)

    config = DeviceConfig(device="cpu", precision="bf16")
    assert resolve_device(config, report) == ComputeDevice("cpu", "bf16")


@pytest.mark.parametrize("command", ["eval", "export", "tokenizer", "policy", "trials"])
@needs_no_gpu
def test_a_missing_gpu_ends_a_command_with_one_sentence(command, capsys, tmp_path):
    arguments = {
        "eval": ["eval"],
        "export": ["export", "--policy", "run", "--out", "bundle"],
        "tokenizer": ["tokenizer", "train", "--data", "data", "--out", "run"],
        "policy": ["policy", "train", "--data", "data", "--out", "run"],
        "trials": ["trials", "--methods", "expert", "--tasks", "marker", "--out", str(tmp_path)],
    }[command]
    assert main([*arguments, "--device", "cuda:1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nac: device cuda:1 cannot be used: torch")
    assert line.endswith("; choose auto or cpu")


def test_a_word_that_is_no_device_is_rejected(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["eval", "--device", "gpu"])
    assert "must be auto, cpu, cuda or cuda:<index>, got 'gpu'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="device must be auto, cpu, cuda"):
        DeviceConfig(device="cuda:x")
    with pytest.raises(ConfigError, match="precision must be one of fp32, bf16, fp16, got 'fp8'"):
        DeviceConfig(precision="fp8")


def test_a_gpu_that_does_not_exist_or_compute_is_named(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla P4")
    with pytest.raises(ConfigError, match=r"has 1 CUDA devices: cuda:0 \(Tesla P4\)"):
        resolve_device(DeviceConfig(device="cuda:4"))
    if not torch.backends.cuda.is_built():
        reports = []
        assert resolve_device(DeviceConfig(), reports.append) == CPU
        assert "because Tesla P4 does not compute" in reports[0]
    monkeypatch.setattr(devices, "_cuda_problem", lambda index: "")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (6, 1))
    with pytest.raises(ConfigError, match="Tesla P4 cannot compute in bf16"):
        resolve_device(DeviceConfig(precision="bf16"))
    reports = []
    assert resolve_device(DeviceConfig(), reports.append).name == "cuda:0"
    assert reports == ["device auto: computing on cuda:0, Tesla P4"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_policy_in_mixed_precision_predicts_nearly_the_same_chunk(tiny_bundle, precision):
    from test_chunk_transition import noise_observation

    found = {}
    for name in ("fp32", precision):
        bundle = load_bundle(tiny_bundle, ComputeDevice("cpu", name))
        runtime, observation = TorchRuntime(bundle), noise_observation(bundle, 1.0)
        found[name] = runtime.predict(observation, np.random.default_rng(0))
    exact, mixed = found["fp32"], found[precision]
    assert not (exact.entropy == mixed.entropy).all()
    np.testing.assert_allclose(mixed.entropy, exact.entropy, atol=0.2)
    np.testing.assert_allclose(mixed.actions, exact.actions, atol=0.2)


def test_a_provider_that_was_asked_for_and_is_absent_is_an_error(tiny_bundle):
    device = resolve_device(DeviceConfig(device="cpu", onnx_providers="tensorrt,cpu"))
    with pytest.raises(ConfigError, match=r"has no tensorrt, it has .*cpu; choose of these"):
        load_bundle(tiny_bundle, device)
    with pytest.raises(ConfigError, match="auto, or names of tensorrt, cuda and cpu"):
        DeviceConfig(onnx_providers="cpu;cuda")


def test_a_provider_that_auto_skips_is_reported(tiny_bundle):
    graph = tiny_bundle / "detokenizer.onnx"
    skipped = OnnxDetokenizer(graph, 1, ("cuda", "cpu"))
    assert skipped.provider == "CPUExecutionProvider"
    assert skipped.notice.startswith("ONNX Runtime skips cuda, which is not installed")
    assert OnnxDetokenizer(graph).notice == ""


def chunks_of_sines(n: int) -> ActionChunks:
    phase = np.random.default_rng(n).uniform(0, 6, (n, 1, 1))
    actions = np.sin(phase + np.linspace(0, 3, 32)[None, :, None]) * np.linspace(0.5, 1, 7)
    return ActionChunks(actions.astype(np.float32), None)


def train_codec(out, steps, precision, resume=False):
    """Weights of the decoder's head after training a tiny codec."""
    sizes = {"decoder_dim": 32, "decoder_hidden": 64, "decoder_blocks": 1, "n_filters": 4}
    tokenizer = make_tokenizer("nac", latent_dim=16, codebook_size=16, **sizes)
    quick = {"batch": 8, "warmup": 1, "log_every": 3, "unquantized_share": 0.0}
    config = TokenizerTrainingConfig(steps=steps, **quick)
    device = ComputeDevice("cpu", precision)
    trainer = TokenizerTrainer(tokenizer, config, out, device=device)
    metrics = trainer.run(chunks_of_sines(24), chunks_of_sines(8), resume)
    assert np.isfinite(metrics["mse"]) and metrics["train_steps"] == steps
    return tokenizer.codec.decoder.head.project.weight.detach()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_tokenizer_trains_in_mixed_precision_and_resumes_with_the_same(tmp_path, precision):
    before = train_codec(tmp_path, 3, precision)
    after = train_codec(tmp_path, 6, precision, resume=True)
    assert before.dtype == torch.float32 and not torch.equal(before, after)
    with pytest.raises(ConfigError, match=rf"another precision \({precision}, now fp32\)"):
        train_codec(tmp_path, 7, "fp32", resume=True)
