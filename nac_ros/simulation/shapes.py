"""Meshes made by rule: profiles that are turned about an axis."""

from collections.abc import Sequence

import numpy as np

from nac_ros.simulation.gl import mujoco


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
