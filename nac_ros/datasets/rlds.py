"""Reads BridgeData-style folders: features.json, and episodes in TFRecord files (RLDS)."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nac_ros.core import image_codec
from nac_ros.core.errors import DatasetError, show_text
from nac_ros.core.json_reader import read_json
from nac_ros.datasets import tfrecord
from nac_ros.datasets.episode import Episode, EpisodeInfo
from nac_ros.datasets.tfrecord import RecordFile, Values

FEATURES, DESCRIPTION = "features.json", "dataset_info.json"
STEPS = "steps/"
ACTION, STATE, TASK = "action", "observation/state", "language_instruction"
RATES_HZ = {"bridge_dataset": 5}  # the format holds no rate; of BridgeData V2's paper


class ShardLocation(NamedTuple):
    """An episode: which file and record, number of frames on disk, and task."""

    file: int
    record: int
    length: int
    task: str


class RldsDataset:
    """One folder, opened by `RldsDataset.open`; fps is 0 where the rate is not known.

    Keys are those of the steps, such as `action` and `observation/state`.
    """

    def __init__(
        self, root: Path, vectors: dict[str, int], action_key: str, state_key: str | None
    ):
        self.root, self.robot_type = root, ""
        self._vectors, self._action_key, self._state_key = vectors, action_key, state_key
        self._pictures: dict[str, str] = {}
        self.cameras: dict[str, tuple[int, int]] = {}
        path = root / DESCRIPTION
        described = read_json(path, DatasetError) if path.is_file() else {}
        name = described.get("name", "") if isinstance(described, dict) else ""
        self.fps = RATES_HZ.get(name, 0) if isinstance(name, str) else 0
        self._files = [RecordFile(path) for path in record_files(root)]

    @classmethod
    def open(
        cls, path: Path | str, action_key: str | None = None, state_key: str | None = None
    ) -> "RldsDataset":
        """The folder's episodes; raises DatasetError naming what is missing."""
        root = Path(path)
        described = read_json(root / FEATURES, DatasetError)
        try:
            steps = _leaves(described, f"{root / FEATURES}").get("steps", {})
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            problem = f"{type(error).__name__} {show_text(error)}"
            raise DatasetError(
                f"{root / FEATURES} describes no features ({problem}); copy the folder again"
            ) from error
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
                dataset._pictures[camera] = key
                dataset.cameras[camera] = (shape[0], shape[1])
        return dataset

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the D action dimensions; the format has none of its own."""
        return self._numbered(self._action_key)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the S state dimensions, none where the folder has no state."""
        return self._numbered(self._state_key) if self._state_key else ()

    @property
    def units(self) -> tuple[str, ...]:
        """ "" for each action dimension."""
        return ("",) * len(self.names)

    @property
    def tasks(self) -> list[str]:
        """Task texts in the order in which they come first."""
        return list(dict.fromkeys(info.task for info in self.episodes))

    @property
    def files(self) -> list[Path]:
        """The files that hold the data."""
        return record_files(self.root)

    @cached_property
    def episodes(self) -> list[EpisodeInfo]:
        """Length and task of each episode."""
        shorter = int(self._action_key == self._state_key)
        return [EpisodeInfo(place.length - shorter, place.task) for place in self._places]

    def episode(self, index: int, images: bool = True) -> Episode:
        """Episode `index` in the order of the files; its checksum is compared."""
        if not 0 <= index < len(self._places):
            raise DatasetError(f"{self.root} has no episode {index}; it has {len(self._places)}")
        place = self._places[index]
        values = self._example(place.file, place.record, check=True)
        actions = self._matrix(values, self._action_key, place)
        states = np.zeros((place.length, 0), np.float32)
        if self._state_key:
            states = self._matrix(values, self._state_key, place)
        pictures = {c: self._images(values, c, place) for c in self.cameras} if images else {}
        if self._action_key == self._state_key:  # the action is the next state
            actions, states = actions[1:], states[:-1]
            pictures = {camera: frames[:-1] for camera, frames in pictures.items()}
        rewarded = np.any(np.asarray(values.get(f"{STEPS}reward", ())) > 0)
        return Episode(states, actions, place.task, pictures, True if rewarded else None)

    @cached_property
    def _places(self) -> list[ShardLocation]:
        return [
            self._place(file, record)
            for file, records in enumerate(self._files)
            for record in range(len(records.spans))
        ]

    def _place(self, file: int, record: int) -> ShardLocation:
        values = self._example(file, record, check=False)
        actions = np.asarray(values.get(STEPS + self._action_key, ()))
        texts = values.get(STEPS + TASK)
        task = bytes(texts[0]).decode() if isinstance(texts, list) and texts else ""
        return ShardLocation(file, record, len(actions) // self._vectors[self._action_key], task)

    def _example(self, file: int, record: int, check: bool) -> dict[str, Values]:
        records = self._files[file]
        try:
            return tfrecord.example(records.record(record, check))
        except ValueError as error:
            raise DatasetError(f"{records.path}: record {record} is damaged: {error}") from error

    def _matrix(self, values: Mapping[str, Values], key: str, place: ShardLocation) -> np.ndarray:
        flat, width = values.get(STEPS + key), self._vectors[key]
        if not isinstance(flat, np.ndarray) or len(flat) != place.length * width:
            raise DatasetError(
                f"{self._where(place)}: '{key}' should be {place.length} x {width} numbers"
            )
        return flat.reshape(place.length, width).astype(np.float32)

    def _images(
        self, values: Mapping[str, Values], camera: str, place: ShardLocation
    ) -> np.ndarray:
        encoded = values.get(STEPS + self._pictures[camera])
        if not isinstance(encoded, list) or len(encoded) != place.length:
            raise DatasetError(f"{self._where(place)}: {camera} should have {place.length} images")
        out = np.empty((place.length, *self.cameras[camera], 3), np.uint8)
        for k, data in enumerate(encoded):
            image_codec.decode_into(out[k], data, f"{self._where(place)}, {camera} frame {k}")
        return out

    def _where(self, place: ShardLocation) -> str:
        return f"{self._files[place.file].path}, record {place.record}"

    def _numbered(self, key: str) -> tuple[str, ...]:
        return tuple(f"{key.replace('/', '.')}.{i}" for i in range(self._vectors[key]))


def record_files(folder: Path) -> list[Path]:
    """The folder's TFRecord files, in order."""
    return sorted(path for path in folder.glob("*.tfrecord*") if path.is_file())


def _leaves(described: Mapping[str, Any], where: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """Of each sequence: feature -> shape; () for scalars and texts."""
    top = described.get("featuresDict", {}).get("features", {})
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, feature in top.items():
        if "sequence" in feature:
            found[name] = dict(_flat(feature["sequence"]["feature"], ""))
    if "steps" not in found:
        raise DatasetError(f"{where} describes no sequence 'steps'; is it an RLDS folder?")
    return found


def _flat(feature: Mapping[str, Any], prefix: str) -> list[tuple[str, tuple[int, ...]]]:
    if "featuresDict" in feature:
        parts = feature["featuresDict"]["features"].items()
        return [
            leaf for n, part in parts for leaf in _flat(part, f"{prefix}/{n}" if prefix else n)
        ]
    described = feature.get("tensor") or feature.get("image") or {}
    dimensions = described.get("shape", {}).get("dimensions", [])
    return [(prefix, tuple(int(size) for size in dimensions))]
