"""Chessmen and a chessboard: meshes from profiles, collision shapes, and the board's texture."""

import numpy as np

from nac_ros.simulation.bodies import BOX, CYLINDER, HIDDEN, SPHERE, VISUAL
from nac_ros.simulation.rendering import mujoco

SQUARE = 0.032  # edge [m]
FOOT = 0.006  # height of a piece's foot [m]
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
SHAFT_RADIUS = {"pawn": 4.6, "rook": 7.2, "queen": 5.0, "king": 5.4}  # [mm]
MASSES = {"pawn": 0.018, "rook": 0.026, "queen": 0.032, "king": 0.036}  # [kg], weighted wood


def add_meshes(scene: "mujoco.MjSpec") -> None:
    """Adds one mesh per kind of piece, named like it."""
    for kind, profile in PROFILES.items():
        _add_turned_mesh(scene, kind, np.array(profile, float) / 1000)


def _add_turned_mesh(scene: "mujoco.MjSpec", name: str, rings: np.ndarray, n: int = 20) -> None:
    """A closed mesh: radii and heights `[rings, 2]` [m], upwards, rotated about z in `n` steps."""
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
    """Triangles that face outwards: between the rings, at the bottom and at the top."""
    faces, bottom, top = [], n_rings * n, n_rings * n + 1
    for k in range(n):
        after = (k + 1) % n
        for ring in range(n_rings - 1):
            a, b = ring * n + k, ring * n + after
            faces += [(a, b, b + n), (a, b + n, a + n)]
        last = (n_rings - 1) * n
        faces += [(bottom, after, k), (top, last + k, last + after)]
    return faces


def add_piece(scene: "mujoco.MjSpec", name: str, kind: str, colour) -> None:
    """Adds a piece on a free joint, with its frame in the middle of its base.

    The mesh is only drawn. The collision shapes are a square foot, which rests on four points, and
    a round shaft, which cannot flip between the fingers as a polygon would.
    """
    piece = scene.worldbody.add_body(name=name)
    piece.add_freejoint(name=name)
    half = (PROFILES[kind][-1][1] / 1000 - FOOT) / 2
    for part, shape, size, middle, share in (
        ("foot", BOX, (0.0085, 0.0085, FOOT / 2), FOOT / 2, 0.7),
        ("shaft", CYLINDER, (SHAFT_RADIUS[kind] / 1000, half, 0), FOOT + half, 0.3),
    ):
        geom = piece.add_geom(name=f"{name}_{part}", type=shape, size=size, **HIDDEN)
        geom.pos, geom.mass = (0, 0, middle), share * MASSES[kind]
        geom.condim, geom.friction, geom.solref = 4, (1.2, 0.02, 0.0005), (0.006, 1)
    mesh = piece.add_geom(name=f"{name}_turned", type=mujoco.mjtGeom.mjGEOM_MESH, **VISUAL)
    mesh.meshname, mesh.rgba = kind, colour
    for index, (shape, size, position) in enumerate(_ornaments(kind)):
        geom = piece.add_geom(name=f"{name}_finial_{index}", type=shape, **VISUAL)
        geom.size, geom.pos, geom.rgba = size, position, colour


def _ornaments(kind: str) -> list[tuple[int, tuple[float, float, float], tuple[float, ...]]]:
    """Shape, size and position of parts without rotational symmetry: the rook's battlements, the
    queen's points and ball, the king's cross."""
    if kind == "king":
        arms = ((0.0014, 0.0014, 0.0055), (0.0014, 0.0042, 0.0014))
        return [(BOX, size, (0, 0, 0.069)) for size in arms]
    if kind == "rook":
        angles = np.pi / 4 * np.arange(0, 8, 2)
        positions = [(0.0085 * np.cos(a), 0.0085 * np.sin(a), 0.0395) for a in angles]
        return [(BOX, (0.0024, 0.0024, 0.0021), position) for position in positions]
    if kind == "queen":
        angles = np.pi / 4 * np.arange(8)
        positions = [(0.0088 * np.cos(a), 0.0088 * np.sin(a), 0.0548) for a in angles]
        crown = [(SPHERE, (0.0019, 0, 0), position) for position in positions]
        return [*crown, (SPHERE, (0.003, 0, 0), (0, 0, 0.0595))]
    return []


def add_board(scene: "mujoco.MjSpec", name: str, x: float, y: float) -> None:
    """Adds a board as a mocap body, which physics does not move; its frame is below its middle."""
    texture = scene.add_texture(name="squares", type=mujoco.mjtTexture.mjTEXTURE_2D)
    texture.builtin = mujoco.mjtBuiltin.mjBUILTIN_CHECKER
    texture.width, texture.height = 64, 64
    texture.rgb1, texture.rgb2 = (0.87, 0.74, 0.53), (0.5, 0.3, 0.17)
    squares = scene.add_material(name="squares", texuniform=False, texrepeat=(4, 4))
    squares.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "squares"
    board = scene.worldbody.add_body(name=name, pos=(x, y, 0), mocap=True)
    size, middle = (HALF_BOARD, HALF_BOARD, THICK / 2), (0, 0, THICK / 2)
    board.add_geom(name=name, type=BOX, size=size, pos=middle, rgba=WALNUT)
    top = board.add_geom(name=f"{name}_squares", type=BOX, material="squares", **VISUAL)
    top.size, top.pos = (4 * SQUARE, 4 * SQUARE, 0.0003), (0, 0, THICK)
