"""Device and number format of the networks: chosen once, then passed down as one value."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

from nac_ros.core.config import TextRule, check_fields, text_field
from nac_ros.core.errors import ConfigError, show_text

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
DEVICE_NAME = TextRule(re.compile(r"auto|cpu|cuda(:\d{1,3})?"), "auto, cpu, cuda or cuda:<index>")
_PROVIDER = "(tensorrt|cuda|cpu)"
PROVIDER_NAMES = TextRule(
    re.compile(rf"auto|{_PROVIDER}(,{_PROVIDER}){{0,2}}"),
    "auto, or names of tensorrt, cuda and cpu separated by commas",
)
TYPES = {"bf16": "bfloat16", "fp16": "float16"}  # names in torch


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """device: auto, cpu, cuda or cuda:<index>; auto = the first CUDA device that works,
        else the CPU
    precision: fp32, or mixed precision with bf16 or fp16
    onnx_providers: of ONNX Runtime in order of preference, such as `tensorrt,cuda,cpu`, of which
        the first must start; auto = cuda on a CUDA device where it starts, else cpu
    """

    device: str = text_field("auto", DEVICE_NAME)
    precision: Precision = "fp32"
    onnx_providers: str = text_field("auto", PROVIDER_NAMES)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision must be one of {', '.join(PRECISIONS)}, got "
                f"'{show_text(self.precision)}'"
            )


@dataclass(frozen=True)
class ComputeDevice:
    """A device that exists, and the precision of the networks on it; made by `resolve_device`.

    name: `cpu` or `cuda:<index>`, as torch takes it
    onnx_providers: of ONNX Runtime in order of preference; providers_required: whether the first
        one must start
    """

    name: str = "cpu"
    precision: Precision = "fp32"
    onnx_providers: tuple[str, ...] = ("cpu",)
    providers_required: bool = False

    @property
    def kind(self) -> str:
        """`cpu` or `cuda`."""
        return self.name.partition(":")[0]

    @property
    def index(self) -> int:
        """Of a CUDA device; 0 for the CPU."""
        return int(self.name.partition(":")[2] or 0)

    def autocast(self) -> AbstractContextManager[Any]:
        """Inside, matrix products and convolutions compute in `precision`."""
        import torch

        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.kind, getattr(torch, TYPES[self.precision]))

    def generator(self, seed: int) -> Any:
        """A torch.Generator on this device."""
        import torch

        return torch.Generator(self.name).manual_seed(seed)

    def gradient_scaler(self) -> Any:
        """A torch GradScaler: with fp16 it scales losses so that small gradients do not vanish,
        with other precisions it does nothing."""
        import torch

        return torch.amp.GradScaler(self.kind, enabled=self.precision == "fp16")

    def synchronize(self) -> None:
        """Waits until everything that was started on the device is done."""
        import torch

        if self.kind == "cuda":
            torch.cuda.synchronize(self.name)

    def random_states(self) -> dict[str, Any]:
        """States of torch's default generators, of the CPU and of this device, uint8 `[N]`."""
        import torch

        states = {"random": torch.get_rng_state()}
        if self.kind == "cuda":
            states["random_cuda"] = torch.cuda.get_rng_state(self.name)
        return states

    def set_random_states(self, states: dict[str, Any]) -> None:
        """Restores `random_states`; raises KeyError if one of them is missing."""
        import torch

        torch.set_rng_state(states["random"])
        if self.kind == "cuda":
            torch.cuda.set_rng_state(states["random_cuda"], self.name)


CPU = ComputeDevice()
POLICY_TRAINING_PRECISION: Precision = "bf16"  # the default of `nac policy train`


def resolve_device(
    config: DeviceConfig, report: Callable[[str], None] = lambda text: None
) -> ComputeDevice:
    """The device of a config.

    report: called with what `auto` chose, and why
    Raises ConfigError for a CUDA device that does not exist or does not work, and for bf16 on one
    that cannot compute with it.
    """
    if config.device == "cpu":
        return _with_providers("cpu", config)
    index = int(config.device.partition(":")[2] or 0)
    problem = _cuda_problem(index)
    if config.device == "auto" and problem:
        report(f"device auto: computing on the CPU, because {problem}")
        return _with_providers("cpu", config)
    if problem:
        raise ConfigError(f"device {config.device} cannot be used: {problem}; choose auto or cpu")
    _prepare_cuda(index, config.precision)
    if config.device == "auto":
        report(f"device auto: computing on cuda:{index}, {_cuda_name(index)}")
    return _with_providers(f"cuda:{index}", config)


def _with_providers(name: str, config: DeviceConfig) -> ComputeDevice:
    """A device with the ONNX Runtime providers of a config."""
    if config.onnx_providers == "auto":
        providers = ("cpu",) if name == "cpu" else ("cuda", "cpu")
        return ComputeDevice(name, config.precision, providers)
    return ComputeDevice(name, config.precision, tuple(config.onnx_providers.split(",")), True)


def _cuda_problem(index: int) -> str:
    """Why a CUDA device cannot be used, '' if it can."""
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device"
    if index >= (n := torch.cuda.device_count()):
        names = ", ".join(f"cuda:{k} ({_cuda_name(k)})" for k in range(n))
        return f"this machine has {n} CUDA devices: {names}"
    try:
        torch.ones(1, device=f"cuda:{index}").add(1).item()
    # driver too old, memory full, no kernels for this device, or a build without CUDA
    except (RuntimeError, AssertionError) as error:
        return f"{_cuda_name(index)} does not compute: {show_text(error, 200)}"
    return ""


def _prepare_cuda(index: int, precision: Precision) -> None:
    """Float32 stays float32: without this, convolutions round their inputs to TF32 (10 bits)."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if precision == "bf16" and torch.cuda.get_device_capability(index) < (8, 0):
        raise ConfigError(
            f"{_cuda_name(index)} cannot compute in bf16, which needs compute capability 8.0; "
            "choose precision fp32 or fp16"
        )


def _cuda_name(index: int) -> str:
    import torch

    return str(torch.cuda.get_device_name(index))
