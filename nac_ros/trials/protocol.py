"""When a trial of the paper's eight tasks succeeds and fails: its Table 7, as settled here."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from nac_ros.core import config
from nac_ros.core.config import FILE, REQUIRED, SENTENCE, bounded, check_bounds, listed, named
from nac_ros.core.config import NAME as NAME_RULE
from nac_ros.core.errors import ConfigError, show_text, show_value
from nac_ros.core.files import sha256
from nac_ros.export.manifest import MANIFEST, read_manifest
from nac_ros.inference.conditions import Conditions
from nac_ros.simulation.domain_randomization import NOMINAL, DomainRandomization, load_variation

STACK = "a cube falls or leaves the workspace, or the stack is not complete"


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """What the operator is shown, and judges by; a sentence each."""

    success: str = named(REQUIRED, SENTENCE)
    failure: str = named(REQUIRED, SENTENCE)

    def __post_init__(self) -> None:
        check_bounds(self)


TABLE_7 = {
    "weighing": Criterion(
        success="the scale's display is on after the arm has retracted",
        failure="the button was pressed but the display is not on",
    ),
    "grapes": Criterion(
        success="the grapes lie on the plate", failure="fewer than half remain on the plate"
    ),
    "marker": Criterion(
        success="the marker lies fully inside the bin at the end",
        failure="the marker is outside the bin, or was dropped outside the workspace",
    ),
    "two_blocks": Criterion(success="both cubes are stacked and stable", failure=STACK),
    "three_blocks": Criterion(success="all three cubes are stacked and stable", failure=STACK),
    "chess": Criterion(
        success="the rook stands on the queen's square, the queen lies off the board, every "
        "other piece is upright",
        failure="the queen is not off the board, or any piece was knocked over",
    ),
    "place_stone": Criterion(
        success="the stone lies on the trained intersection",
        failure="the stone lies on any other intersection",
    ),
    "fold_towel": Criterion(
        success="the towel matches the folded target",
        failure="the towel is not folded, came unfolded, or is off the workspace",
    ),
}


EXPERT = "expert"  # the scripted experts of the twin, as a method
TWIN = "twin"  # the robot that its judge stands beside
POOLED = "all"  # the name of all tasks together
NAME = re.compile(r"[\w.+-]{1,100}")
MAX_TRIALS = 200_000  # of a run; its plan is held in memory
MAX_FILE_NAME = 200  # bytes; a place names the file of its reference picture
MAX_STEPS = 100  # of a rubric


@dataclass(frozen=True, kw_only=True)
class Limits:
    """steps: control periods after which a trial has failed, at most the paper's 1000"""

    steps: int = bounded(1000, 1, 1000)

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """rule: `fixed` plays all trials; `sequential` ends a task as soon as the test that may be
    looked at any time tells the two methods of `pair` apart on it
    """

    rule: Literal["fixed", "sequential"] = "fixed"
    pair: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rule == "sequential" and not len(self.pair) == len(set(self.pair)) == 2:
            raise ConfigError(
                "the stop rule `sequential` needs `pair`, the two methods that it compares; "
                f"got {list(self.pair)}"
            )


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """methods: name -> bundle, or `expert`
    trials: of each method on each task; trial i has the same scene or start place for all
    places: task -> marked start places, used in turn; the twin's scenes need none
    criteria: task -> when a trial succeeds and fails; the paper's tasks have theirs
    rubric: task -> steps of partial success, in order
    alpha: of the run's tests, for all tasks together

    At most 64 tasks, 32 methods and MAX_TRIALS trials in all.
    """

    robot: str = named(TWIN, NAME_RULE)
    tasks: tuple[str, ...] = listed(REQUIRED, 0, 64)
    methods: dict[str, str] = named(REQUIRED, FILE, 0, 32)
    trials: int = bounded(50, 1, 1000)
    seed: int = bounded(0, 0, 2**53)
    places: dict[str, tuple[str, ...]] = field(default_factory=dict)
    criteria: dict[str, Criterion] = field(default_factory=dict)
    rubric: dict[str, tuple[str, ...]] = field(default_factory=dict)
    limits: Limits = Limits()
    stop: StopRule = StopRule()
    conditions: Conditions = field(default_factory=Conditions)
    alpha: float = bounded(0.05, 0.001, 0.5)

    def __post_init__(self) -> None:
        check_bounds(self)
        for what, names in (("tasks", self.tasks), ("methods", tuple(self.methods))):
            _check_names(what, names)
        if POOLED in self.tasks:
            raise ConfigError(
                f"tasks: '{POOLED}' is what a report calls all tasks together; name it otherwise"
            )
        for what in ("places", "criteria", "rubric"):
            if unknown := set(getattr(self, what)) - set(self.tasks):
                raise ConfigError(
                    f"{what} are given for '{min(unknown)}', which is not among the tasks: "
                    f"{', '.join(self.tasks)}"
                )
        _check_places(self.places)
        _check_rubric(self.rubric)
        if (trials := self.trials * len(self.tasks) * len(self.methods)) > MAX_TRIALS:
            raise ConfigError(f"{trials} trials in all are more than {MAX_TRIALS}; plan fewer")
        if unknown := set(self.stop.pair) - set(self.methods):
            raise ConfigError(
                f"the stop rule compares '{min(unknown)}'; the methods are: "
                f"{', '.join(self.methods)}"
            )
        known = {**TABLE_7, **self.criteria}
        if missing := [task for task in self.tasks if task not in known]:
            raise ConfigError(
                f"task '{missing[0]}' has no criteria: say under `criteria` when a trial of it "
                "succeeds and when it fails"
            )
        object.__setattr__(self, "criteria", {task: known[task] for task in self.tasks})


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A protocol as it is on disk, with the hash of each method's bundle and how scenes vary."""

    protocol: Protocol
    bundles: dict[str, str]
    variation: DomainRandomization = NOMINAL


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of plain content in its canonical form: JSON with sorted keys and no spaces."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def load_protocol(path: Path) -> Protocol:
    """A protocol file; bundles and scenes are looked for beside it. Raises ConfigError."""
    protocol = config.build(Protocol, config.load_yaml(path), path.name)
    folder = path.resolve().parent
    methods = {
        name: source if source == EXPERT else str(folder / source)
        for name, source in protocol.methods.items()
    }
    conditions = protocol.conditions
    if conditions.scenes.endswith(".yaml"):
        conditions = replace(conditions, scenes=str(folder / conditions.scenes))
    return replace(protocol, methods=methods, conditions=conditions)


def freeze(protocol: Protocol) -> Frozen:
    """With every bundle verified and hashed; raises BundleError, UnknownName, and ConfigError
    where a bundle did not learn a task or plans less far, or a real arm is asked for the twin's
    expert or scenes."""
    variation, bundles = load_variation(protocol.conditions.scenes), {}
    if protocol.robot != TWIN and variation != NOMINAL:
        raise ConfigError(
            f"scenes '{protocol.conditions.scenes}' vary on the twin alone; leave `scenes` out"
        )
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
    return Frozen(protocol=protocol, bundles=bundles, variation=variation)


def prompts(protocol: Protocol) -> dict[str, str]:
    """Task -> what the policies were taught it by; raises ConfigError where a method is no
    bundle, which a person's trials need, and BundleError."""
    found: dict[str, str] = {}
    for name, source in protocol.methods.items():
        if source == EXPERT:
            raise ConfigError(
                f"method '{name}': experts play by themselves, in `nac trials`; name a bundle"
            )
        found = {**read_manifest(Path(source)).tasks, **found}
    return found


def first_change(before: Any, after: Any, place: str = "") -> str:
    """The first thing that two plain contents differ in, in words; '' if they are equal."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            inside = f"{place}.{key}".lstrip(".")
            if key not in before or key not in after:
                return f"{inside} {'was removed' if key in before else 'is new'}"
            if found := first_change(before[key], after[key], inside):
                return found
        return ""
    return "" if before == after else f"{place} was {before}, is {after}"


def _check_names(what: str, names: tuple[str, ...]) -> None:
    if not names:
        raise ConfigError(f"a protocol needs {what}; name at least one")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{what} names '{show_text(twice[0])}' twice")
    if odd := [name for name in names if not NAME.fullmatch(name)]:
        raise ConfigError(
            f"{what}: '{show_text(odd[0])}' must be letters, digits, '_', '.', '+' and '-', at "
            "most 100"
        )


def _check_places(places: Mapping[str, tuple[str, ...]]) -> None:
    """Each names the file of its reference picture."""
    for task, names in places.items():
        if odd := [name for name in names if not _is_file_name(name)]:
            raise ConfigError(
                f"places of {task}: {show_value(odd[0])} must be one line of text without '/', at "
                f"most {MAX_FILE_NAME} bytes"
            )


def _is_file_name(name: str) -> bool:
    short = 0 < len(name) <= MAX_FILE_NAME and len(name.encode(errors="replace")) <= MAX_FILE_NAME
    return short and "/" not in name and name.isprintable()


def _check_rubric(rubric: Mapping[str, tuple[str, ...]]) -> None:
    for task, steps in rubric.items():
        if odd := [step for step in steps if not SENTENCE.pattern.fullmatch(step)]:
            raise ConfigError(f"rubric of {task}: {show_value(odd[0])} must be {SENTENCE.text}")
        if len(steps) > MAX_STEPS:
            raise ConfigError(f"rubric of {task}: {len(steps)} steps are more than {MAX_STEPS}")
