"""The ONNX runtime: the same tokens and chunks as torch under a seed, without importing torch.

Exports take seconds each, so most policies are exported as stubs whose graphs torch evaluates:
that tests everything but the exporter, which the cases of EXPORTS test.
"""

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import onnx as onnx_model
import onnxruntime
import pytest
import torch
from tiny_policies import make_tiny

from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.errors import BundleError, ConfigError, UnknownName
from nac_ros.core.sampling import Sampling
from nac_ros.core.types import Observation
from nac_ros.export import onnx
from nac_ros.export.bundle import load_bundle, write_bundle
from nac_ros.export.manifest import read_manifest, write_manifest
from nac_ros.inference.load_runtime import load_runtime
from nac_ros.inference.onnx_runtime import OnnxRuntime
from nac_ros.inference.policy_runtime import ChunkContext, RuntimeConfig
from nac_ros.inference.torch_runtime import TorchRuntime
from nac_ros.robot.spec import load_robot
from nac_ros.tokenizers import make_tokenizer

SPEC = load_robot("vx300s")
HORIZON = 8
COLUMNS = {
    "names": SPEC.joint_names,
    "units": SPEC.units,
    "rate_hz": SPEC.action_rate_hz,
    "relative": tuple(SPEC.relative_mask.tolist()),
}
TOKENIZERS = {
    "nac": {
        "codebook_size": 64,
        "latent_dim": 16,
        "decoder_dim": 32,
        "decoder_hidden": 64,
        "decoder_blocks": 1,
    },
    "rotated_rvq": {"encoder_hidden": 32, "decoder_hidden": 32, "codebook_size": 64},
    "vqvla": {"codebook_size": 64, "n_quantizers": 6},
    "oat": {"width": 32, "n_heads": 2, "encoder_layers": 1, "decoder_layers": 1},
    "bin": {"n_bins": 64},
    "fast": {},
}
INPUTS = {"cameras": ("scene",), "environment_state_dim": 2, "n_past_commands": 2, "state_dim": 7}
CASES = {
    "ar-bin": {"conditioning": "cross_attention"},
    "ar-fast": {},
    "ar-vqvla": {},
    "ar_guided-nac": {},
    "ar_guided-rotated_rvq": {"cameras": ("scene", "wrist"), "n_past_commands": 0},
    "ar_guided-vqvla": {},
    "ar_guided-oat": {"environment_state_dim": 0},
    "ar_guided-bin": {"n_past_commands": 0},
    "regression": {"vision": "resnet18"},
    "diffusion": {"n_inference_steps": 2},
    "flow": {"n_inference_steps": 2},
    "ar_guided-rotated_rvq-regression": {"acts_by": "regression", "cameras": ()},
}
EXPORTS = ("ar-bin", "ar_guided-nac", "ar_guided-rotated_rvq", "diffusion")
_FOLDERS = TemporaryDirectory(prefix="onnx_bundles")
_GRAPHS = list[tuple[torch.nn.Module, bool, list[str]]]()  # by the number in a stub


def write_stub(module, example, dynamic_shapes, names, path):
    """In place of an export: a file that names the module."""
    path.write_text(str(len(_GRAPHS)))
    _GRAPHS.append((module.eval(), "tensors" in example, names[1]))


class TorchSession:
    """In place of an InferenceSession: torch evaluates the module of a stub."""

    def __init__(self, path, options, providers):
        self._module, self._takes_mapping, self._outputs = _GRAPHS[int(Path(path).read_text())]

    def get_providers(self):
        return ["CPUExecutionProvider"]

    def get_outputs(self):
        return [SimpleNamespace(name=name) for name in self._outputs]

    @torch.no_grad()
    def run(self, outputs, feeds):
        tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
        found = self._module(tensors) if self._takes_mapping else self._module(**tensors)
        return [x.numpy() for x in (found if isinstance(found, tuple) else (found,))]


def walks():
    """Random walks `[200, 4 H, D]` around the home position."""
    steps = np.random.default_rng(0).standard_normal((200, 4 * HORIZON, 7))
    start = np.array(SPEC.home)
    start[~SPEC.relative_mask] /= 2
    return (start + 0.002 * steps.cumsum(1)).astype(np.float32)


def write_random_bundle(case, folder):
    """Writes a bundle with random weights and its ONNX export."""
    torch.set_num_threads(1)
    name, *rest = case.split("-")
    actions, sampling = walks(), Sampling(top_k=5, temperature=2.0)
    chunks, states = actions[:, :HORIZON], actions[:, 0]
    source = ChunkSpec(horizon=HORIZON, **COLUMNS)
    changes = {**INPUTS, **CASES[case], "n_action_steps": 4}
    if rest:
        torch.manual_seed(0)
        source = make_tokenizer(rest[0], horizon=HORIZON, **TOKENIZERS[rest[0]], **COLUMNS)
        source.fit(chunks, states)
        greedy = {"top_k": 1, "temperature": 1.0}
        changes |= {"sampling": greedy, "candidate_sampling": vars(sampling)}
    policy = make_tiny(name, source, **changes)
    policy.fit_actions(chunks, states)
    environment = np.zeros((200, policy.config.environment_state_dim), np.float32)
    policy.fit_state(states, environment)
    offsets = policy.target_offsets.clip(max=4 * HORIZON - 1)
    policy.fit_targets(
        policy.prepare_targets(torch.from_numpy(actions[:, offsets]), torch.from_numpy(states))
    )
    robot = replace(SPEC, cameras=tuple(replace(c, width=24, height=24) for c in SPEC.cameras))
    return write_bundle(folder, policy.eval(), robot, {}, "a card", True)


@cache
def exported(case):
    """Folder of such a bundle, made once."""
    return write_random_bundle(case, Path(_FOLDERS.name) / case)


@pytest.fixture(scope="module", params=[*CASES, *(f"{case} in ONNX" for case in EXPORTS)])
def runtimes(request, tmp_path_factory):
    """The policy of a bundle in both runtimes."""
    case, _, in_onnx = request.param.partition(" in ")
    if in_onnx:
        folder = exported(case)
        yield TorchRuntime(load_bundle(folder)), OnnxRuntime(folder)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "_write", write_stub)
        patch.setattr(onnxruntime, "InferenceSession", TorchSession)
        folder = write_random_bundle(case, tmp_path_factory.mktemp("stubs") / case)
        yield TorchRuntime(load_bundle(folder)), OnnxRuntime(folder)


def observation(spec, seed=0):
    generator = np.random.default_rng(seed)
    shape = (spec.n_obs_steps, spec.image_size, spec.image_size, 3)
    images = {name: generator.integers(0, 256, shape, dtype=np.uint8) for name in spec.cameras}
    proprio = SPEC.home + 0.01 * generator.standard_normal((spec.n_obs_steps, 7))
    environment = commands = None
    if spec.environment_state_dim:
        shape = (spec.n_obs_steps, spec.environment_state_dim)
        environment = generator.standard_normal(shape).astype(np.float32)
    if spec.n_past_commands:
        commands = np.repeat(proprio[-1:], spec.n_past_commands, 0).astype(np.float32)
    task = list(spec.tasks)[seed % len(spec.tasks)]
    return Observation(1.0, images, proprio.astype(np.float32), task, environment, commands)


@pytest.mark.parametrize("seed", [1, 2])
def test_both_runtimes_give_the_same_tokens_and_chunks_under_a_seed(runtimes, seed):
    given = observation(runtimes[0].observation_spec, seed)
    ours, theirs = (runtime.predict(given, np.random.default_rng(seed), 6) for runtime in runtimes)
    assert theirs.actions.shape == (6, HORIZON, 7) and theirs.actions.dtype == np.float32
    assert (ours.tokens is None) == (theirs.tokens is None)
    if ours.tokens is not None:
        np.testing.assert_array_equal(theirs.tokens, ours.tokens)
        sampled = ours.tokens >= 0
        for name in ("entropy", "margin"):
            a, b = getattr(theirs, name)[sampled], getattr(ours, name)[sampled]
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
        assert len(np.unique(theirs.tokens[1:], axis=0)) > 1, "the candidates are sampled"
    np.testing.assert_allclose(theirs.actions, ours.actions, atol=2e-4)


def test_committed_steps_are_kept_where_the_export_can(runtimes):
    _, theirs = runtimes
    given = observation(theirs.observation_spec)
    steps = np.arange(HORIZON)
    actions = np.repeat(given.reference[None], HORIZON, 0) + 0.01 * steps[:, None]
    context = ChunkContext(actions.astype(np.float32), steps < 3, steps < 6)
    generators = np.random.default_rng(0), np.random.default_rng(0)
    if not theirs.supports_context:
        with pytest.raises(ConfigError, match="cannot keep committed steps"):
            theirs.predict(given, generators[0], 1, context)
        return
    found = [r.predict(given, g, 2, context).actions for r, g in zip(runtimes, generators)]
    np.testing.assert_allclose(found[1], found[0], atol=2e-4)
    np.testing.assert_allclose(found[1][:, :3], np.broadcast_to(actions[:3], (2, 3, 7)), atol=1e-5)


def test_an_unknown_task_is_rejected(runtimes):
    given = observation(runtimes[1].observation_spec)
    with pytest.raises(UnknownName, match="unknown task 'juggle'; this policy learned"):
        runtimes[1].predict(replace(given, task="juggle"), np.random.default_rng(0))


PREDICT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "scipy", "transformers"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
import numpy as np
from nac_ros.core.types import Observation
from nac_ros.inference.engine import Engine
from nac_ros.inference.load_runtime import load_runtime
engine = Engine(load_runtime(sys.argv[1]), seed=3)
engine.warm_up()
spec = engine.policy.observation_spec
images = {name: np.zeros((2, 24, 24, 3), np.uint8) for name in spec.cameras}
proprio = np.repeat(engine.robot.home[None].astype(np.float32), 2, 0)
environment = np.zeros((2, spec.environment_state_dim), np.float32)
chunk = engine.predict_chunk(Observation(1.0, images, proprio, "marker", environment))
assert chunk.actions.shape == (8, 7) and len(chunk.tokens) == 12
assert engine.confidence.entropy > 0 and "torch" not in sys.modules
"""


def test_a_chunk_is_predicted_where_torch_cannot_be_imported():
    case = "ar_guided-rotated_rvq"
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, str(exported(case))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_auto_takes_onnx_where_the_bundle_has_it_and_it_can_do_what_is_needed(tiny_bundle):
    folder = exported("ar_guided-nac")
    assert load_runtime(folder).name == "onnx"
    assert load_runtime(folder, needs_context=True).name == "torch"
    assert load_runtime(folder, RuntimeConfig(runtime="torch")).name == "torch"
    assert load_runtime(tiny_bundle).name == "torch"
    with pytest.raises(BundleError, match=r"does not list onnx/policy\.json"):
        load_runtime(tiny_bundle, RuntimeConfig(runtime="onnx"))


def test_other_weights_in_a_graph_fail_the_golden_vectors(tmp_path):
    folder = copytree(exported("ar-bin"), tmp_path / "copy")
    graph = onnx_model.load(folder / "onnx/step.onnx")
    for weights in graph.graph.initializer:
        if len(weights.raw_data) > 1000:
            weights.raw_data = bytes(len(weights.raw_data))
    onnx_model.save(graph, folder / "onnx/step.onnx")
    manifest = read_manifest(exported("ar-bin"))
    facts = {"robot": SPEC.name, "tasks": manifest.tasks, "rate_hz": manifest.rate_hz}
    write_manifest(folder, **facts, horizon=HORIZON)
    with pytest.raises(BundleError, match="the log-likelihood of the golden inputs differs"):
        OnnxRuntime(folder)


def test_a_policy_without_export_says_so(tmp_path):
    torch.manual_seed(0)
    tokenizer = make_tokenizer("rotated_rvq", horizon=HORIZON, **TOKENIZERS["rotated_rvq"])
    policy = make_tiny(
        "ar_guided", tokenizer.fit(walks()[:, :HORIZON]), acts_by="regression_tokens"
    )
    with pytest.raises(ConfigError, match="regression_tokens has no ONNX export"):
        policy.graphs()
