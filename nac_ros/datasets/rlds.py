"""Reads BridgeData-style folders: features.json, and episodes in TFRecord files (RLDS)."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nac_ros.core import image_codec
from nac_ros.core.errors import DatasetError, show_text
from nac_ros.core.json_reader import read_json
from nac_ros.datasets import tfrecord
from nac_ros.datasets.compatibility import numbered_names
from nac_ros.datasets.episode import Episode, EpisodeInfo, EpisodeReader
from nac_ros.datasets.tfrecord import RecordFile, Values

FEATURES, DESCRIPTION = "features.json", "dataset_info.json"
STEPS = "steps/"
ACTION, STATE, TASK = "action", "observation/state", "language_instruction"
RATES_HZ = {"bridge_dataset": 5}  # from BridgeData V2's paper; the format has no rate


class RecordLocation(NamedTuple):
    """An episode: number of its file and record, frames on disk, and task."""

    file: int
    record: int
    length: int
    task: str


class RldsDataset(EpisodeReader):
    """One folder, opened by `RldsDataset.open`; fps is 0 if the rate is unknown.

    Keys are those of the steps, such as `action` and `observation/state`.
    """

    def __init__(
        self, root: Path, vectors: dict[str, int], action_key: str, state_key: str | None
    ):
        """vectors: key -> dimension of every one-dimensional feature."""
        self.root, self.robot_type = root, ""
        self._vectors, self._action_key, self._state_key = vectors, action_key, state_key
        self._image_keys: dict[str, str] = {}
        self.cameras: dict[str, tuple[int, int]] = {}
        path = root / DESCRIPTION
        description = read_json(path, DatasetError) if path.is_file() else {}
        name = description.get("name", "") if isinstance(description, dict) else ""
        self.fps = RATES_HZ.get(name, 0) if isinstance(name, str) else 0
        self.files = record_files(root)
        self._records = [RecordFile(path) for path in self.files]
        self.names = self._numbered(action_key)
        self.state_names = self._numbered(state_key) if state_key else ()
        self.units = ("",) * len(self.names)

    @classmethod
    def open(
        cls, path: Path | str, action_key: str | None = None, state_key: str | None = None
    ) -> "RldsDataset":
        """The folder's episodes; raises DatasetError naming what is missing."""
        root = Path(path)
        steps = _step_shapes(root / FEATURES)
        vectors = {key: shape[0] for key, shape in steps.items() if len(shape) == 1}
        state_key = state_key or (STATE if STATE in vectors else None)
        for key in (action_key or ACTION, state_key):
            if key is not None and key not in vectors:
                raise DatasetError(
                    f"{root} has no vector '{key}'; choose one with --action-key or "
                    f"--state-key: {', '.join(vectors)}"
                )
        dataset = cls(root, vectors, action_key or ACTION, state_key)
        for key, shape in sorted(steps.items()):
            if len(shape) == 3 and shape[2] == 3:
                camera = key.removeprefix("observation/").replace("/", "_")
                dataset._image_keys[camera] = key
                dataset.cameras[camera] = (shape[0], shape[1])
        return dataset

    @cached_property
    def episodes(self) -> list[EpisodeInfo]:
        shorter = int(self._action_key == self._state_key)
        return [EpisodeInfo(entry.length - shorter, entry.task) for entry in self._locations]

    def episode(self, index: int, images: bool = True) -> Episode:
        """Episode `index` in the order of the files; its checksum is verified."""
        self._info(index)
        location = self._locations[index]
        values = self._read_record(location.file, location.record, check=True)
        actions = self._matrix(values, self._action_key, location)
        states = np.zeros((location.length, 0), np.float32)
        if self._state_key:
            states = self._matrix(values, self._state_key, location)
        frames = {c: self._decode_images(values, c, location) for c in self.cameras if images}
        if self._action_key == self._state_key:  # the action is the next state
            actions, states = actions[1:], states[:-1]
            frames = {camera: stack[:-1] for camera, stack in frames.items()}
        rewarded = np.any(np.asarray(values.get(f"{STEPS}reward", ())) > 0)
        return Episode(states, actions, location.task, frames, True if rewarded else None)

    @cached_property
    def _locations(self) -> list[RecordLocation]:
        return [
            self._locate(file, record)
            for file, records in enumerate(self._records)
            for record in range(len(records.spans))
        ]

    def _locate(self, file: int, record: int) -> RecordLocation:
        values = self._read_record(file, record, check=False)
        actions = np.asarray(values.get(STEPS + self._action_key, ()))
        texts = values.get(STEPS + TASK)
        task = bytes(texts[0]).decode() if isinstance(texts, list) and texts else ""
        length = len(actions) // self._vectors[self._action_key]
        return RecordLocation(file, record, length, task)

    def _read_record(self, file: int, record: int, check: bool) -> dict[str, Values]:
        records = self._records[file]
        try:
            return tfrecord.parse_example(records.record(record, check))
        except ValueError as error:
            raise DatasetError(f"{records.path}: record {record} is damaged: {error}") from error

    def _matrix(
        self, values: Mapping[str, Values], key: str, location: RecordLocation
    ) -> np.ndarray:
        """Float32 `[T, D]` of a feature that is stored flat."""
        flat, width = values.get(STEPS + key), self._vectors[key]
        if not isinstance(flat, np.ndarray) or len(flat) != location.length * width:
            raise DatasetError(
                f"{self._where(location)}: '{key}' should be {location.length} x {width} numbers"
            )
        return flat.reshape(location.length, width).astype(np.float32)

    def _decode_images(
        self, values: Mapping[str, Values], camera: str, location: RecordLocation
    ) -> np.ndarray:
        encoded, where = values.get(STEPS + self._image_keys[camera]), self._where(location)
        if not isinstance(encoded, list) or len(encoded) != location.length:
            raise DatasetError(f"{where}: {camera} should have {location.length} images")
        out = np.empty((location.length, *self.cameras[camera], 3), np.uint8)
        for k, data in enumerate(encoded):
            image_codec.decode_into(out[k], data, f"{where}, {camera} frame {k}")
        return out

    def _where(self, location: RecordLocation) -> str:
        return f"{self._records[location.file].path}, record {location.record}"

    def _numbered(self, key: str) -> tuple[str, ...]:
        return numbered_names(key.replace("/", "."), self._vectors[key])


def record_files(folder: Path) -> list[Path]:
    """The folder's TFRecord files, in order."""
    return sorted(path for path in folder.glob("*.tfrecord*") if path.is_file())


def _step_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Feature of a step -> shape, () for scalars and texts; raises DatasetError if features.json
    describes no steps."""
    description = read_json(path, DatasetError)
    try:
        features = description.get("featuresDict", {}).get("features", {})
        sequences = {k: f["sequence"]["feature"] for k, f in features.items() if "sequence" in f}
        steps = dict(_flatten(sequences["steps"], "")) if "steps" in sequences else None
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        cause = f"{type(error).__name__} {show_text(error)}"
        raise DatasetError(f"{path} describes no features ({cause}); copy it again") from error
    if steps is None:
        raise DatasetError(f"{path} describes no sequence 'steps'; is it an RLDS folder?")
    return steps


def _flatten(feature: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(path, shape) of each leaf below a feature."""
    if "featuresDict" in feature:
        for name, member in feature["featuresDict"]["features"].items():
            yield from _flatten(member, f"{prefix}/{name}" if prefix else name)
        return
    description = feature.get("tensor") or feature.get("image") or {}
    dimensions = description.get("shape", {}).get("dimensions", [])
    yield prefix, tuple(int(size) for size in dimensions)
