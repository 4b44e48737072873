"""How well slices explain an image: Gaussian log-probability and correlation coefficient, same sums."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Score", "cross_and_norm", "gaussian_log_prob", "profile_log_prob"]

Real = NDArray[np.float32]
Score = Callable[[Real, Real], Real]


def cross_and_norm(
    slices_rp: NDArray[np.complex64], whitened_tp: NDArray[np.complex64], ctf2_p: Real
) -> tuple[Real, Real]:
    """Compute the two inner products that every comparison of an image with slices is made of.

    ``cross_tr = sum_p Re(conj(slice_rp) whitened_tp)`` and ``norm_r = sum_p ctf2_p |slice_rp|^2``: (L)
    "various ways to compare images" with R = C P V. Both are matrix products.

    Parameters
    ----------
    slices_rp : (R, P) complex64
    whitened_tp : (T, P) complex64, ``w C y / sigma2`` at T shifts (or images times shifts)
    ctf2_p : (P,) or (I, P) float32, ``w C^2 / sigma2``

    Returns
    -------
    cross_tr : (T, R) float32
    norm_r : (R,) or (I, R) float32
    """
    parts = slices_rp.view(np.float32)
    cross_tr = whitened_tp.view(np.float32) @ parts.T
    norm_r = ctf2_p @ (slices_rp.real**2 + slices_rp.imag**2).T
    return cross_tr, norm_r


def gaussian_log_prob(cross: Real, norm: Real) -> Real:
    """Compute ``log P(X | V, phi) = X.R / sigma2 - |R|^2 / (2 sigma2)``, up to the image's own constant (L).

    Parameters
    ----------
    cross, norm : broadcastable float32, see `cross_and_norm`
    """
    return cross - 0.5 * norm


def profile_log_prob(cross: Real, norm: Real) -> Real:
    """Compute ``(X.R)^2 / (2 |R|^2 sigma2)`` for X.R > 0: the correlation coefficient as a log-probability.

    It is the Gaussian log-probability maximised over the intensity of the image, so it orders poses exactly
    as ``CC = X.R / (|X| |R|)`` does (FREALIGN, (L)), and margins in nats keep their meaning. Negative
    correlations score minus the same amount.

    Parameters
    ----------
    cross, norm : broadcastable float32, see `cross_and_norm`
    """
    return np.asarray(cross * np.abs(cross) / (2 * np.maximum(norm, np.float32(1e-20))))
