"""An episode as the columns of a LeRobot data file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from nac_ros.data import features, layout, png
from nac_ros.data.episode import Episode
from nac_ros.data.layout import ACTION, IMAGE_PREFIX, INTERVENTION, STAMP, STATE, SUCCESS
from nac_ros.errors import DatasetError


def check(episode: Episode, wanted: Mapping[str, Any]) -> None:
    """Raises DatasetError where the episode lacks what the features want, or holds more."""
    if len(episode) < 1:
        raise DatasetError("an episode needs at least one frame, this one has none")
    for what, key in (("actions", ACTION), ("proprio", STATE)):
        values = getattr(episode, what)
        shape = (len(episode), wanted[key]["shape"][0] if key in wanted else 0)
        if np.shape(values) != shape:
            raise DatasetError(f"an episode's {what} must be {shape}, got {values.shape}")
        if not np.isfinite(values).all():
            raise DatasetError(f"an episode's {what} hold NaN or inf; nothing was written")
    _check_images(episode, wanted)
    expected = dict.fromkeys(features.age_key(camera) for camera in features.picture_sizes(wanted))
    for key, values in {**expected, **_extras(episode)}.items():
        if (key in wanted) != (values is not None):
            has = "lacks" if values is None else "has"
            raise DatasetError(f"an episode {has} {key}, unlike the first one of its folder")
        if values is not None and len(values) != len(episode):
            raise DatasetError(
                f"an episode of {len(episode)} frames has {len(values)} values of {key}"
            )


def numbers(
    episode: Episode,
    index: int,
    first: int,
    task_index: np.ndarray,
    fps: float,
    wanted: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """Every column but the images, by feature name; `first` is its first frame's global index.

    task_index: int64 `[T]`, which task of the dataset each frame has
    """
    steps = np.arange(len(episode))
    success = np.zeros(len(episode), bool)
    success[-1] = bool(episode.success)
    columns: dict[str, Any] = {
        STATE: np.asarray(episode.proprio, np.float32),
        ACTION: np.asarray(episode.actions, np.float32),
        SUCCESS: success,
        **_extras(episode),
        "timestamp": (steps / fps).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full(len(episode), index),
        "index": first + steps,
        "task_index": task_index,
    }
    return {key: np.asarray(columns[key]) for key in wanted if key in columns}


def table(episode: Episode, columns: Mapping[str, np.ndarray], schema: pa.Schema) -> pa.Table:
    """The whole data file; images become PNG."""
    arrays = [_array(field, columns, episode) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(field: pa.Field, columns: Mapping[str, np.ndarray], episode: Episode) -> pa.Array:
    if field.type == layout.IMAGE_TYPE:
        camera = field.name.removeprefix(IMAGE_PREFIX)
        encoded = episode.depth.get(camera)
        if encoded is None:
            encoded = [png.encode(image) for image in episode.images[camera]]
        paths = [f"frame-{k:06d}.png" for k in range(len(encoded))]
        return pa.StructArray.from_arrays(
            [pa.array(encoded, pa.binary()), pa.array(paths)], fields=list(field.type)
        )
    values = columns[field.name]
    if not pa.types.is_fixed_size_list(field.type):
        return pa.array(values.reshape(len(values)), field.type)
    return pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])


def _extras(episode: Episode) -> dict[str, np.ndarray | None]:
    ages = {features.age_key(camera): age for camera, age in episode.ages_ms.items()}
    return {STAMP: episode.stamps_ns, INTERVENTION: episode.intervention, **ages}


def _check_images(episode: Episode, wanted: Mapping[str, Any]) -> None:
    sizes = {name: (*size, 3) for name, size in features.picture_sizes(wanted).items()}
    got = {name: tuple(images.shape[1:]) for name, images in episode.images.items()}
    lengths = {len(images) for images in episode.images.values()} | {len(episode)}
    if got != sizes or len(lengths) > 1:
        raise DatasetError(f"an episode's images must be {sizes} per frame, got {got}")
    _check_depth(episode, wanted)


def _check_depth(episode: Episode, wanted: Mapping[str, Any]) -> None:
    """Raises DatasetError unless each image of other than three channels is what its feature
    says."""
    sizes, known = features.depth_sizes(wanted), features.picture_keys(wanted)
    if set(sizes) != set(episode.depth):
        raise DatasetError(
            f"an episode's depth cameras must be {list(sizes)}, got {list(episode.depth)}"
        )
    for camera, images in episode.depth.items():
        if len(images) != len(episode):
            raise DatasetError(
                f"an episode of {len(episode)} frames has {len(images)} images of {camera}"
            )
        wanted_header = (*sizes[camera], features.channels(wanted[known[camera]]))
        for k, data in enumerate(images):
            header = png.read_header(data)
            if header is None or header[:3] != wanted_header:
                raise DatasetError(
                    f"{episode.source or 'an episode'}, {camera} frame {k}: the image is "
                    f"{header and header[:3]}, wanted {wanted_header} (height, width, channels)"
                )
