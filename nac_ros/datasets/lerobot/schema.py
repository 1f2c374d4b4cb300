"""The `features` of info.json: which columns a dataset has, and their Arrow schema."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import pyarrow as pa

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.lerobot.info import IMAGE_DTYPES, show
from nac_ros.datasets.lerobot.layout import (
    ACTION,
    AGE_SUFFIX,
    IMAGE_PREFIX,
    IMAGE_TYPE,
    INDEX_FEATURES,
    INTERVENTION,
    STAMP,
    STATE,
    SUCCESS,  # fmt: skip
)
from nac_ros.datasets.lerobot.video import VideoConfig

OBSERVATION = "observation."
COLOURS = 3  # channels of a camera's images


@dataclass(frozen=True, kw_only=True)
class OptionalColumns:
    """Which columns a dataset has beside joints and images.

    success: whether each episode succeeded; stamps: true times; image_ages: cameras whose images' ages
    are known; interventions: where a hand intervened
    """

    success: bool = True
    stamps: bool = False
    image_ages: tuple[str, ...] = ()
    interventions: bool = False

    def dtypes(self) -> dict[str, str]:
        """Feature -> its dtype, one number per frame each."""
        return {
            **({SUCCESS: "bool"} if self.success else {}),
            **({STAMP: "int64"} if self.stamps else {}),
            **{age_key(camera): "float32" for camera in self.image_ages},
            **({INTERVENTION: "bool"} if self.interventions else {}),
        }


NO_OPTIONAL_COLUMNS = OptionalColumns()
NO_DEPTH: Mapping[str, Mapping[str, Any]] = {}


def make_features(
    names: Sequence[str],
    units: Sequence[str],
    state_names: Sequence[str],
    cameras: Mapping[str, tuple[int, int]],
    fps: float,
    video: VideoConfig | None = None,
    extras: OptionalColumns = NO_OPTIONAL_COLUMNS,
    depth: Mapping[str, Mapping[str, Any]] = NO_DEPTH,
) -> dict[str, Any]:
    """The `features` of info.json; cameras are name -> (height, width) [pixels].

    names, units: of the D action dimensions; state_names: of the S state dimensions, whose units
    are known when they are the action's; there is no state where S = 0
    video: how images are encoded, as PNG in the data files when None
    depth: camera -> feature of images of other than three channels, kept as they are
    """
    same = list(state_names) == list(names)
    state = _vector(state_names, units if same else [""] * len(state_names))
    images = {
        IMAGE_PREFIX + camera: _pictures(camera, size, fps, video)
        for camera, size in cameras.items()
    }
    images |= {IMAGE_PREFIX + camera: dict(feature) for camera, feature in depth.items()}
    scalars = {**extras.dtypes(), **INDEX_FEATURES}
    return {
        **({STATE: state} if len(state_names) else {}),
        ACTION: _vector(names, units),
        **images,
        **{key: {"dtype": kind, "shape": [1], "names": None} for key, kind in scalars.items()},
    }


def data_schema(features: Mapping[str, Any]) -> pa.Schema:
    """Arrow schema of the data files, with the note that makes `datasets` see images as images."""
    fields: list[pa.Field] = []
    notes: dict[str, Any] = {}
    for key, feature in features.items():
        kind, shape = feature["dtype"], feature["shape"]
        if kind == "video":
            continue
        if kind == "image":
            fields.append(pa.field(key, IMAGE_TYPE))
            notes[key] = {"_type": "Image"}
            continue
        value = {"dtype": kind, "_type": "Value"}
        scalar = pa.type_for_alias(kind)
        single = shape == [1]
        fields.append(pa.field(key, scalar if single else pa.list_(scalar, shape[0])))
        notes[key] = value if single else {"feature": value, "length": shape[0], "_type": "List"}
    note = json.dumps({"info": {"features": notes}})
    return pa.schema(fields, metadata={"huggingface": note})


def age_key(camera: str) -> str:
    """Feature with the age of the camera's image at each frame [ms]."""
    return IMAGE_PREFIX + camera + AGE_SUFFIX


def image_keys(features: Mapping[str, Any]) -> dict[str, str]:
    """Camera -> key of each image and video feature, colour or not, of any spelling.

    `observation.images.top` and `observation.top` are camera `top`, and `wrist_image` is
    `wrist_image`. Where two keys end alike, the second one is named by the whole of its key, with
    `_` for dots.
    """
    found = [key for key, feature in features.items() if feature["dtype"] in IMAGE_DTYPES]
    own = [key for key in found if key.startswith(IMAGE_PREFIX) and key != IMAGE_PREFIX]
    cameras = {key.removeprefix(IMAGE_PREFIX): key for key in own}
    for key in (key for key in found if key not in own):
        short, whole = key.removeprefix(OBSERVATION) or key, key.replace(".", "_")
        numbered = (f"{whole}_{k}" for k in count(2))
        name = next(n for n in chain((short, whole), numbered) if n not in cameras)
        cameras[name] = key
    return {name: key for key in found for name, known in cameras.items() if known == key}


def color_image_sizes(features: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Camera -> (height, width) [pixels] of the image and video features in colour."""
    return {
        camera: _size(features[key])
        for camera, key in image_keys(features).items()
        if channels(features[key]) == COLOURS
    }


def depth_image_sizes(features: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Camera -> (height, width) [pixels] of the image and video features of other than three
    channels, such as depth."""
    return {
        camera: _size(features[key])
        for camera, key in image_keys(features).items()
        if channels(features[key]) != COLOURS
    }


def depth_features(features: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Camera -> feature of `depth_image_sizes`: dtype, shape and names."""
    keys = image_keys(features)
    kept = ("dtype", "shape", "names")
    return {c: {k: features[keys[c]].get(k) for k in kept} for c in depth_image_sizes(features)}


def channels(feature: Mapping[str, Any]) -> int:
    """How many values a pixel of an image or video feature has; depth has 1."""
    facts = feature.get("info")
    if isinstance(facts, Mapping) and facts.get("video.is_depth_map") is True:
        return 1
    shape = feature["shape"]
    if len(shape) == 2:
        return 1
    return shape[0] if _channels_first(feature) else shape[2]


def dimension_names(key: str, feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a vector's dimensions, numbered ones where the folder has none."""
    names = feature.get("names")
    if isinstance(names, Mapping) and len(names) == 1:  # older folders: {"motors": [...]}
        (names,) = names.values()
    size = feature["shape"][0]
    known = isinstance(names, list) and len(names) == size
    if known and all(isinstance(name, str) and name.isprintable() for name in names):
        return tuple(names)
    return tuple(f"{key}.{i}" for i in range(size))


def dimension_units(key: str, feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Unit of each of a vector's dimensions, "" where the folder does not say; raises DatasetError
    where it says something else than one text for each."""
    size, units = feature["shape"][0], feature.get("units")
    if not units:
        return ("",) * size
    texts = isinstance(units, list) and all(isinstance(unit, str) for unit in units)
    if not texts or len(units) != size:
        raise DatasetError(
            f"feature '{key}' has units {show(units)}; wanted one for each of {size} dimensions"
        )
    return tuple(units)


def _vector(names: Sequence[str], units: Sequence[str]) -> dict[str, Any]:
    return {
        "dtype": "float32",
        "shape": [len(names)],
        "names": list(names),
        "units": list(units),
    }


def _pictures(
    camera: str, size: tuple[int, int], fps: float, video: VideoConfig | None
) -> dict[str, Any]:
    height, width = size
    feature = {
        "dtype": "video" if video else "image",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
    }
    if video is None:
        return feature
    if height % 2 or width % 2:
        raise DatasetError(
            f"camera '{camera}' has {width} x {height} pixels, and a video needs even sides; "
            "keep its images as PNG (--video none)"
        )
    return {**feature, "info": video.feature_info(height, width, fps)}


def _size(feature: Mapping[str, Any]) -> tuple[int, int]:
    shape = feature["shape"]
    return (shape[1], shape[2]) if _channels_first(feature) else (shape[0], shape[1])


def _channels_first(feature: Mapping[str, Any]) -> bool:
    """Whether a pixel's channels are the first dimension; by the names, else by the shape."""
    shape, names = feature["shape"], feature.get("names")
    if len(shape) == 2:
        return False
    if isinstance(names, list) and len(names) == len(shape):
        places = [k for k, name in enumerate(names) if str(name)[:1].lower() == "c"]
        if len(places) == 1:
            return places[0] == 0
    return shape[0] in (1, COLOURS) and shape[2] not in (1, COLOURS)
