"""How scenes differ from trial to trial beside their start places: light, colours, cameras."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from nac_ros.core import config
from nac_ros.core.config import bounded, check_bounds, config_dir
from nac_ros.core.errors import UnknownName
from nac_ros.simulation.rendering import mujoco


@dataclass(frozen=True, kw_only=True)
class DomainRandomization:
    """Ranges of a scene, drawn anew for every trial; the defaults are the nominal scene.

    start_share: of each start place's spread that is used; 0 = every object on its mark
    light: share by which each lamp is brighter or darker at most
    light_shift_m: how far each lamp is moved along each axis at most
    colour: share by which red, green and blue of each part but the arm's change at most
    camera_shift_m, camera_turn_rad: along and about each axis of each camera at most
    """

    start_share: float = bounded(1.0, 0.0, 1.0)
    light: float = bounded(0.0, 0.0, 0.9)
    light_shift_m: float = bounded(0.0, 0.0, 1.0)
    colour: float = bounded(0.0, 0.0, 0.9)
    camera_shift_m: float = bounded(0.0, 0.0, 0.1)
    camera_turn_rad: float = bounded(0.0, 0.0, 0.3)

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def plain(self) -> bool:
        """Whether scenes look as their files describe them."""
        return all(getattr(self, f.name) == 0 for f in fields(self) if f.name != "start_share")


NOMINAL = DomainRandomization()


def list_variations() -> list[str]:
    """Names of the variations in config/scenes, without `.yaml`."""
    return sorted(path.stem for path in (config_dir() / "scenes").glob("*.yaml"))


def load_variation(name_or_path: str | Path) -> DomainRandomization:
    """The variation called so in config/scenes, or described by the YAML file at that path.

    Raises UnknownName and ConfigError.
    """
    path = Path(name_or_path)
    if path.suffix != ".yaml":
        path = config_dir() / "scenes" / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(list_variations())
        raise UnknownName(f"unknown scenes '{name_or_path}'; known are: {known}")
    return config.build(DomainRandomization, config.load_yaml(path), path.name)


class SceneAppearance:
    """What a compiled scene looks like: its colours, lamps and cameras, apart from the physics."""

    def __init__(self, model: "mujoco.MjModel", painted: np.ndarray):
        """painted: ids of the geoms whose colours vary"""
        self._model = model
        head = model.vis.headlight
        self._arrays = [
            model.geom_rgba, model.mat_rgba, model.flex_rgba, head.ambient, head.diffuse,
            model.light_diffuse, model.light_pos, model.cam_pos, model.cam_quat,
        ]  # fmt: skip
        self._painted = painted
        self._materials = np.setdiff1d(
            np.append(model.geom_matid[painted], model.flex_matid), [-1]
        )
        self._nominal = self.values()

    def values(self) -> np.ndarray:
        """All of it as one vector, float64."""
        return np.concatenate([np.ravel(array) for array in self._arrays]).astype(np.float64)

    def show(self, values: np.ndarray) -> None:
        """Makes the scene look as it did when `values` was taken."""
        begin = 0
        for array in self._arrays:
            array[...] = values[begin : begin + array.size].reshape(array.shape)
            begin += array.size

    def vary(self, variation: DomainRandomization, rng: np.random.Generator) -> None:
        """Another look within the ranges, drawn around the nominal one."""
        self.show(self._nominal)
        if not variation.plain:
            self._paint(variation.colour, rng)
            self._light(variation, rng)
            self._move_cameras(variation, rng)

    def _paint(self, share: float, rng: np.random.Generator) -> None:
        model = self._model
        for colours, rows in (
            (model.geom_rgba, self._painted),
            (model.mat_rgba, self._materials),
            (model.flex_rgba, np.arange(model.nflex)),
        ):
            factors = rng.uniform(1 - share, 1 + share, (len(rows), 3))
            colours[rows, :3] = np.clip(colours[rows, :3] * factors, 0, 1)

    def _light(self, variation: DomainRandomization, rng: np.random.Generator) -> None:
        model, head = self._model, self._model.vis.headlight
        share, shift = variation.light, variation.light_shift_m
        brightness = rng.uniform(1 - share, 1 + share, model.nlight + 1)
        head.ambient *= brightness[0]
        head.diffuse *= brightness[0]
        model.light_diffuse *= brightness[1:, None]
        model.light_pos += rng.uniform(-shift, shift, model.light_pos.shape)

    def _move_cameras(self, variation: DomainRandomization, rng: np.random.Generator) -> None:
        model, shift, turn = self._model, variation.camera_shift_m, variation.camera_turn_rad
        model.cam_pos += rng.uniform(-shift, shift, model.cam_pos.shape)
        for quat, turned in zip(model.cam_quat, rng.uniform(-turn, turn, (model.ncam, 3))):
            mujoco.mju_quatIntegrate(quat, turned, 1.0)
