"""Chooses what runs the policy of a bundle: ONNX Runtime without torch, or torch."""

from pathlib import Path

from nac_ros.core.device import CPU, ComputeDevice
from nac_ros.export.onnx_spec import SPEC, read_onnx_spec
from nac_ros.inference.onnx_runtime import OnnxRuntime
from nac_ros.inference.policy_runtime import PolicyRuntime, RuntimeConfig


def load_runtime(
    folder: Path | str,
    config: RuntimeConfig | None = None,
    needs_context: bool = False,
    device: ComputeDevice = CPU,
) -> PolicyRuntime:
    """The verified policy of the bundle `folder`; raises BundleError as `load_bundle` does.

    needs_context: whether `auto` only chooses a runtime that can continue committed steps
    device: of torch; on another than the CPU `auto` chooses torch
    """
    config = config or RuntimeConfig()
    runtime = config.runtime
    if runtime == "auto":
        has_onnx = device.kind == "cpu" and _has_onnx(Path(folder), needs_context)
        runtime = "onnx" if has_onnx else "torch"
    if runtime == "torch":
        return _load_torch(folder, config, device)
    return OnnxRuntime(folder, config.threads)


def _has_onnx(folder: Path, needs_context: bool) -> bool:
    """Whether the bundle was exported to ONNX, with committed steps if they are needed."""
    if not (folder / SPEC).is_file():
        return False
    return not needs_context or read_onnx_spec(folder).fixes_steps


def _load_torch(folder: Path | str, config: RuntimeConfig, device: ComputeDevice) -> PolicyRuntime:
    from nac_ros.export.bundle import load_bundle
    from nac_ros.inference.torch_runtime import TorchRuntime

    return TorchRuntime(load_bundle(folder, device), config.threads)
