"""The `features` of info.json: the columns of a dataset, and their Arrow schema."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import pyarrow as pa

from nac_ros.core.errors import DatasetError
from nac_ros.datasets.lerobot import layout
from nac_ros.datasets.lerobot.info import IMAGE_DTYPES, show
from nac_ros.datasets.lerobot.video import VideoConfig

OBSERVATION = "observation."
COLORS = 3  # channels of a colour image


@dataclass(frozen=True, kw_only=True)
class OptionalColumns:
    """Columns of a dataset besides joints and images.

    success: success of the episode, at its last frame; stamps: observation times
    image_ages: cameras with the age of each image; interventions: frames driven by the operator
    environment_names: of the dimensions of the environment state, () without one
    """

    success: bool = True
    stamps: bool = False
    image_ages: tuple[str, ...] = ()
    interventions: bool = False
    environment_names: tuple[str, ...] = ()

    def dtypes(self) -> dict[str, str]:
        """Feature of one number per frame -> its dtype."""
        return {
            **({layout.SUCCESS: "bool"} if self.success else {}),
            **({layout.STAMP: "int64"} if self.stamps else {}),
            **{age_key(camera): "float32" for camera in self.image_ages},
            **({layout.INTERVENTION: "bool"} if self.interventions else {}),
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
    optional: OptionalColumns = NO_OPTIONAL_COLUMNS,
    depth: Mapping[str, Mapping[str, Any]] = NO_DEPTH,
) -> dict[str, Any]:
    """The `features` of info.json; cameras: name -> (height, width) [pixels].

    names, units: of the D action dimensions; state_names: of the S state dimensions, which get
    the units if the names are the same; there is no state feature if S = 0
    video: encoding of the images, or None for PNG in the data files
    depth: camera -> feature of images whose number of channels is not three, stored as they are
    """
    same = list(state_names) == list(names)
    state = _vector_feature(state_names, units if same else [""] * len(state_names))
    images = {
        layout.IMAGE_PREFIX + camera: _image_feature(camera, size, fps, video)
        for camera, size in cameras.items()
    }
    images |= {layout.IMAGE_PREFIX + camera: dict(feature) for camera, feature in depth.items()}
    scalars = {**optional.dtypes(), **layout.INDEX_FEATURES}
    environment = optional.environment_names
    environment_feature = _vector_feature(environment, [""] * len(environment))
    return {
        **({layout.STATE: state} if len(state_names) else {}),
        **({layout.ENVIRONMENT: environment_feature} if environment else {}),
        layout.ACTION: _vector_feature(names, units),
        **images,
        **{key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in scalars.items()},
    }


def data_schema(features: Mapping[str, Any]) -> pa.Schema:
    """Arrow schema of the data files, with the metadata by which `datasets` decodes images."""
    fields: list[pa.Field] = []
    notes: dict[str, Any] = {}
    for key, feature in features.items():
        dtype, shape = feature["dtype"], feature["shape"]
        if dtype == "video":
            continue
        if dtype == "image":
            fields.append(pa.field(key, layout.IMAGE_TYPE))
            notes[key] = {"_type": "Image"}
            continue
        value = {"dtype": dtype, "_type": "Value"}
        scalar = pa.type_for_alias(dtype)
        single = shape == [1]
        fields.append(pa.field(key, scalar if single else pa.list_(scalar, shape[0])))
        notes[key] = value if single else {"feature": value, "length": shape[0], "_type": "List"}
    note = json.dumps({"info": {"features": notes}})
    return pa.schema(fields, metadata={"huggingface": note})


def age_key(camera: str) -> str:
    """Feature with the age of the camera's image at each frame [ms]."""
    return layout.IMAGE_PREFIX + camera + layout.AGE_SUFFIX


def image_keys(features: Mapping[str, Any]) -> dict[str, str]:
    """Camera -> key of each image and video feature, colour or not.

    `observation.images.top` and `observation.top` are camera `top`, `wrist_image` is camera
    `wrist_image`. If two keys give the same name, the second camera is named by its whole key
    with `_` for dots.
    """
    found = [key for key, feature in features.items() if feature["dtype"] in IMAGE_DTYPES]
    standard = [
        key for key in found if key.startswith(layout.IMAGE_PREFIX) and key != layout.IMAGE_PREFIX
    ]
    cameras = {key.removeprefix(layout.IMAGE_PREFIX): key for key in standard}
    for key in (key for key in found if key not in standard):
        short, whole = key.removeprefix(OBSERVATION) or key, key.replace(".", "_")
        numbered = (f"{whole}_{k}" for k in count(2))
        name = next(n for n in chain((short, whole), numbered) if n not in cameras)
        cameras[name] = key
    names = {key: name for name, key in cameras.items()}
    return {names[key]: key for key in found}


def color_image_sizes(features: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Camera -> (height, width) [pixels] of the image and video features with three channels."""
    return _image_sizes(features, color=True)


def depth_image_sizes(features: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Camera -> (height, width) [pixels] of the other image and video features, such as depth."""
    return _image_sizes(features, color=False)


def depth_features(features: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Camera -> dtype, shape and names of the features of `depth_image_sizes`."""
    keys = image_keys(features)
    kept = ("dtype", "shape", "names")
    return {c: {k: features[keys[c]].get(k) for k in kept} for c in depth_image_sizes(features)}


def channels(feature: Mapping[str, Any]) -> int:
    """Values per pixel of an image or video feature; depth has 1."""
    info = feature.get("info")
    if isinstance(info, Mapping) and info.get("video.is_depth_map") is True:
        return 1
    shape = feature["shape"]
    if len(shape) == 2:
        return 1
    return shape[0] if _channels_first(feature) else shape[2]


def dimension_names(key: str, feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a vector's dimensions, `<key>.<i>` if the folder has none."""
    names: Any = feature.get("names")
    if isinstance(names, Mapping) and len(names) == 1:  # older folders: {"motors": [...]}
        (names,) = names.values()
    size = feature["shape"][0]
    known = isinstance(names, list) and len(names) == size
    if known and all(isinstance(name, str) and name.isprintable() for name in names):
        return tuple(names)
    return tuple(f"{key}.{i}" for i in range(size))


def dimension_units(key: str, feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Unit of each dimension of a vector, "" if the folder has none.

    Raises DatasetError for units that are not one text for each dimension.
    """
    size, units = feature["shape"][0], feature.get("units")
    if not units:
        return ("",) * size
    texts = isinstance(units, list) and all(isinstance(unit, str) for unit in units)
    if not texts or len(units) != size:
        raise DatasetError(
            f"feature '{key}' has units {show(units)}; wanted one for each of {size} dimensions"
        )
    return tuple(units)


def _vector_feature(names: Sequence[str], units: Sequence[str]) -> dict[str, Any]:
    return {
        "dtype": "float32",
        "shape": [len(names)],
        "names": list(names),
        "units": list(units),
    }


def _image_feature(
    camera: str, size: tuple[int, int], fps: float, video: VideoConfig | None
) -> dict[str, Any]:
    height, width = size
    feature = {
        "dtype": "video" if video else "image",
        "shape": [height, width, COLORS],
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


def _image_sizes(features: Mapping[str, Any], color: bool) -> dict[str, tuple[int, int]]:
    sizes = {}
    for camera, key in image_keys(features).items():
        feature, shape = features[key], features[key]["shape"]
        if (channels(feature) == COLORS) == color:
            first = int(_channels_first(feature))
            sizes[camera] = (shape[first], shape[first + 1])
    return sizes


def _channels_first(feature: Mapping[str, Any]) -> bool:
    """Whether the first dimension is that of the channels, by its name or else by the shape."""
    shape, names = feature["shape"], feature.get("names")
    if len(shape) == 2:
        return False
    if isinstance(names, list) and len(names) == len(shape):
        named_channel = [k for k, name in enumerate(names) if str(name)[:1].lower() == "c"]
        if len(named_channel) == 1:
            return named_channel[0] == 0
    return shape[0] in (1, COLORS) and shape[2] not in (1, COLORS)
