"""Compares tokenizers by control: the plain `ar` policy over each, on Meta-World MT10 from states.

Every cell is a tokenizer and a seed, such as `nac:0`; `regression:0` is L1 regression without
tokens. All cells share demonstrations, steps, learning rate and network size, and those of a seed
also the starts of the trials. A finished cell is skipped, an interrupted one continues at its last
checkpoint. A report keeps the cells that it has from elsewhere.

Meta-World 3.1.1 (https://github.com/Farama-Foundation/Metaworld) pins an old MuJoCo and runs with
the one of `sim`, so it is installed without its dependencies:

    pip install 'nac_ros[sim,metaworld]' && pip install --no-deps metaworld==3.1.1

Example:

    python -m tools.metaworld_study --cells regression:0 nac:0 vqvla:0 --out runs/metaworld
    python -m tools.metaworld_study --out runs/metaworld --report docs/results/metaworld_mt10.json
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from nac_ros.cli.options import write_results
from nac_ros.core import config as configs
from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import ConfigError, DatasetError, NacError, SimulationError
from nac_ros.core.files import replace_atomically, write_json
from nac_ros.core.provenance import digest_of, environment
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.datasets.episode_split import TEST_EVERY
from nac_ros.policies.base import Policy, Targets, make_policy
from nac_ros.policies.observation_encoder import Inputs
from nac_ros.stats.intervals import wilson
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.grammar import PAD
from nac_ros.training import loop
from nac_ros.training.experiment import BenchmarkData, Candidate
from nac_ros.training.experiment import train as train_candidate
from tools.study_cells import RESULT, add_study_options, is_finished

MT10 = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "window-close-v3",
)
OBSERVATION_DIM, HAND_DIM, ACTION_DIM = 39, 4, 4  # the gripper's position and opening come first
TRAINING_STARTS_SEED, TRIAL_STARTS_SEED = 1, 1000  # of the starts that Meta-World draws
REGRESSION, METRICS = "regression", "tokenizer.json"
N_STARTS = 50  # of each task and seed
ENCODING_BATCH, HELD_OUT_STRIDE, LENGTH_GROUPS = 512, 8, 8


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Settings of all cells; figures compare only between equal ones.

    demonstrations: of each task, by Meta-World's scripted expert
    action_noise: standard deviation of the noise on the executed actions of every second
        demonstration; the recorded actions are the expert's own
    success_steps: an expert's demonstration ends after so many steps in the goal state
    max_steps: of a demonstration and of a trial
    n_action_steps: executed steps of each chunk
    tokenizer_steps, tokenizer_batch: of training; the rest is each tokenizer's own default
    state_noise: on the observations in training, in standard deviations
    trials: of each task
    """

    tasks: tuple[str, ...] = MT10
    demonstrations: int = number_field(40, 1)
    action_noise: float = number_field(0.15, 0)
    success_steps: int = number_field(12, 1)
    max_steps: int = number_field(200, 1)
    horizon: int = number_field(32, 1)
    n_action_steps: int = number_field(16, 1)
    tokenizer_steps: int = number_field(1500, 1)
    tokenizer_batch: int = number_field(128, 1)
    dim: int = number_field(160, 1)
    n_layers: int = number_field(4, 1)
    steps: int = number_field(5000, 1)
    batch: int = number_field(128, 1)
    learning_rate: float = number_field(6e-4, 0)
    warmup: int = number_field(200, 1)
    weight_decay: float = number_field(0.01, 0)
    ema_decay: float = number_field(0.999, 0, 1)
    gradient_clip: float = number_field(1.0, 0)
    state_noise: float = number_field(0.01, 0)
    trials: int = number_field(10, 1, N_STARTS)
    log_every: int = number_field(250, 1)
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.n_action_steps > self.horizon:
            raise ConfigError(
                f"n_action_steps {self.n_action_steps} must not exceed horizon {self.horizon}"
            )


class Demonstrations(NamedTuple):
    """Frames of all demonstrations, one episode after the other.

    observations: float32 `[N, 39]`; actions: the expert's, float32 `[N, 4]` within [-1, 1]
    episodes: number of each frame's episode, int64 `[N]`; tasks: index of its task, int64 `[N]`
    """

    observations: np.ndarray
    actions: np.ndarray
    episodes: np.ndarray
    tasks: np.ndarray


@dataclass(frozen=True)
class StudyData:
    """A chunk for each frame; after an episode's end its last action is repeated.

    held_out: bool `[N]`, frames of every fifth episode
    """

    demonstrations: Demonstrations
    chunks: np.ndarray = field(repr=False)  # float32 [N, H, 4]
    held_out: np.ndarray = field(repr=False)

    @classmethod
    def of(cls, demonstrations: Demonstrations, horizon: int) -> "StudyData":
        episodes = demonstrations.episodes
        last = np.searchsorted(episodes, episodes, side="right") - 1  # frame of the episode's end
        steps = np.arange(len(episodes))[:, None] + np.arange(horizon)
        chunks = demonstrations.actions[np.minimum(steps, last[:, None])]
        held_out = episodes % TEST_EVERY == TEST_EVERY - 1
        if not held_out.any():
            raise DatasetError(
                f"{episodes[-1] + 1} demonstrations; at least {TEST_EVERY} are needed, every "
                "fifth is held out"
            )
        return cls(demonstrations, chunks, held_out)

    def side(self, held_out: bool) -> ActionChunks:
        """The training or the held-out chunks."""
        return ActionChunks(self.chunks[self.held_out == held_out], None)


class Cell(NamedTuple):
    """method: name of a tokenizer, or `regression`"""

    method: str
    seed: int

    @property
    def title(self) -> str:
        return f"{self.method}:{self.seed}"


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    torch.set_num_threads(args.threads)
    try:
        config = configs.build(StudyConfig, dict(args.set), "StudyConfig")
        data_file = args.data or args.out / "demonstrations.npz"
        if args.cells:
            run = train_tokenizers if args.tokenizers_only else run_cells
            run(args.cells, config, args.out, data_file)
        if args.report:
            results = collect(args.out, args.report)
            write_results(args.report, results)
            print(table(results))
    except NacError as error:
        print(f"metaworld_study: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cells", type=_cell, nargs="+", default=[], metavar="METHOD:SEED", help="cells to run")
    add("--data", type=Path, help="file of the demonstrations (OUT/demonstrations.npz)")
    add("--tokenizers-only", action="store_true", help="train and evaluate only the tokenizers")
    add_study_options(parser, Path("runs/metaworld"))
    return parser


def _cell(text: str) -> Cell:
    method, _, seed = text.partition(":")
    if not method or not seed.isdigit():
        raise argparse.ArgumentTypeError(f"must be METHOD:SEED such as nac:0, got '{text}'")
    return Cell(method, int(seed))


def run_cells(cells: Sequence[Cell], config: StudyConfig, out: Path, data_file: Path) -> None:
    """Runs the cells that have no result yet, one after the other."""
    data = StudyData.of(load_demonstrations(data_file, config), config.horizon)
    for cell in cells:
        folder = out / f"{cell.method}_{cell.seed}"
        if is_finished(folder, replace(config, seed=cell.seed)):
            print(f"{cell.title}: found in {folder}", flush=True)
            continue
        print(f"{cell.title}: starts", flush=True)
        result = run_cell(cell, replace(config, seed=cell.seed), data, folder)
        write_json(folder / RESULT, result)
        print(f"{cell.title}: solved {result['solved']} of {result['trials']}", flush=True)


def train_tokenizers(
    cells: Sequence[Cell], config: StudyConfig, out: Path, data_file: Path
) -> None:
    """Trains the tokenizers of the cells and writes their metrics; `run_cells` finds them."""
    data = StudyData.of(load_demonstrations(data_file, config), config.horizon)
    for cell in cells:
        seeded = replace(config, seed=cell.seed)
        _, facts = train_tokenizer(cell.method, seeded, data, out / "tokenizers")
        content = {**cell._asdict(), **facts, "config": configs.to_plain(seeded)}
        write_json(out / f"{cell.method}_{cell.seed}" / METRICS, content | study_environment())


def run_cell(cell: Cell, config: StudyConfig, data: StudyData, folder: Path) -> dict[str, Any]:
    """Trains tokenizer and policy, evaluates both and runs the trials."""
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    tokenizer, facts = None, {}
    if cell.method != REGRESSION:
        tokenizer, facts = train_tokenizer(cell.method, config, data, folder.parent / "tokenizers")
    fitted = time.perf_counter()
    loop.seed_everything(config.seed)
    policy = make_study_policy(tokenizer, config)
    targets = prepare_targets(policy, data)
    train_policy(policy, targets, data, config, folder)
    policy.eval().save_pretrained(folder / "policy")
    trained = time.perf_counter()
    held_out = evaluate_held_out(policy, targets, data)
    solved = {task: run_trials(policy, task, config) for task in config.tasks}
    loop.drop_checkpoints(folder)
    return {
        "method": cell.method,
        "policy": policy.name,
        "seed": cell.seed,
        "solved": sum(map(sum, solved.values())),
        "trials": sum(map(len, solved.values())),
        "per_task": {task: sum(outcomes) for task, outcomes in solved.items()},
        "outcomes": solved,
        "tokenizer": facts,
        **held_out,
        "policy_params_m": policy.params_m,
        "seconds": {
            "tokenizer": round(fitted - started),
            "training": round(trained - fitted),
            "evaluation": round(time.perf_counter() - trained),
        },
        "config": configs.to_plain(config),
        **study_environment(),
    }


def study_environment() -> dict[str, Any]:
    """Command, commit and versions, Meta-World's and Gymnasium's among them."""
    facts = environment()
    facts["versions"] |= {name: metadata.version(name) for name in ("metaworld", "gymnasium")}
    return facts


def load_demonstrations(path: Path, config: StudyConfig) -> Demonstrations:
    """Those in the file, or new ones, which are then saved in it.

    Raises DatasetError if the file's were made with other settings.
    """
    names = ("tasks", "demonstrations", "action_noise", "success_steps", "max_steps")
    plain = configs.to_plain(config)
    settings = json.dumps({name: plain[name] for name in names})
    if path.is_file():
        with np.load(path) as file:
            if str(file["settings"]) != settings:
                raise DatasetError(
                    f"{path} was made with {file['settings']}, wanted {settings}; choose another "
                    "--data"
                )
            return Demonstrations(*(file[name] for name in Demonstrations._fields))
    made = generate_demonstrations(config)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, settings=settings, **made._asdict())

    replace_atomically(path, write)
    return made


def generate_demonstrations(config: StudyConfig) -> Demonstrations:
    """Demonstrations of all tasks by the scripted experts; failed attempts are left out."""
    episodes = [
        (*episode, index)
        for index, task in enumerate(config.tasks)
        for episode in _demonstrate(task, config, np.random.default_rng(index))
    ]
    lengths = [len(actions) for _, actions, _ in episodes]
    return Demonstrations(
        np.concatenate([observations for observations, _, _ in episodes]),
        np.concatenate([actions for _, actions, _ in episodes]),
        np.repeat(np.arange(len(episodes)), lengths),
        np.repeat([index for _, _, index in episodes], lengths),
    )


def _demonstrate(
    task: str, config: StudyConfig, random: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Observations `[T, 39]` and actions `[T, 4]` of successful attempts at a task."""
    worlds = make_worlds(task, TRAINING_STARTS_SEED) + make_worlds(task, TRAINING_STARTS_SEED + 1)
    found, attempts = [], 0
    for world in worlds:
        if len(found) == config.demonstrations:
            break
        attempts += 1
        noise = config.action_noise * (len(found) % 2)
        episode = _attempt(world, config, noise, random)
        if episode is not None:
            found.append(episode)
    if len(found) < config.demonstrations:
        raise SimulationError(
            f"{task}: the expert solved {len(found)} of {attempts} starts, "
            f"{config.demonstrations} demonstrations are wanted"
        )
    print(f"{task}: {len(found)} demonstrations of {attempts} attempts", flush=True)
    return found


def _attempt(
    world: "World", config: StudyConfig, noise: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """Observations and actions of one attempt of the expert; None if it fails."""
    from metaworld.policies import ENV_POLICY_MAP

    expert, observation = ENV_POLICY_MAP[world.task](), world.reset()
    observations, actions, steps_in_goal = [], [], 0
    for _ in range(config.max_steps):
        action = np.clip(expert.get_action(observation), -1, 1)
        observations.append(observation)
        actions.append(action)
        observation, solved = world.step(action + noise * random.standard_normal(ACTION_DIM))
        steps_in_goal += solved
        if steps_in_goal == config.success_steps:
            return np.array(observations, np.float32), np.array(actions, np.float32)
    return None


class World:
    """A Meta-World environment at one start of a task."""

    def __init__(self, task: str, environment: Any, start: Any):
        self.task, self._environment, self._start = task, environment, start

    def reset(self) -> np.ndarray:
        """Observation `[39]` at the start."""
        self._environment.set_task(self._start)
        observation, _ = self._environment.reset()
        return observation

    def step(self, action: np.ndarray) -> tuple[np.ndarray, bool]:
        """Executes an action `[4]`, clipped to [-1, 1]; the observation and whether it solves."""
        executed = np.clip(action, -1, 1).astype(np.float64)
        observation, _, _, _, facts = self._environment.step(executed)
        return observation, bool(facts["success"] > 0)


def make_worlds(task: str, seed: int, n: int = N_STARTS, separate: bool = False) -> list[World]:
    """The first `n` of the 50 starts that Meta-World draws for a task and seed.

    separate: each has an environment of its own; otherwise only the one that was reset last can
        be stepped
    """
    try:
        from metaworld import MT1
    except ImportError as error:
        raise SimulationError(
            f"this study needs {error.name}: pip install 'nac_ros[sim,metaworld]', then pip "
            "install --no-deps metaworld==3.1.1"
        ) from error
    benchmark = MT1(task, seed=seed)
    make, starts = benchmark.train_classes[task], benchmark.train_tasks[:n]
    environments = [make() for _ in starts] if separate else [make()] * len(starts)
    return [World(task, *pair) for pair in zip(environments, starts)]


def train_tokenizer(
    name: str, config: StudyConfig, data: StudyData, cache: Path
) -> tuple[Tokenizer, dict[str, Any]]:
    """A tokenizer of preset `small` and its metrics on the held-out chunks."""
    columns = {"names": ["x", "y", "z", "gripper"]}
    chunks = BenchmarkData("MT10", data.side(held_out=False), data.side(held_out=True), columns)
    common = {"steps": config.tokenizer_steps, "batch": config.tokenizer_batch}
    trained = train_candidate(Candidate(name=name), chunks, common, config.seed, cache)
    tokenizer = trained.tokenizer
    size = {"preset": tokenizer.preset, "vocabulary": tokenizer.vocab_size}
    return tokenizer, {**trained.metrics, **size}


def make_study_policy(tokenizer: Tokenizer | None, config: StudyConfig) -> Policy:
    """`ar` over the tokenizer, or without one `regression`; both without cameras."""
    inputs = {
        "cameras": [],
        "state_dim": HAND_DIM,
        "environment_state_dim": OBSERVATION_DIM,
        "tasks": {task: task.rpartition("-")[0].replace("-", " ") for task in config.tasks},
        "n_obs_steps": 1,
        "n_action_steps": config.n_action_steps,
        "dim": config.dim,
    }
    if tokenizer is not None:
        return make_policy("ar", "small", tokenizer, **inputs, n_layers=config.n_layers)
    spec = ChunkSpec(horizon=config.horizon, action_dim=ACTION_DIM)
    layers = {"n_encoder_layers": config.n_layers}
    return make_policy("regression", "small", spec, **inputs, **layers)


def prepare_targets(policy: Policy, data: StudyData) -> Targets:
    """Fits the policy's statistics and gives the targets of all frames."""
    training, observations = ~data.held_out, data.demonstrations.observations
    policy.fit_state(observations[training, :HAND_DIM], observations[training])
    policy.fit_actions(data.chunks[training], observations[training, :HAND_DIM])
    batches = [
        policy.prepare_targets(*(torch.from_numpy(x[k : k + ENCODING_BATCH]) for x in columns))
        for columns in [(data.chunks, observations[:, :HAND_DIM])]
        for k in range(0, len(data.chunks), ENCODING_BATCH)
    ]
    targets = {key: _concatenate([batch[key] for batch in batches]) for key in batches[0]}
    policy.fit_targets(
        {key: values[torch.from_numpy(training)] for key, values in targets.items()}
    )
    return targets


def _concatenate(parts: Sequence[Tensor]) -> Tensor:
    """Rows of all parts; tokens `[n, L]` of different lengths are padded."""
    if parts[0].ndim == 2:
        longest = max(part.shape[1] for part in parts)
        parts = [pad(part, (0, longest - part.shape[1]), value=PAD) for part in parts]
    return torch.cat(list(parts))


def train_policy(
    policy: Policy, targets: Targets, data: StudyData, config: StudyConfig, folder: Path
) -> None:
    """Trains on all but the held-out frames; the policy then has the averaged weights."""
    learned = [p for p in policy.parameters() if p.requires_grad]
    groups = [{"params": learned, "peak": config.learning_rate}]
    optimizer = torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay)
    averaged = loop.AveragedWeights(policy, config.ema_decay)
    rows = torch.from_numpy(np.flatnonzero(~data.held_out))
    first = 0

    def restore(state: dict[str, Any]) -> None:
        nonlocal first
        policy.load_state_dict(state["policy"])
        optimizer.load_state_dict(state["optimizer"])
        averaged.state, first = state["averaged"], int(state["step"])

    digest = digest_of([*data.demonstrations, *(values.numpy() for values in targets.values())])
    identity = loop.identity_of(config, policy=policy.name, data=digest)
    loop.start_run(folder, config, identity, loop.has_checkpoint(folder), restore)
    log = loop.TrainingLog(folder / "log.jsonl")
    policy.train()
    for step in range(first, config.steps):
        loop.set_learning_rates(loop.cosine_rate(step, config.steps, config.warmup), optimizer)
        batch = rows[torch.randint(len(rows), (config.batch,))]
        loss = batch_loss(policy, targets, data, batch, config.state_noise)
        loop.gradient_step(optimizer, loss, config.gradient_clip)
        averaged.update(policy, step)
        if (step + 1) % config.log_every == 0:
            log.write(step + 1, {"loss": float(loss.detach())})
            state = {"policy": policy.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"averaged": averaged.state, "step": step + 1}
            loop.save_checkpoint(folder, state, identity)
    policy.load_state_dict(averaged.state)


def batch_loss(
    policy: Policy, targets: Targets, data: StudyData, batch: Tensor, noise: float
) -> Tensor:
    """Sum of the policy's losses over the frames `batch`, each a mean over tokens or chunks."""
    loss = policy.state_mean.new_zeros(())
    for rows, share in _length_groups(targets, batch):
        losses = policy.loss(inputs_of(policy, data, rows, noise), _select(targets, rows))
        loss = loss + share * torch.stack(list(losses.values())).sum()
    return loss


def _length_groups(targets: Targets, batch: Tensor) -> list[tuple[Tensor, float]]:
    """Frames of similar numbers of tokens, and each group's share of all tokens.

    The longest of 128 sequences of FAST has almost three times the mean number of tokens.
    Groups avoid most of that padding. With a fixed number of tokens there is one group.
    """
    lengths = (targets["tokens"][batch] != PAD).sum(1) if "tokens" in targets else torch.ones(1)
    if lengths.min() == lengths.max():
        return [(batch, 1.0)]
    parts, total = lengths.argsort().chunk(LENGTH_GROUPS), int(lengths.sum())
    return [(batch[part], int(lengths[part].sum()) / total) for part in parts]


def inputs_of(policy: Policy, data: StudyData, rows: Tensor, noise: float = 0.0) -> Inputs:
    """Observations of some frames; noise in standard deviations of the training frames."""
    observations = torch.from_numpy(data.demonstrations.observations)[rows]
    observations = observations + noise * policy.environment_std * torch.randn_like(observations)
    return _inputs(observations, torch.from_numpy(data.demonstrations.tasks)[rows])


def _inputs(observations: Tensor, tasks: Tensor) -> Inputs:
    """Observations `[B, 39]`: the gripper's part as joint state, and all as environment state."""
    sequence = observations[:, None]  # [B, 1, 39]
    return Inputs({}, sequence[..., :HAND_DIM], tasks, environment_state=sequence)


def _select(targets: Targets, rows: Tensor) -> Targets:
    """Targets of some rows; tokens without the columns that are padding in all of them."""
    chosen = {key: values[rows] for key, values in targets.items()}
    if "tokens" in chosen:
        used = int((chosen["tokens"] != PAD).sum(1).max())
        chosen["tokens"] = chosen["tokens"][:, :used]
    return chosen


@torch.no_grad()
def evaluate_held_out(policy: Policy, targets: Targets, data: StudyData) -> dict[str, Any]:
    """Cross entropy per token [nats], L1 of the predicted chunks and accuracy of their tokens.

    Of evenly spaced held-out frames. The chunks are predicted without knowledge of the right
    tokens; L1 is over actions within [-1, 1].
    """
    policy.eval()
    rows = torch.from_numpy(np.flatnonzero(data.held_out)[::HELD_OUT_STRIDE])
    sums: dict[str, float] = {}
    for part in rows.split(ENCODING_BATCH):
        inputs, chosen = inputs_of(policy, data, part), _select(targets, part)
        figures = policy.evaluate(inputs, chosen, torch.Generator().manual_seed(0))
        if "tokens" in chosen:
            figures["cross_entropy"] = float(policy.loss(inputs, chosen)["tokens"])
        for key, value in figures.items():
            sums[key] = sums.get(key, 0.0) + value * len(part) / len(rows)
    return {**sums, "held_out_chunks": len(rows)}


@torch.no_grad()
def run_trials(policy: Policy, task: str, config: StudyConfig) -> list[bool]:
    """Whether each trial solves the task; starts are the same for all methods of a seed."""
    seed = TRIAL_STARTS_SEED + config.seed
    worlds = make_worlds(task, seed, config.trials, separate=True)
    observations = [world.reset() for world in worlds]
    solved, index = [False] * len(worlds), policy.task_index(task)
    for first in range(0, config.max_steps, config.n_action_steps):
        running = [k for k in range(len(worlds)) if not solved[k]]
        if not running:
            break
        chunks = _predict(policy, [observations[k] for k in running], index)
        n_steps = min(config.n_action_steps, config.max_steps - first)
        for k, chunk in zip(running, chunks):
            for action in chunk[:n_steps]:
                observations[k], solved[k] = worlds[k].step(action)
                if solved[k]:
                    break
    return solved


def _predict(policy: Policy, observations: Sequence[np.ndarray], task: int) -> np.ndarray:
    """Chunks of actions `[B, H, 4]`."""
    states = torch.from_numpy(np.array(observations, np.float32))
    inputs = _inputs(states, torch.full((len(states),), task))
    chunks = policy.predict(inputs, generator=torch.Generator().manual_seed(0)).chunk
    return policy.normalizer.denormalize(chunks, states[:, :HAND_DIM]).numpy()


def collect(out: Path, report: Path) -> dict[str, Any]:
    """Results of the cells of `out`, and those of an earlier report that `out` does not have.

    Finished cells, and metrics of tokenizers that were trained alone. Raises DatasetError if
    there is none of either.
    """
    earlier = json.loads(report.read_text()) if report.is_file() else {}
    cells = _join(earlier.get("cells", []), sorted(out.glob(f"*/{RESULT}")))
    tokenizers = _join(earlier.get("tokenizers", []), sorted(out.glob(f"*/{METRICS}")))
    if not cells + tokenizers:
        raise DatasetError(f"{out} has no finished cell; run some with --cells")
    return {"study": "Meta-World MT10 from states", "cells": cells, "tokenizers": tokenizers}


def _join(earlier: Sequence[dict[str, Any]], paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Facts by cell; those of the files replace earlier ones."""
    facts = [*earlier, *(json.loads(path.read_text()) for path in paths)]
    return list({(fact["method"], fact["seed"]): fact for fact in facts}.values())


def table(results: dict[str, Any]) -> str:
    """Markdown table of `collect`: the finished cells, best first, then the other tokenizers."""
    lines = [
        "| method | seed | tokens | codec MSE | overlap | cross entropy | L1 | solved | 95 % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    cells = sorted(results["cells"], key=lambda cell: -cell["solved"] / cell["trials"])
    for cell in cells:
        interval = wilson(cell["solved"], cell["trials"])
        columns = [
            *_codec_columns(cell, cell["tokenizer"]),
            _number(cell.get("cross_entropy"), ".2f"),
            f"{cell['l1']:.3f}",
            f"{cell['solved']} of {cell['trials']}",
            f"{interval.low:.0%} to {interval.high:.0%}",
        ]
        lines.append(f"| {' | '.join(columns)} |")
    finished = {(cell["method"], cell["seed"]) for cell in cells}
    for facts in results["tokenizers"]:
        if (facts["method"], facts["seed"]) not in finished:
            lines.append(f"| {' | '.join(_codec_columns(facts, facts))} | - | - | not run | - |")
    return "\n".join(lines)


def _codec_columns(cell: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    """Method, seed, and the tokenizer's number of tokens, held-out MSE and token overlap."""
    return [
        cell["method"],
        str(cell["seed"]),
        *(_number(facts.get(key), form) for key, form in _CODEC_COLUMNS),
    ]


_CODEC_COLUMNS = (("tokens", ".1f"), ("mse", ".1e"), ("overlap", ".2f"))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


if __name__ == "__main__":
    sys.exit(main())
