"""Rotations: RELION's Euler angles, matrices, rotation vectors and distances; no file formats here."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

__all__ = [
    "angular_distance_deg",
    "euler_from_matrices",
    "matrices_from_euler",
    "matrices_from_rotation_vectors",
    "rotation_vectors_from_matrices",
    "trace_of_angle",
]

Float = NDArray[np.float64]


def matrices_from_euler(rot_deg: ArrayLike, tilt_deg: ArrayLike, psi_deg: ArrayLike) -> Float:
    """Compute ``R = Rz(psi) Ry(tilt) Rz(rot)``, which maps volume to image coordinates (RELION's convention).

    RELION's ``Rz`` and ``Ry`` rotate the axes, so each is the transpose of the textbook's active rotation.

    Parameters
    ----------
    rot_deg, tilt_deg, psi_deg : (n,) float, degrees

    Returns
    -------
    (n, 3, 3) float64; rows act on column vectors ordered (x, y, z).
    """
    angles = np.radians(np.stack(np.broadcast_arrays(rot_deg, tilt_deg, psi_deg), -1).astype(np.float64))
    ca, cb, cg = np.moveaxis(np.cos(angles), -1, 0)
    sa, sb, sg = np.moveaxis(np.sin(angles), -1, 0)
    rows = [
        [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
        [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
        [sb * ca, sb * sa, cb],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def euler_from_matrices(matrices: Float) -> tuple[Float, Float, Float]:
    """Recover (rot, tilt, psi) in degrees, tilt in [0, 180]; at the poles psi is 0 and rot takes all.

    Parameters
    ----------
    matrices : (n, 3, 3) float64
    """
    m = np.asarray(matrices, np.float64)
    sin_tilt = np.hypot(m[..., 2, 0], m[..., 2, 1])
    tilt = np.arctan2(sin_tilt, m[..., 2, 2])
    pole = sin_tilt < 1e-9
    rot_at_pole = np.arctan2(m[..., 0, 1] * np.sign(m[..., 2, 2]), m[..., 1, 1])
    rot = np.where(pole, rot_at_pole, np.arctan2(m[..., 2, 1], m[..., 2, 0]))
    psi = np.where(pole, 0.0, np.arctan2(m[..., 1, 2], -m[..., 0, 2]))
    return np.degrees(rot), np.degrees(tilt), np.degrees(psi)


def matrices_from_rotation_vectors(vectors: Float) -> Float:
    """Rodrigues: (n, 3) rotation vectors in radians to (n, 3, 3) active rotation matrices."""
    return Rotation.from_rotvec(np.asarray(vectors, np.float64)).as_matrix()  # type: ignore[no-any-return]


def rotation_vectors_from_matrices(matrices: Float) -> Float:
    """Invert `matrices_from_rotation_vectors`: (n, 3, 3) to (n, 3), radians, length at most pi."""
    return Rotation.from_matrix(np.asarray(matrices, np.float64)).as_rotvec()  # type: ignore[no-any-return]


def trace_of_angle(angle_deg: float) -> float:
    """Trace of a rotation by an angle, ``1 + 2 cos``; those by smaller angles have larger ones."""
    return float(1 + 2 * np.cos(np.radians(angle_deg)))


def angular_distance_deg(a: Float, b: Float) -> Float:
    """Angle of the rotation ``a b^T``, degrees; (..., 3, 3) each, broadcast."""
    relative = np.asarray(a) @ np.swapaxes(np.asarray(b), -1, -2)
    # Through the sine half-angle: arccos of the trace loses all digits near zero.
    squared = np.sum((relative - np.eye(3)) ** 2, axis=(-2, -1))
    return np.degrees(2 * np.arcsin(np.minimum(np.sqrt(squared / 8.0), 1.0)))  # type: ignore[no-any-return]
