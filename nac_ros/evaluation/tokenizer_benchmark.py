"""Comparison of all tokenizers: Table 3 of the paper, and error against bits per chunk."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log2
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nac_ros.core import files
from nac_ros.core.config import check_fields, number_field
from nac_ros.core.device import CPU, ComputeDevice
from nac_ros.core.errors import DatasetError
from nac_ros.core.provenance import environment
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.evaluation import tokenizer_timing
from nac_ros.evaluation.published_results import TABLE_3
from nac_ros.evaluation.token_effects import measure_token_effects, plot_token_effects
from nac_ros.evaluation.token_learnability import LearnabilityConfig, measure_learnability
from nac_ros.reporting.plots import METHOD_COLOURS, OTHER_METHOD, STYLE, to_png
from nac_ros.tokenizers import list_tokenizers
from nac_ros.tokenizers.base import TOKENIZERS
from nac_ros.training.experiment import BenchmarkData, Candidate, TrainedCandidate, train
from nac_ros.training.tokenizer_metrics import evaluate
from nac_ros.training.tokenizer_trainer import TokenizerTrainingConfig

# A point of the plot: name, label, settings, bits, mse and kind (full, prefix or setting).
Points = Sequence[dict[str, Any]]
OURS = "nac"
SEARCH_FACTORS = (0.3, 1.0, 3.0)
BIT_BUDGET = 120  # of the paper's learned tokenizers
MARKERS = {"full": "o", "prefix": ".", "setting": "s"}
FAST_SCALES = (1.0, 1.5, 2.0, 3.0, 5.0, 20.0)  # besides the default
# Number of knots -> numbers of bins.
BIN_SETTINGS = {1: (1024, 128), 2: (256, 64), 3: (32,), 4: (16, 256), 8: (256,), 16: (256,)}
HEAD = (
    "tokenizer | params [M] | tokens | codes | bits | runtime, batch | encode [ms] | "
    "decode [ms] | round trip [ms] | MSE | L1 | max error | velocity error | failed | "
    "overlap [%] | learnability [bits/chunk] | learnability [bits/token] | training steps"
)


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """Training of every candidate of a comparison.

    train_seconds: of each run; seeds: number of runs, starting from `seed`
    threads: of torch, 0 = its default; cache: folder that keeps trained tokenizers
    """

    preset: str = "small"
    train_seconds: float = number_field(300.0, 0.1)
    seeds: int = number_field(1, 1)
    seed: int = 0
    threads: int = number_field(0, 0)
    batch: int = number_field(64, 1)
    cache: str = "runs/tokenizers"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(ComparisonConfig):
    """tokenizers: names, empty = all that have the preset

    search: factors on the learning rate of each learned tokenizer, of which the one of least error
        on validation episodes is kept; empty = the rate of its preset
    learnability_steps: of the model that measures learnability, 0 = not measured
    """

    tokenizers: tuple[str, ...] = ()
    search: tuple[float, ...] = number_field((), 1e-3, 1e3)
    learnability_steps: int = number_field(LearnabilityConfig().steps, 0)


def run_benchmark(
    config: BenchmarkConfig, data: BenchmarkData, out: Path, device: ComputeDevice = CPU
) -> dict[str, Any]:
    """Trains, evaluates and times on a device; writes bench.json, table.md and the plots to `out`.

    Settings are chosen on validation chunks, published errors are of test chunks. Raises
    DatasetError without test chunks.
    """
    if data.test is None:
        raise DatasetError(f"{data.label}: a benchmark needs test episodes, at least 3 in all")
    torch.set_num_threads(config.threads or torch.get_num_threads())
    names = config.tokenizers or tuple(
        name for name in list_tokenizers() if config.preset in TOKENIZERS.get(name).presets
    )
    searches = {
        name: search_learning_rate(
            Candidate(name=name, preset=config.preset), config, data, device
        )
        for name in names
    }
    runs = {
        name: [
            on_test(run, data.test) for run in train_seeds(found.candidate, config, data, device)
        ]
        for name, found in searches.items()
    }
    chosen = {title: _median_run(seeds) for title, seeds in runs.items()}
    learnability = {title: _learnability(run, config, data) for title, run in chosen.items()}
    rows, onnx = _timed_rows(chosen, runs, data, device)
    for row in rows:
        row |= {**learnability[row["title"]], **searches[row["title"]].facts()}
    points = _points(chosen, config, data, device)
    results = {
        **comparison_facts(config, data, device),
        "split": "test",
        "relative": any(data.columns.get("relative", ())),
        "chunks": {
            "train": len(data.train.actions),
            "validation": len(data.validation.actions),
            "test": len(data.test.actions),
        },
        "constant": list(data.constant),
        "rows": rows,
        "points": points,
        "onnx": onnx,
        "ranking": ranking(points),
        "dominates_nac": dominating_points(points),
    }
    files.write_json(out / "bench.json", results)
    files.write_text(out / "table.md", table(results))
    (out / "rate_distortion.png").write_bytes(plot_rate_distortion(points, _caption(results)))
    for title, run in chosen.items():
        effects = measure_token_effects(run.tokenizer, data.test, config.seed)
        facts = run.tokenizer.config
        plot = plot_token_effects(effects, facts.names, run.tokenizer.name, facts.rate_hz)
        (out / f"tokens_{title}.png").write_bytes(plot)
    return results


def comparison_facts(
    config: ComparisonConfig, data: BenchmarkData, device: ComputeDevice = CPU
) -> dict[str, Any]:
    """Data, machine and training of a comparison, to store with its results."""
    return {
        "data": data.label,
        "machine": _machine(device),
        "device": device.name,
        "precision": device.precision,
        "train_seconds": config.train_seconds,
        "seeds": [config.seed + k for k in range(config.seeds)],
        **environment(),
    }


def train_seeds(
    candidate: Candidate,
    config: ComparisonConfig,
    data: BenchmarkData,
    device: ComputeDevice = CPU,
) -> list[TrainedCandidate]:
    """One run per seed; a tokenizer without learned parameters does not depend on the seed."""
    common = {"seconds": config.train_seconds, "batch": config.batch}
    n = config.seeds if TOKENIZERS.get(candidate.name).learned else 1
    cache = Path(config.cache)
    return [train(candidate, data, common, config.seed + k, cache, device) for k in range(n)]


class LearningRateSearch(NamedTuple):
    """The candidate with the chosen learning rate, and the validation MSE by rate tried.

    rate: None for a tokenizer that learns nothing
    """

    candidate: Candidate
    rate: float | None
    errors: dict[float, float]

    def facts(self) -> dict[str, Any]:
        """Entries of a row of the benchmark."""
        tried = [{"learning_rate": r, "validation_mse": e} for r, e in self.errors.items()]
        return {"learning_rate": self.rate, "search": tried}


def search_learning_rate(
    candidate: Candidate,
    config: BenchmarkConfig,
    data: BenchmarkData,
    device: ComputeDevice = CPU,
) -> LearningRateSearch:
    """Trains the first seed with each rate of `config.search`; all tokenizers get equal effort."""
    cls = TOKENIZERS.get(candidate.name)
    if not cls.learned:
        return LearningRateSearch(candidate, None, {})
    settings = {**cls.training_defaults.get(candidate.preset, {}), **dict(candidate.training)}
    rate = settings.get("learning_rate", TokenizerTrainingConfig().learning_rate)
    tried = {}
    for factor in config.search:
        tried[factor * rate] = replace(
            candidate, training=(*candidate.training, ("learning_rate", factor * rate))
        )
    first = replace(config, seeds=1)
    errors = {r: train_seeds(c, first, data, device)[0].metrics["mse"] for r, c in tried.items()}
    if not errors:
        return LearningRateSearch(candidate, rate, {})
    best = min(errors, key=lambda r: errors[r])
    return LearningRateSearch(tried[best], best, errors)


def on_test(run: TrainedCandidate, test: ActionChunks) -> TrainedCandidate:
    """The run with its metrics on the test chunks; `validation_mse` keeps the error so far."""
    kept = {key: run.metrics[key] for key in ("train_steps", "train_seconds")}
    errors = {**evaluate(run.tokenizer, test), "validation_mse": run.metrics["mse"]}
    return replace(run, metrics={**errors, **kept})


def ranking(points: Points) -> list[str]:
    """Labels by the lowest error of any setting within 120 bits, lowest first."""
    lowest: dict[str, float] = {}
    for point in points:
        if point["bits"] <= BIT_BUDGET + log2(1.1):
            lowest[point["label"]] = min(point["mse"], lowest.get(point["label"], point["mse"]))
    return sorted(lowest, key=lambda label: lowest[label])


def dominating_points(points: Points) -> list[dict[str, Any]]:
    """Points of other tokenizers with at most the bits and the error of a point of NAC."""
    ours = [point for point in points if point["label"] == OURS]
    return [
        {"rival": rival, "nac": own}
        for rival in points
        for own in ours
        if rival["name"] != OURS and rival["bits"] <= own["bits"] and rival["mse"] <= own["mse"]
    ]


def table(results: dict[str, Any]) -> str:
    """Markdown table of the rows, the paper's values in parentheses."""
    return markdown_table(HEAD, [_cells(row) for row in results["rows"]])


def markdown_table(head: str, rows: Sequence[Sequence[str]]) -> str:
    """Markdown of a table; head: names of the columns, separated by ` | `."""
    names = head.split(" | ")
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


@mpl.rc_context(STYLE)
def plot_rate_distortion(points: Points, caption: str) -> bytes:
    """PNG: bits of a chunk against its normalized MSE, both logarithmic."""
    figure = Figure((8.4, 5.2), layout="constrained")
    axes = figure.subplots()
    for label in dict.fromkeys(point["label"] for point in points):
        _draw_label(axes, [point for point in points if point["label"] == label], label)
    axes.axvline(BIT_BUDGET, color="#8a9099", linewidth=0.8, linestyle=":")
    axes.annotate(
        f"{BIT_BUDGET} bits",
        (BIT_BUDGET, 0),
        xycoords=("data", "axes fraction"),
        fontsize=8,
        xytext=(3, 4),
        textcoords="offset points",
    )
    axes.set(xscale="log", yscale="log", xlabel="bits of a chunk", ylabel="normalized MSE")
    axes.legend(frameon=False, ncols=2)
    axes.set_title(caption, fontsize=8, loc="left")
    return to_png(figure)


def _draw_label(axes: Axes, points: Points, label: str) -> None:
    colour = METHOD_COLOURS.get(points[0]["name"], OTHER_METHOD)
    alpha = 0.45 if label != points[0]["name"] else 1.0
    ordered = sorted(points, key=lambda point: point["bits"])
    bits, errors = [p["bits"] for p in ordered], [p["mse"] for p in ordered]
    axes.plot(bits, errors, color=colour, alpha=alpha, linewidth=1.2)
    for kind, marker in MARKERS.items():
        of_kind = [p for p in ordered if p["kind"] == kind]
        bits, errors = [p["bits"] for p in of_kind], [p["mse"] for p in of_kind]
        size = 8 if kind == "full" else 5
        axes.plot(bits, errors, marker, color=colour, alpha=alpha, markersize=size)
    axes.plot([], [], MARKERS["full"], color=colour, alpha=alpha, label=label)


def _median_run(runs: Sequence[TrainedCandidate]) -> TrainedCandidate:
    """The run of median validation error; of an even number, the better of the middle two."""
    ordered = sorted(runs, key=lambda run: run.metrics["validation_mse"])
    return ordered[(len(ordered) - 1) // 2]


def _timed_rows(
    chosen: dict[str, TrainedCandidate],
    runs: dict[str, list[TrainedCandidate]],
    data: BenchmarkData,
    device: ComputeDevice,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of Table 3, one per tokenizer, runtime and batch size; ONNX compared with torch."""
    codecs: dict[tuple[str, str], tokenizer_timing.TokenCodec] = {}
    onnx = {}
    for title, run in chosen.items():
        for runtime, codec in tokenizer_timing.make_codecs(run.tokenizer).items():
            codecs[title, runtime] = codec
            if runtime == "onnx":
                found = tokenizer_timing.compare_with_onnx(run.tokenizer, codec, data.validation)
                onnx[title] = found._asdict()
    rows = []
    for batch in tokenizer_timing.ROUNDS:
        times = tokenizer_timing.measure_times(codecs, data.train, batch, device)
        for (title, runtime), ms in times.items():
            costs = dict(zip(("encode_ms", "decode_ms", "roundtrip_ms"), ms))
            setting = {"runtime": runtime, "batch": batch, "threads": 1}
            rows.append({**_row(chosen[title], runs[title]), **costs, **setting})
    return rows, onnx


def _row(run: TrainedCandidate, seeds: Sequence[TrainedCandidate]) -> dict[str, Any]:
    tokenizer, metrics = run.tokenizer, run.metrics
    keys = ("mse", "l1", "max_error", "velocity_error", "failed_chunks")
    return {
        "name": tokenizer.name,
        "title": run.candidate.title,
        "preset": tokenizer.preset,
        "params_m": round(tokenizer.params_m, 6),
        "tokens": metrics["tokens"],
        "tokens_p99": metrics["tokens_p99"],
        "vocabulary": tokenizer.codes_per_position,
        "bits": metrics["bits"],
        **{key: median(seed.metrics[key] for seed in seeds) for key in keys},
        "mse_seeds": [seed.metrics["mse"] for seed in seeds],
        "validation_mse_seeds": [seed.metrics["validation_mse"] for seed in seeds],
        "train_steps": metrics["train_steps"],
        "codebook_use": metrics["codebook_use"],
        "overlap": metrics["overlap"],
        "overlap_positions": metrics["overlap_positions"],
    }


def _learnability(
    run: TrainedCandidate, config: BenchmarkConfig, data: BenchmarkData
) -> dict[str, Any]:
    """learnability_bits of a test chunk and learnability_bits_per_token; None if skipped."""
    bits: tuple[float | None, float | None] = (None, None)
    if config.learnability_steps:
        settings = LearnabilityConfig(steps=config.learnability_steps)
        assert data.test is not None
        found = measure_learnability(run.tokenizer, data.train, data.test, settings)
        bits = found.bits_per_chunk, found.bits_per_token
    return dict(zip(("learnability_bits", "learnability_bits_per_token"), bits))


def _points(
    chosen: dict[str, TrainedCandidate],
    config: BenchmarkConfig,
    data: BenchmarkData,
    device: ComputeDevice,
) -> list[dict[str, Any]]:
    """Points of each tokenizer, of its prefixes, and of FAST and Bin at other settings."""
    points = []
    for title, run in chosen.items():
        points += _points_of_run(title, run, "full")
    settings = [Candidate(name="fast", model=(("scale", scale),)) for scale in FAST_SCALES]
    settings += [
        Candidate(name="bin", model=(("n_knots", knots), ("n_bins", bins)))
        for knots, numbers in BIN_SETTINGS.items()
        for bins in numbers
        if knots <= data.shape[0]
    ]
    for candidate in settings:
        if candidate.name in chosen:
            (run,) = train_seeds(candidate, config, data, device)
            assert data.test is not None
            points += _points_of_run(candidate.name, on_test(run, data.test), "setting")
    return points


def _points_of_run(title: str, run: TrainedCandidate, kind: str) -> list[dict[str, Any]]:
    facts = {"name": run.tokenizer.name, "label": title, "settings": dict(run.candidate.model)}
    kinds = [(run.metrics, kind), *((prefix, "prefix") for prefix in run.metrics["prefixes"])]
    return [{**facts, "bits": m["bits"], "mse": m["mse"], "kind": k} for m, k in kinds]


def _cells(row: dict[str, Any]) -> list[str]:
    paper = TABLE_3.get(row["title"]) if row["batch"] == 1 and row["runtime"] != "torch" else None

    def with_paper(text: str, key: str) -> str:
        return text if paper is None else f"{text} ({getattr(paper, key):g})"

    return [
        row["title"],
        with_paper(f"{row['params_m']:.3f}", "params_m"),
        with_paper(f"{row['tokens']:.1f}", "tokens"),
        with_paper(str(row["vocabulary"]), "vocabulary"),
        with_paper(f"{row['bits']:.0f}", "bits"),
        f"{row['runtime']}, {row['batch']}",
        *(with_paper(f"{row[k]:.3f}", k) for k in ("encode_ms", "decode_ms", "roundtrip_ms")),
        f"{row['mse']:.2e}",
        f"{row['l1']:.2e}",
        f"{row['max_error']:.3f}",
        f"{row['velocity_error']:.2e}",
        f"{row['failed_chunks']:g}",
        _optional(row["overlap"], 100),
        *(_optional(row[key]) for key in ("learnability_bits", "learnability_bits_per_token")),
        str(row["train_steps"]),
    ]


def _optional(value: float | None, factor: float = 1.0) -> str:
    return "-" if value is None else f"{factor * value:.1f}"


def _machine(device: ComputeDevice) -> str:
    """Processor model, number of cores, and GPU."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.get_device_name(device.name) if device.kind == "cuda" else "no GPU used"
    return f"{names[0] if names else 'unknown processor'}, {len(names)} cores, {gpu}"


def _caption(results: dict[str, Any]) -> str:
    return (
        f"{results['data']}: {results['chunks']['test']} test chunks, "
        f"{results['train_seconds']:g} s of training each, median of {len(results['seeds'])} "
        "seed(s)"
    )
