"""ONNX Runtime sessions that run exported graphs, with numpy alone."""

import time
from pathlib import Path

import numpy as np

from nac_ros.core.errors import BundleError, show_text

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")  # in order of preference


class OnnxSession:
    """ONNX Runtime session of one graph, on the best available provider.

    duration_s: of the latest run [s]
    """

    def __init__(self, path: Path, threads: int = 1):
        import onnxruntime  # slow to import, and needed only where a bundle decodes

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        available = onnxruntime.get_available_providers()
        providers = [name for name in PROVIDERS if name in available]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime raises bare pybind types
            raise BundleError(
                f"{path} does not load in ONNX Runtime: {show_text(error)}; copy it again"
            ) from error
        self.path, self.duration_s = path, 0.0
        self.provider = self._session.get_providers()[0]

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
