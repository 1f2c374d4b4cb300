"""ONNX Runtime sessions that run exported graphs, with numpy alone."""

import time
from pathlib import Path

import numpy as np

from nac_ros.core.errors import BundleError, ConfigError, show_text

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
OPTIONS = {"cuda": {"use_tf32": "0"}}  # float32 as on the CPU, not rounded to 10 bits


class OnnxSession:
    """ONNX Runtime session of one graph.

    providers: names of PROVIDERS, of which the first that starts is used
    required: whether it must be the first one; otherwise `notice` says why it is not
    gpu: index of the GPU of the providers tensorrt and cuda
    duration_s: of the latest run [s]

    Raises ConfigError for a required provider that is not there or does not start.
    """

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        providers: tuple[str, ...] = ("cpu",),
        required: bool = False,
        gpu: int = 0,
    ):
        import onnxruntime  # slow to import, and needed only where a bundle decodes

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        there = onnxruntime.get_available_providers()
        usable = [name for name in providers if PROVIDERS[name] in there]
        known = ", ".join(name for name, full in PROVIDERS.items() if full in there)
        absent = [name for name in providers if name not in usable]
        if absent and (required or not usable):
            raise ConfigError(
                f"onnx_providers: onnxruntime {onnxruntime.__version__} has no {absent[0]}, it "
                f"has {known}; choose of these, or install another build (make setup ONNX=gpu)"
            )
        on_gpu = {"device_id": str(gpu)}
        chosen = [
            (PROVIDERS[name], {} if name == "cpu" else on_gpu | OPTIONS.get(name, {}))
            for name in usable
        ]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=chosen)
        except Exception as error:  # onnxruntime raises bare pybind types
            raise BundleError(
                f"{path} does not load in ONNX Runtime: {show_text(error)}; copy it again"
            ) from error
        self.path, self.duration_s = path, 0.0
        self.provider = self._session.get_providers()[0]
        self.notice = ""
        if absent:
            self.notice = (
                f"ONNX Runtime skips {absent[0]}, which is not installed, and has {known}"
            )
        if self.provider != PROVIDERS[usable[0]]:
            problem = (
                f"{usable[0]} is installed but does not start: check its libraries and driver"
            )
            if required:
                raise ConfigError(f"onnx_providers: {problem}, or choose another")
            self.notice = f"ONNX Runtime skips {usable[0]}: {problem}"

    def run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs, in the order of the graph."""
        started = time.perf_counter()
        try:
            return self._session.run(None, feeds)
        except Exception as error:  # onnxruntime raises bare pybind types
            raise BundleError(
                f"{self.path} cannot be computed: {show_text(error)}; export it again"
            ) from error
        finally:
            self.duration_s = time.perf_counter() - started

    def run_named(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by name."""
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self.run(feeds)))


class OnnxTokenizer(OnnxSession):
    """Encodes with ONNX Runtime."""

    def __call__(self, actions: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """float32 `[B, H, D]`, float32 `[B, D]` -> int64 `[B, L]`."""
        feeds = {"actions": actions.astype(np.float32), "reference": reference.astype(np.float32)}
        return self.run(feeds)[0]


class OnnxDetokenizer(OnnxSession):
    """Decodes with ONNX Runtime."""

    def __call__(self, tokens: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """int64 `[B, L]`, float32 `[B, D]` -> float32 `[B, H, D]`."""
        feeds = {"tokens": tokens.astype(np.int64), "reference": reference.astype(np.float32)}
        return self.run(feeds)[0]
