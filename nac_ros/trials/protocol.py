"""Protocol of a comparison of methods by trials; success criteria of the paper's eight tasks."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from nac_ros.core import config
from nac_ros.core.config import (
    FILE,
    REQUIRED,
    SENTENCE,
    check_fields,
    number_field,
    sequence_field,
    text_field,
)
from nac_ros.core.config import NAME as NAME_RULE
from nac_ros.core.errors import ConfigError, show_text, show_value
from nac_ros.core.files import sha256
from nac_ros.export.manifest import MANIFEST, read_manifest
from nac_ros.inference.conditions import Conditions
from nac_ros.simulation.domain_randomization import (
    NOMINAL,
    DomainRandomization,
    load_randomization,
)

FORMAT = 2  # of protocol.json and the log
EXPERT = "expert"  # as a method: the scripted experts of the twin
TWIN = "twin"  # as a robot: the simulated arm, whose success detector replaces the operator
ALL_TASKS = "all"  # stands for all tasks together in results
NAME = re.compile(r"[\w.+-]{1,100}")
MAX_TRIALS = 200_000  # of a run, because its schedule is held in memory
MAX_FILE_NAME = 200  # bytes; a start position names the file of its reference image
MAX_STEPS = 100  # of a rubric
STACK_FAILURE = "a cube falls or leaves the workspace, or the stack is not complete"


@dataclass(frozen=True, kw_only=True)
class SuccessCriterion:
    """When a trial succeeds and when it fails, one sentence each, as shown to the operator."""

    success: str = text_field(REQUIRED, SENTENCE)
    failure: str = text_field(REQUIRED, SENTENCE)

    def __post_init__(self) -> None:
        check_fields(self)


# The paper's Table 7. Where its wording leaves a case open, the criterion here decides it.
TABLE_7 = {
    "weighing": SuccessCriterion(
        success="the scale's display is on after the arm has retracted",
        failure="the button was pressed but the display is not on",
    ),
    "grapes": SuccessCriterion(
        success="the grapes lie on the plate", failure="fewer than half remain on the plate"
    ),
    "marker": SuccessCriterion(
        success="the marker lies fully inside the bin at the end",
        failure="the marker is outside the bin, or was dropped outside the workspace",
    ),
    "two_blocks": SuccessCriterion(
        success="both cubes are stacked and stable", failure=STACK_FAILURE
    ),
    "three_blocks": SuccessCriterion(
        success="all three cubes are stacked and stable", failure=STACK_FAILURE
    ),
    "chess": SuccessCriterion(
        success="the rook stands on the queen's square, the queen lies off the board, every "
        "other piece is upright",
        failure="the queen is not off the board, or any piece was knocked over",
    ),
    "place_stone": SuccessCriterion(
        success="the stone lies on the trained intersection",
        failure="the stone lies on any other intersection",
    ),
    "fold_towel": SuccessCriterion(
        success="the towel matches the folded target",
        failure="the towel is not folded, came unfolded, or is off the workspace",
    ),
}


@dataclass(frozen=True, kw_only=True)
class StoppingRule:
    """rule: `fixed` runs all trials; `sequential` ends a task once the sequential test finds a
    difference between the two methods of `pair`
    """

    rule: Literal["fixed", "sequential"] = "fixed"
    pair: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rule == "sequential" and not len(self.pair) == len(set(self.pair)) == 2:
            raise ConfigError(
                "the stopping rule `sequential` needs `pair`, the two methods that it compares; "
                f"got {list(self.pair)}"
            )


@dataclass(frozen=True, kw_only=True)
class TrialProtocol:
    """What is compared, and how.

    methods: name -> path of a bundle, or `expert`
    trials: per method and task; trial i has the same scene or start position for all methods
    start_positions: task -> names of marked start positions, used cyclically; not for the twin
    criteria: task -> when a trial succeeds and fails; known for the paper's tasks
    rubric: task -> steps of partial success, in order
    max_steps: control periods after which a trial has failed, at most the paper's 1000
    alpha: significance level of the run's tests, for all tasks together
    """

    robot: str = text_field(TWIN, NAME_RULE)
    tasks: tuple[str, ...] = sequence_field(REQUIRED, 0, 64)
    methods: dict[str, str] = text_field(REQUIRED, FILE, 0, 32)
    trials: int = number_field(50, 1, 1000)
    seed: int = number_field(0, 0, 2**53)
    start_positions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    criteria: dict[str, SuccessCriterion] = field(default_factory=dict)
    rubric: dict[str, tuple[str, ...]] = field(default_factory=dict)
    max_steps: int = number_field(1000, 1, 1000)
    stopping: StoppingRule = StoppingRule()
    conditions: Conditions = field(default_factory=Conditions)
    alpha: float = number_field(0.05, 0.001, 0.5)

    def __post_init__(self) -> None:
        check_fields(self)
        _check_names("tasks", self.tasks)
        _check_names("methods", tuple(self.methods))
        if ALL_TASKS in self.tasks:
            raise ConfigError(
                f"tasks: '{ALL_TASKS}' stands for all tasks together in reports; use another name"
            )
        for name in ("start_positions", "criteria", "rubric"):
            _check_known(name, getattr(self, name), self.tasks, "tasks")
        _check_known("stopping.pair", self.stopping.pair, self.methods, "methods")
        _check_start_positions(self.start_positions)
        _check_rubric(self.rubric)
        if (trials := self.trials * len(self.tasks) * len(self.methods)) > MAX_TRIALS:
            raise ConfigError(f"{trials} trials in all are more than {MAX_TRIALS}; plan fewer")
        known = {**TABLE_7, **self.criteria}
        if missing := [task for task in self.tasks if task not in known]:
            raise ConfigError(
                f"task '{missing[0]}' has no criteria: add when it succeeds and when it fails "
                "under `criteria`"
            )
        object.__setattr__(self, "criteria", {task: known[task] for task in self.tasks})


@dataclass(frozen=True, kw_only=True)
class FrozenProtocol:
    """Content of protocol.json; bundles: method -> SHA-256 of its manifest."""

    format: int = FORMAT
    protocol: TrialProtocol
    bundles: dict[str, str]
    randomization: DomainRandomization = NOMINAL


def content_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 of plain content in canonical form: JSON with sorted keys and no spaces."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def load_protocol(path: Path) -> TrialProtocol:
    """Reads a YAML file; paths in it are relative to its folder. Raises ConfigError."""
    protocol = config.build(TrialProtocol, config.load_yaml(path), path.name)
    folder = path.resolve().parent
    methods = {
        name: source if source == EXPERT else str(folder / source)
        for name, source in protocol.methods.items()
    }
    conditions = protocol.conditions
    if conditions.randomization.endswith(".yaml"):
        conditions = replace(conditions, randomization=str(folder / conditions.randomization))
    return replace(protocol, methods=methods, conditions=conditions)


def freeze(protocol: TrialProtocol) -> FrozenProtocol:
    """Verifies and hashes every bundle and reads the domain randomization.

    Raises BundleError, UnknownName, and ConfigError if a bundle does not know a task or has a
    shorter horizon, or if a real arm is to use the expert or a randomization.
    """
    randomization = load_randomization(protocol.conditions.randomization)
    if protocol.robot != TWIN and randomization != NOMINAL:
        raise ConfigError(
            f"randomization '{protocol.conditions.randomization}' exists on the twin alone; "
            "leave `randomization` out"
        )
    bundles = {}
    for name, source in protocol.methods.items():
        if source == EXPERT:
            if protocol.robot != TWIN:
                raise ConfigError(f"method '{name}': experts drive the twin alone; name a bundle")
            continue
        manifest, wanted = read_manifest(Path(source)), protocol.conditions.n_action_steps
        if missing := [task for task in protocol.tasks if task not in manifest.tasks]:
            raise ConfigError(
                f"method '{name}': the bundle {source} did not learn {missing[0]}; it learned: "
                f"{', '.join(manifest.tasks)}"
            )
        if wanted > manifest.horizon:
            raise ConfigError(
                f"method '{name}': n_action_steps {wanted} is beyond the horizon of the bundle "
                f"{source}, {manifest.horizon}; give at most that"
            )
        bundles[name] = sha256(Path(source) / MANIFEST)
    return FrozenProtocol(protocol=protocol, bundles=bundles, randomization=randomization)


def prompts(protocol: TrialProtocol) -> dict[str, str]:
    """Task -> prompt, from the bundles' manifests.

    Raises BundleError, and ConfigError for a method without a bundle.
    """
    found: dict[str, str] = {}
    for name, source in protocol.methods.items():
        if source == EXPERT:
            raise ConfigError(
                f"method '{name}': experts need no operator, use `nac trials`; name a bundle"
            )
        found = {**read_manifest(Path(source)).tasks, **found}
    return found


def first_difference(before: Any, after: Any, path: str = "") -> str:
    """Sentence about the first difference between two plain contents; '' if they are equal."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            inner = f"{path}.{key}".lstrip(".")
            if key not in before or key not in after:
                return f"{inner} {'was removed' if key in before else 'is new'}"
            if found := first_difference(before[key], after[key], inner):
                return found
        return ""
    return "" if before == after else f"{path} was {before}, is {after}"


def _check_names(field_name: str, names: tuple[str, ...]) -> None:
    if not names:
        raise ConfigError(f"a protocol needs {field_name}; name at least one")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{field_name} has '{show_text(name)}' twice")
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"{field_name}: '{show_text(name)}' must be letters, digits, '_', '.', '+' and "
                "'-', at most 100"
            )


def _check_known(field_name: str, names: Iterable[str], known: Iterable[str], of: str) -> None:
    if unknown := set(names) - set(known):
        raise ConfigError(
            f"{field_name} has '{min(unknown)}', which is not among the {of}: {', '.join(known)}"
        )


def _check_start_positions(start_positions: Mapping[str, tuple[str, ...]]) -> None:
    for task, names in start_positions.items():
        for name in names:
            size = len(name.encode(errors="replace"))
            if not 0 < size <= MAX_FILE_NAME or "/" in name or not name.isprintable():
                raise ConfigError(
                    f"start_positions of {task}: {show_value(name)} must be one line of text "
                    f"without '/', at most {MAX_FILE_NAME} bytes"
                )


def _check_rubric(rubric: Mapping[str, tuple[str, ...]]) -> None:
    for task, steps in rubric.items():
        if len(steps) > MAX_STEPS:
            raise ConfigError(f"rubric of {task}: {len(steps)} steps are more than {MAX_STEPS}")
        for step in steps:
            if not SENTENCE.pattern.fullmatch(step):
                raise ConfigError(
                    f"rubric of {task}: {show_value(step)} must be {SENTENCE.description}"
                )
