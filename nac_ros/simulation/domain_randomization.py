"""Domain randomization: ranges of start poses, light, colours and camera poses per trial."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from nac_ros.core import config
from nac_ros.core.config import check_fields, number_field
from nac_ros.simulation.rendering import mujoco


@dataclass(frozen=True, kw_only=True)
class DomainRandomization:
    """Ranges from which every trial draws its scene; the defaults are the nominal scene.

    start_share: share of each start pose's spread that is used; 0 = every object at its mark
    light: largest relative change of each lamp's brightness
    light_shift_m: largest shift of each lamp along each axis
    colour: largest relative change of red, green and blue of everything but the arm
    camera_shift_m, camera_turn_rad: largest shift along and turn about each axis of each camera
    """

    start_share: float = number_field(1.0, 0.0, 1.0)
    light: float = number_field(0.0, 0.0, 0.9)
    light_shift_m: float = number_field(0.0, 0.0, 1.0)
    colour: float = number_field(0.0, 0.0, 0.9)
    camera_shift_m: float = number_field(0.0, 0.0, 0.1)
    camera_turn_rad: float = number_field(0.0, 0.0, 0.3)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def keeps_appearance(self) -> bool:
        """Whether light, colours and cameras stay nominal."""
        return all(getattr(self, f.name) == 0 for f in fields(self) if f.name != "start_share")


NOMINAL = DomainRandomization()


def list_randomizations() -> list[str]:
    """Names of the files in config/randomization, without `.yaml`."""
    return config.list_names("randomization")


def load_randomization(name_or_path: str | Path) -> DomainRandomization:
    """Reads config/randomization/<name>.yaml, or the YAML file at the given path.

    Raises UnknownName and ConfigError.
    """
    return config.load_named("randomization", name_or_path, DomainRandomization, "randomization")


class SceneAppearance:
    """Colours, lamps and cameras of a compiled scene: what rendering needs besides physics."""

    def __init__(self, model: "mujoco.MjModel", recoloured: np.ndarray):
        """recoloured: ids of the geoms whose colours are randomized"""
        self._model = model
        head = model.vis.headlight
        colours = [model.geom_rgba, model.mat_rgba, model.flex_rgba]
        lights = [head.ambient, head.diffuse, model.light_diffuse, model.light_pos]
        self._arrays = [*colours, *lights, model.cam_pos, model.cam_quat]
        self._geoms = recoloured
        self._materials = np.setdiff1d(
            np.append(model.geom_matid[recoloured], model.flex_matid), [-1]
        )
        self._nominal = self.values()

    def values(self) -> np.ndarray:
        """All arrays as one vector, float64."""
        return np.concatenate([np.ravel(array) for array in self._arrays]).astype(np.float64)

    def set_values(self, values: np.ndarray) -> None:
        """Sets the scene to a vector from `values`."""
        begin = 0
        for array in self._arrays:
            array[...] = values[begin : begin + array.size].reshape(array.shape)
            begin += array.size

    def randomize(self, ranges: DomainRandomization, rng: np.random.Generator) -> None:
        """Draws an appearance around the nominal one."""
        self.set_values(self._nominal)
        if not ranges.keeps_appearance:
            self._randomize_colours(ranges.colour, rng)
            self._randomize_lights(ranges, rng)
            self._randomize_cameras(ranges, rng)

    def _randomize_colours(self, share: float, rng: np.random.Generator) -> None:
        model = self._model
        for colours, rows in (
            (model.geom_rgba, self._geoms),
            (model.mat_rgba, self._materials),
            (model.flex_rgba, np.arange(model.nflex)),
        ):
            factors = rng.uniform(1 - share, 1 + share, (len(rows), 3))
            colours[rows, :3] = np.clip(colours[rows, :3] * factors, 0, 1)

    def _randomize_lights(self, ranges: DomainRandomization, rng: np.random.Generator) -> None:
        model, head = self._model, self._model.vis.headlight
        share, shift = ranges.light, ranges.light_shift_m
        brightness = rng.uniform(1 - share, 1 + share, model.nlight + 1)
        head.ambient *= brightness[0]
        head.diffuse *= brightness[0]
        model.light_diffuse *= brightness[1:, None]
        model.light_pos += rng.uniform(-shift, shift, model.light_pos.shape)

    def _randomize_cameras(self, ranges: DomainRandomization, rng: np.random.Generator) -> None:
        model, shift, turn = self._model, ranges.camera_shift_m, ranges.camera_turn_rad
        model.cam_pos += rng.uniform(-shift, shift, model.cam_pos.shape)
        for quat, rotation in zip(model.cam_quat, rng.uniform(-turn, turn, (model.ncam, 3))):
            mujoco.mju_quatIntegrate(quat, rotation, 1.0)
