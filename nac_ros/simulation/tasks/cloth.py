"""A rectangular cloth: a MuJoCo flex on a grid of vertices, stiff along its edges.

Edges that cannot stretch are constraints; elastic ones (elastic2d) were unstable at 2 ms as soon
as one vertex was lifted. 9 x 5 vertices run 8 times faster than real time.
"""

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import HIDDEN
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.scene import TOOL_OFFSET
from nac_ros.simulation.tasks.base import StartPose

THICKNESS = 0.003  # radius of the vertices, half of the drawn thickness [m]
MASS = 0.05  # [kg], terry of 24 x 12 cm at 1.7 kg/m^2
BED = 4  # contact bit that only the cloth and the plane below it have
FIELD, STRIPE = (46, 110, 178), (240, 240, 236)  # RGB
DRAG = 0.002  # of the air on a vertex [N s/m]
CELL, _DENSE = 0.004, 10  # cells in which overlap is measured [m], samples per edge of the grid


def add_cloth(
    scene: "mujoco.MjSpec", start: StartPose, shape: tuple[int, int], spacing: float, holder: str
) -> None:
    """Adds the cloth, flat at its start pose, and for each vertex a connection to the tool.

    shape: vertices along and across; spacing: between them [m]; holder: body that has the tool
    """
    bed = scene.worldbody.add_geom(
        name=f"{start.name}_bed", type=mujoco.mjtGeom.mjGEOM_PLANE, size=(0.5, 0.5, 0.1), **HIDDEN
    )
    bed.contype = bed.conaffinity = BED
    cloth = mujoco.MjSpec.from_string(_flexcomp(start, shape, spacing))
    terry = cloth.texture("terry")
    terry.builtin, terry.data = mujoco.mjtBuiltin.mjBUILTIN_NONE, _stripes().tobytes()
    scene.attach(cloth, frame=scene.worldbody.add_frame(), prefix="")
    for vertex in range(shape[0] * shape[1]):
        name = f"{start.name}_{vertex}"
        connection = scene.add_equality(name=name, type=mujoco.mjtEq.mjEQ_CONNECT, active=False)
        connection.objtype = mujoco.mjtObj.mjOBJ_BODY
        connection.name1, connection.name2, connection.solref = name, holder, (0.03, 1)


def _flexcomp(start: StartPose, shape: tuple[int, int], spacing: float) -> str:
    """MJCF, the only way to describe a flex on a grid."""
    along, across = shape
    return f"""<mujoco><compiler angle="radian"/>
    <asset><texture name="terry" type="2d" builtin="flat" width="256" height="64"/>
      <material name="terry" texture="terry" specular="0.1" shininess="0.1"/></asset>
    <worldbody>
      <body name="{start.name}" pos="{start.x} {start.y} {1.2 * THICKNESS}"
        euler="0 0 {start.yaw}">
        <flexcomp name="{start.name}" type="grid" dim="2" count="{along} {across} 1"
          spacing="{spacing} {spacing} {spacing}" mass="{MASS}" radius="{THICKNESS}"
          material="terry">
          <edge equality="true" solref="0.01 1"/>
          <elasticity young="3e4" poisson="0.2" thickness="3e-3" damping="0.01" elastic2d="bend"/>
          <contact selfcollide="none" contype="{BED}" conaffinity="{BED}" condim="3"
            friction="1 0.01 0.001" solref="0.01 1"/>
        </flexcomp></body></worldbody></mujoco>"""


def _stripes() -> np.ndarray:
    """Texture uint8 `[64, 256, 3]` with three stripes at both ends, so that both halves match."""
    cloth = np.full((64, 256, 3), FIELD, np.uint8)
    for begin, width in ((16, 6), (28, 14), (48, 6)):
        cloth[:, begin : begin + width] = cloth[:, 256 - begin - width : 256 - begin] = STRIPE
    return cloth


class Cloth:
    """The cloth in one compiled model: positions of its vertices, and the vertex that is held."""

    def __init__(
        self,
        model: "mujoco.MjModel",
        data: "mujoco.MjData",
        name: str,
        shape: tuple[int, int],
        arm: SimulatedArm,
    ) -> None:
        self._data, self._shape, self._arm, n = data, shape, arm, shape[0] * shape[1]
        bodies = [model.body(f"{name}_{vertex}") for vertex in range(n)]
        joints = np.array([body.jntadr[0] for body in bodies])[:, None] + np.arange(3)
        self._qpos, self._dofs = model.jnt_qposadr[joints], model.jnt_dofadr[joints]  # [n, 3]
        model.dof_damping[self._dofs] = DRAG
        self._connections = np.array(
            [model.equality(f"{name}_{vertex}").id for vertex in range(n)]
        )
        model.eq_data[self._connections, :6] = (0, 0, 0, *TOOL_OFFSET)  # vertex and tool
        flex = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_FLEX, name)
        self._first = model.flex_vertadr[flex]
        self._origin, axes = model.body(name).pos.copy(), np.zeros(9)
        mujoco.mju_quat2Mat(axes, model.body(name).quat)
        self._axes = axes.reshape(3, 3)
        self._flat = np.array([body.pos for body in bodies])  # in the cloth's frame [n, 3]

    def points(self) -> np.ndarray:
        """The vertices in the world [m], `[along, across, 3]`."""
        first = self._first
        vertices = self._data.flexvert_xpos[first : first + len(self._connections)]
        return vertices.reshape(*self._shape, 3).copy()

    def set_points(self, points: np.ndarray) -> None:
        """Puts the vertices at `points` `[along, across, 3]` [m], at rest and released."""
        local = (points.reshape(-1, 3) - self._origin) @ self._axes
        self._data.qpos[self._qpos] = local - self._flat
        self._data.qvel[self._dofs] = 0
        self.release()

    def set_flat(self, shift: np.ndarray, turn: float) -> None:
        """Puts it flat on the table, moved from its mark by `shift` `[2]` [m] and `turn` [rad]."""
        cos, sin = np.cos(turn), np.sin(turn)
        rotation = self._axes @ [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]
        self.set_points(self._origin + np.append(shift, 0) + self._flat @ rotation.T)

    def held_vertex(self) -> int | None:
        """The vertex that is connected to the tool."""
        held = np.flatnonzero(self._data.eq_active[self._connections])
        return int(held[0]) if len(held) else None

    def grasp(self, distance: float) -> None:
        """Connects the vertex nearest to the tool, if it is within `distance` [m]."""
        tool = self._arm.tool_position()
        distances = np.linalg.norm(self.points().reshape(-1, 3) - tool, axis=1)
        if distances.min() < distance:
            self._data.eq_active[self._connections[distances.argmin()]] = True

    def release(self) -> None:
        """Disconnects all vertices from the tool."""
        self._data.eq_active[self._connections] = False

    def speed(self) -> float:
        """Largest velocity of any vertex along any axis [m/s]."""
        return float(np.abs(self._data.qvel[self._dofs]).max())

    def overlap(self) -> float:
        """Area that both halves cover, seen from above, as a share of one flat half."""
        points, middle = self.points()[..., :2], self._shape[0] // 2
        shared = np.intersect1d(
            _covered_cells(points[: middle + 1]), _covered_cells(points[middle:])
        )
        half = np.ptp(self._flat[:, 0]) * np.ptp(self._flat[:, 1]) / 2
        return float(len(shared) * CELL**2 / half)


def _covered_cells(points: np.ndarray) -> np.ndarray:
    """Cells of the table below a grid of points `[rows, columns, 2]`, as sorted numbers."""
    # Each face of the grid is sampled bilinearly at _DENSE x _DENSE points between its corners.
    u, v = np.meshgrid(*2 * [(np.arange(_DENSE) + 0.5) / _DENSE])
    weights = np.stack([(1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v])
    corners = np.stack([points[:-1, :-1], points[:-1, 1:], points[1:, :-1], points[1:, 1:]])
    inside = np.einsum("krcd,kuv->rcuvd", corners, weights)
    x, y = np.moveaxis(np.floor(inside / CELL).astype(np.int64), -1, 0)
    return np.unique(x * 100_003 + y)  # one number per cell
