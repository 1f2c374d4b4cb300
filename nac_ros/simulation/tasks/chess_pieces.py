"""Meshes made by rule: profiles that are turned about an axis."""

from collections.abc import Sequence

import numpy as np

from nac_ros.simulation.rendering import mujoco


def add_turned(
    scene: "mujoco.MjSpec", name: str, profile: Sequence[tuple[float, float]], n: int = 20
) -> None:
    """A mesh called `name`: the profile, (radius, height) [m] upwards, turned about z in n steps.

    Both ends are closed; between rings the surface is shaded smoothly.
    """
    rings = np.asarray(profile, float)
    angles = 2 * np.pi * np.arange(n) / n
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # [n, 2]
    around = rings[:, None, :1] * circle  # [rings, n, 2]
    heights = np.broadcast_to(rings[:, None, 1:], (len(rings), n, 1))
    vertices = np.concatenate([around, heights], axis=2).reshape(-1, 3)
    ends = [[0, 0, rings[0, 1]], [0, 0, rings[-1, 1]]]
    mesh = scene.add_mesh(name=name)
    mesh.uservert = np.concatenate([vertices, ends]).ravel()
    mesh.userface = np.array(_faces(len(rings), n)).ravel()


def _faces(n_rings: int, n: int) -> list[tuple[int, int, int]]:
    """Triangles that face outwards, rings first, then the bottom and the top."""
    faces, bottom, top = [], n_rings * n, n_rings * n + 1
    for k in range(n):
        after = (k + 1) % n
        for ring in range(n_rings - 1):
            a, b = ring * n + k, ring * n + after
            faces += [(a, b, b + n), (a, b + n, a + n)]
        last = (n_rings - 1) * n
        faces += [(bottom, after, k), (top, last + k, last + after)]
    return faces


SQUARE = 0.032  # edge [m]
FOOT = 0.006  # height of a man's foot [m]
THICK = 0.012  # of the board [m]
HALF_BOARD = 4 * SQUARE + 0.012  # with its frame [m]
IVORY, EBONY = (0.93, 0.88, 0.76, 1), (0.13, 0.11, 0.12, 1)
WALNUT = (0.36, 0.2, 0.1, 1)
# Profiles from the base up: radius and height in mm.
_FOOT = ((11, 0), (11.5, 2.5), (10, 4.5), (10, 6.5))
PROFILES = {
    "pawn": (
        *_FOOT, (6, 9), (4.2, 17), (4, 20), (6.4, 21.5), (6.4, 22.5), (4, 24), (6, 26.5),
        (6.6, 29.5), (6, 32.5), (3, 35), (0.5, 35.6),
    ),
    "rook": (
        *_FOOT, (8, 9), (7, 14), (7, 25), (7.4, 28), (10, 31), (10, 38), (7, 38), (7, 35.5),
        (0.5, 35.4),
    ),
    "queen": (
        *_FOOT, (7.5, 10), (5, 19), (4.6, 33), (5, 38), (8.4, 39.5), (8.4, 41), (5.4, 42.5),
        (6.5, 47), (9.5, 54), (8, 54.6), (4, 57), (0.5, 58),
    ),
    "king": (
        *_FOOT, (8, 10), (5.5, 20), (5, 36), (5.4, 42), (9, 43.5), (9, 45.5), (6, 47),
        (7.4, 54), (9, 60), (6, 62.5), (0.5, 64),
    ),
}  # fmt: skip
WAISTS = {"pawn": 4.6, "rook": 7.2, "queen": 5.0, "king": 5.4}  # radius of the shaft [mm]
MASSES = {"pawn": 0.018, "rook": 0.026, "queen": 0.032, "king": 0.036}  # [kg], weighted wood


def height(kind: str) -> float:
    """Of a man without its finial [m]."""
    return PROFILES[kind][-1][1] / 1000


def add_shapes(scene: "mujoco.MjSpec") -> None:
    """The meshes of all kinds of men."""
    for kind, profile in PROFILES.items():
        add_turned(scene, kind, [(r / 1000, z / 1000) for r, z in profile])


def add_man(scene: "mujoco.MjSpec", name: str, kind: str, colour) -> None:
    """A man on a free joint; its frame is in the middle of its base.

    It is seen as the turned shape and felt as a square foot and a round shaft: a flat foot
    stands on four points, and a round shaft cannot flip between the sides of the fingers.
    """
    man = scene.worldbody.add_body(name=name)
    man.add_freejoint(name=name)
    box, cylinder, mass = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER, MASSES[kind]
    half = (height(kind) - FOOT) / 2
    for part, shape, size, middle, weight in (
        ("foot", box, (0.0085, 0.0085, FOOT / 2), FOOT / 2, 0.7 * mass),
        ("shaft", cylinder, (WAISTS[kind] / 1000, half, 0), FOOT + half, 0.3 * mass),
    ):
        man.add_geom(
            name=f"{name}_{part}", type=shape, size=size, pos=(0, 0, middle), mass=weight,
            condim=4, friction=(1.2, 0.02, 0.0005), solref=(0.006, 1), rgba=(0, 0, 0, 0), group=3,
        )  # fmt: skip
    man.add_geom(
        name=f"{name}_turned", type=mujoco.mjtGeom.mjGEOM_MESH, meshname=kind, rgba=colour,
        mass=0, contype=0, conaffinity=0,
    )  # fmt: skip
    for index, (shape, size, place) in enumerate(_finial(kind)):
        man.add_geom(
            name=f"{name}_finial_{index}", type=shape, size=size, pos=place, rgba=colour,
            mass=0, contype=0, conaffinity=0,
        )  # fmt: skip


def _finial(kind: str) -> list[tuple[int, tuple[float, float, float], tuple[float, ...]]]:
    """What cannot be turned: battlements, the queen's points and ball, the king's cross."""
    box, ball = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_SPHERE
    if kind == "king":
        arms = ((0.0014, 0.0014, 0.0055), (0.0014, 0.0042, 0.0014))
        return [(box, size, (0, 0, 0.069)) for size in arms]
    if kind == "rook":
        angles = np.pi / 4 * np.arange(0, 8, 2)
        place = [(0.0085 * np.cos(a), 0.0085 * np.sin(a), 0.0395) for a in angles]
        return [(box, (0.0024, 0.0024, 0.0021), where) for where in place]
    if kind == "queen":
        angles = np.pi / 4 * np.arange(8)
        points = [(0.0088 * np.cos(a), 0.0088 * np.sin(a), 0.0548) for a in angles]
        crown = [(ball, (0.0019, 0, 0), where) for where in points]
        return [*crown, (ball, (0.003, 0, 0), (0, 0, 0.0595))]
    return []


def add_board(scene: "mujoco.MjSpec", name: str, x: float, y: float) -> None:
    """A board that physics does not move (a mocap body); its frame is in its middle, below."""
    scene.add_texture(
        name="squares", type=mujoco.mjtTexture.mjTEXTURE_2D, width=64, height=64,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=(0.87, 0.74, 0.53), rgb2=(0.5, 0.3, 0.17),
    )  # fmt: skip
    squares = scene.add_material(name="squares", texuniform=False, texrepeat=(4, 4))
    squares.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "squares"
    board = scene.worldbody.add_body(name=name, pos=(x, y, 0), mocap=True)
    board.add_geom(
        name=name, type=mujoco.mjtGeom.mjGEOM_BOX, size=(HALF_BOARD, HALF_BOARD, THICK / 2),
        pos=(0, 0, THICK / 2), rgba=WALNUT,
    )  # fmt: skip
    board.add_geom(
        name=f"{name}_squares", type=mujoco.mjtGeom.mjGEOM_BOX, material="squares",
        size=(4 * SQUARE, 4 * SQUARE, 0.0003), pos=(0, 0, THICK), mass=0, contype=0,
        conaffinity=0,
    )  # fmt: skip
