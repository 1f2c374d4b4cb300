"""Forward kinematics, self-collision and workspace violations, for many poses at once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nac_ros.robot.geometry import BASE, BodySpec, LinkSpec
from nac_ros.robot.spec import RobotSpec

AXES = "xyz"


class Violation(NamedTuple):
    """The deepest violation of a pose: reason code, depth [m] (negative: none), description."""

    reason: str
    depth: float
    text: str


class CollisionModel:
    """Kinematics and collision geometry of a body; joint positions are `[N, D]`."""

    def __init__(self, spec: RobotSpec, body: BodySpec):
        self._body = body
        self._joints = _JointTransforms(body.links, spec)
        self._frame_index = {link.joint: i + 1 for i, link in enumerate(body.links)} | {BASE: 0}
        self._capsule_ends = np.array([[c.start, c.end] for c in body.capsules]).reshape(-1, 2, 3)
        self._capsule_frames = [self._frame_index[c.link] for c in body.capsules]
        names = [c.name for c in body.capsules]
        pairs = [[names.index(name) for name in pair] for pair in body.pairs]
        self._pairs = np.array(pairs, int).reshape(-1, 2)
        radii = np.array([c.radius for c in body.capsules])
        self._radius_sums = radii[self._pairs].sum(1)
        self._points = np.array([p.xyz for p in body.points]).reshape(-1, 3)
        self._point_frames = [self._frame_index[p.link] for p in body.points]

    def frames(self, positions: np.ndarray) -> np.ndarray:
        """Poses of base and links in the base frame, `[N, L + 1, 4, 4]`."""
        rows = np.asarray(positions, float)
        transforms = self._joints.parent_from_link(rows)
        frames = np.empty((len(rows), transforms.shape[1] + 1, 4, 4))
        frames[:, 0] = np.eye(4)
        for i, link in enumerate(self._body.links):
            frames[:, i + 1] = frames[:, self._frame_index[link.parent]] @ transforms[:, i]
        return frames

    def points(self, positions: np.ndarray) -> np.ndarray:
        """Positions of the body's points in the base frame [m], `[N, P, 3]`."""
        return self._points_in_base(self.frames(positions))

    def worst_violation(self, positions: np.ndarray) -> tuple[np.ndarray, list[Violation]]:
        """Depth [m] of the deepest violation of each pose, `[N]`, negative if there is none, and
        the violation of the worst pose; -inf and [] if the body has nothing to check."""
        frames = self.frames(positions)
        depths = np.concatenate([self._workspace_depths(frames), self._pair_depths(frames)], 1)
        if not depths.shape[1]:
            return np.full(len(depths), -np.inf), []
        row, column = np.unravel_index(depths.argmax(), depths.shape)
        return depths.max(1), [self._violation(int(column), float(depths[row, column]))]

    def _points_in_base(self, frames: np.ndarray) -> np.ndarray:
        return _transform(frames[:, self._point_frames], self._points[:, None])[:, :, 0]

    def _workspace_depths(self, frames: np.ndarray) -> np.ndarray:
        """How far each point is beyond each of the six faces of the workspace, `[N, P * 6]`."""
        box = self._body.workspace
        if box is None:
            return np.empty((len(frames), 0))
        points = self._points_in_base(frames)
        beyond = np.concatenate([np.array(box.low) - points, points - np.array(box.high)], -1)
        return beyond.reshape(len(frames), -1)

    def _pair_depths(self, frames: np.ndarray) -> np.ndarray:
        """Penetration depth of the two capsules of each pair, `[N, pairs]`."""
        if not len(self._pairs):
            return np.empty((len(frames), 0))
        ends = _transform(frames[:, self._capsule_frames], self._capsule_ends)  # [N, C, 2, 3]
        first, second = ends[:, self._pairs[:, 0]], ends[:, self._pairs[:, 1]]
        return self._radius_sums - _segment_distances(first, second)

    def _violation(self, column: int, depth: float) -> Violation:
        n_faces = 6 * len(self._points)
        if column < n_faces:
            point, face = self._body.points[column // 6], column % 6
            side = f"{'below' if face < 3 else 'above'} the workspace in {AXES[face % 3]}"
            return Violation("workspace", depth, f"{point.name} {depth:.3f} m {side}")
        first, second = self._body.pairs[column - n_faces]
        return Violation("self_collision", depth, f"{first} {depth:.3f} m into {second}")


class _JointTransforms:
    """Pose of every link in its parent's frame, for given joint positions."""

    def __init__(self, links: Sequence[LinkSpec], spec: RobotSpec):
        self._columns = [spec.joint_names.index(link.joint) for link in links]
        self._revolute = np.array([link.kind == "revolute" for link in links])
        self._axes = np.array([link.axis for link in links], float).reshape(-1, 3)
        self._cross = np.array([_cross_matrix(axis) for axis in self._axes]).reshape(-1, 3, 3)
        self._fixed = np.tile(np.eye(4), (len(links), 1, 1))
        for pose, link in zip(self._fixed, links):
            axes = map(_cross_matrix, np.eye(3))
            roll, pitch, yaw = (_rotation(axis, angle) for axis, angle in zip(axes, link.rpy))
            pose[:3, :3], pose[:3, 3] = yaw @ pitch @ roll, link.xyz

    def parent_from_link(self, positions: np.ndarray) -> np.ndarray:
        """Joint positions `[N, D]` -> `[N, L, 4, 4]`."""
        values = positions[:, self._columns]  # [N, L]
        poses = np.zeros((*values.shape, 4, 4))
        poses[..., :3, :3] = _rotation(self._cross, (values * self._revolute)[..., None, None])
        poses[..., :3, 3] = (values * ~self._revolute)[..., None] * self._axes
        poses[..., 3, 3] = 1
        return self._fixed @ poses


def _cross_matrix(axis: np.ndarray) -> np.ndarray:
    """The matrix `[3, 3]` of the cross product with `axis`."""
    x, y, z = axis
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def _rotation(cross: np.ndarray, angles: np.ndarray | float) -> np.ndarray:
    """Rotation by `angles` [rad] about the axis with cross matrix `cross` (Rodrigues' formula)."""
    return np.eye(3) + np.sin(angles) * cross + (1 - np.cos(angles)) * (cross @ cross)


def _transform(frames: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points `[C, K, 3]` in frames `[N, C, 4, 4]` -> points in the base frame `[N, C, K, 3]`."""
    rotated = np.einsum("ncij,ckj->ncki", frames[..., :3, :3], points)
    return rotated + frames[..., None, :3, 3]


def _segment_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Smallest distances between segments `[..., 2, 3]`."""
    # Ericson, Real-Time Collision Detection (2005), 5.1.9: s and t in 0 .. 1 are the places of the
    # nearest points. s of the infinite lines is clamped, then t for that s; if t had to be
    # clamped, s is computed again for that t. A segment of length 0 is a point.
    p, q = first[..., 0, :], second[..., 0, :]
    u, v = first[..., 1, :] - p, second[..., 1, :] - q
    w = p - q
    a, b, c = _dot(u, u), _dot(u, v), _dot(v, v)
    d, e = _dot(u, w), _dot(v, w)
    span = a * c - b * b  # 0 for parallel segments
    s = np.clip(np.divide(b * e - c * d, span, out=np.zeros_like(span), where=span > 1e-12), 0, 1)
    t = np.divide(b * s + e, c, out=np.zeros_like(c), where=c > 1e-12)
    clamped_t = np.clip(t, 0, 1)
    s_again = np.divide(b * clamped_t - d, a, out=np.zeros_like(a), where=a > 1e-12)
    s = np.where(t == clamped_t, s, np.clip(s_again, 0, 1))
    return np.linalg.norm(w + s[..., None] * u - clamped_t[..., None] * v, axis=-1)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1)
