"""Search for the CTF whose rings fit: all defoci and astigmatisms on a grid, then a simplex from the best."""

from __future__ import annotations

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from posterion.micrographs.ctf_rings import CtfParameters, Rings

__all__ = ["coarse_search", "refine_ctf"]

Array = NDArray[np.float64]

_DEFOCUS_STEP = 100.0
_ASTIGMATISMS = (0.0, 200.0, 400.0, 800.0, 1200.0, 1600.0, 2400.0, 3200.0, 4800.0)
_AZIMUTH_STEP_DEG = 15.0
_PHASE_STEP_DEG = 10.0
_ANGSTROM_PER_DEGREE = 50.0  # the simplex is as long along the phase shift as along the defocus
_ENVELOPE_ROUNDS = 3


def coarse_search(
    rings: Rings, defocus_range_angstrom: tuple[float, float], fit_phase: bool
) -> CtfParameters:
    """Find the best of all defoci (100 A apart), U - V to 4,800 A, azimuths (15 degrees) and phase shifts.

    Each sector is correlated with all defoci once; an astigmatic CTF then only looks up, in each sector, the
    defocus that it has there.

    Parameters
    ----------
    rings : Rings
        Measured rings with a guessed envelope.
    defocus_range_angstrom : (float, float)
        Mean defoci to try.
    fit_phase : bool
        Try phase shifts from 0 to 170 degrees, 10 apart; else 0 only.
    """
    low, high = defocus_range_angstrom
    defocus_d = np.arange(low, high + _DEFOCUS_STEP / 2, _DEFOCUS_STEP)
    phases = np.arange(0, 180, _PHASE_STEP_DEG) if fit_phase else np.zeros(1)
    best, best_score = CtfParameters(low, low, 0.0), -np.inf
    for phase in phases.tolist():
        product_da, square_da = _sector_correlations(rings, defocus_d, phase)
        for astigmatism in _ASTIGMATISMS:
            for azimuth in np.arange(0, 180, _AZIMUTH_STEP_DEG) if astigmatism else (0.0,):
                angle_a = np.radians(rings.spectrum.azimuth_deg_a - azimuth)
                offset_a = np.rint(astigmatism / 2 * np.cos(2 * angle_a) / _DEFOCUS_STEP).astype(int)
                lookup_da = np.clip(np.arange(len(defocus_d))[:, None] + offset_a, 0, len(defocus_d) - 1)
                product_d = np.take_along_axis(product_da, lookup_da, 0).sum(1)
                square_d = np.take_along_axis(square_da, lookup_da, 0).sum(1)
                score_d = product_d / np.sqrt(np.maximum(square_d, 1e-30))
                if (score := score_d.max()) > best_score:
                    mean, best_score = float(defocus_d[score_d.argmax()]), score
                    best = CtfParameters(
                        mean + astigmatism / 2, mean - astigmatism / 2, float(azimuth), phase
                    )
    return best


def _sector_correlations(rings: Rings, defocus_d: Array, phase_shift_deg: float) -> tuple[Array, Array]:
    """Products of each sector's measured rings with the model of each defocus (d, a); the model's squares."""
    frequency_s = rings.spectrum.frequency_s
    zero = np.zeros_like(frequency_s)
    ctf_ds = rings.optics.ctf_of_many(frequency_s, zero, (defocus_d, defocus_d, 0.0), phase_shift_deg)
    model_ds = rings.without_background(2 * ctf_ds**2 - 1)[:, rings.band] * rings.envelope_s
    return model_ds @ (rings.count_as * rings.measured_as).T, model_ds**2 @ rings.count_as.T


def refine_ctf(rings: Rings, start: CtfParameters, fit_phase: bool) -> tuple[CtfParameters, Rings]:
    """Maximise the correlation about a start, three times, with the rings' envelope measured in between.

    Nelder-Mead over the mean defocus, (U - V) cos 2 angle, (U - V) sin 2 angle and, if asked for, the phase
    shift: smooth coordinates, also where there is no astigmatism.

    Returns
    -------
    parameters : CtfParameters
        U >= V, angle in (-90, 90].
    rings : Rings
        With the envelope that was measured last.
    """
    parameters = start
    for _ in range(_ENVELOPE_ROUNDS):
        rings = rings.with_envelope_of(parameters)
        parameters = _maximised(rings, parameters, fit_phase)
    return parameters, rings


def _maximised(rings: Rings, start: CtfParameters, fit_phase: bool) -> CtfParameters:
    size = 4 if fit_phase else 3
    steps = np.array([100.0, 100.0, 100.0, 10.0 * _ANGSTROM_PER_DEGREE])[:size]
    first = _coordinates(start)[:size]
    result = scipy.optimize.minimize(
        lambda x: -rings.correlation(_parameters(x, start.phase_shift_deg)),
        first,
        method="Nelder-Mead",
        options={
            "initial_simplex": np.vstack([first, first + np.diag(steps)]),
            "xatol": 0.5,
            "fatol": 1e-7,
            "maxfev": 500,
        },
    )
    return _parameters(result.x, start.phase_shift_deg)


def _coordinates(parameters: CtfParameters) -> Array:
    astigmatism = parameters.defocus_u_angstrom - parameters.defocus_v_angstrom
    double = np.radians(2 * parameters.defocus_angle_deg)
    phase = parameters.phase_shift_deg * _ANGSTROM_PER_DEGREE
    mean = parameters.mean_defocus_angstrom
    return np.array([mean, astigmatism * np.cos(double), astigmatism * np.sin(double), phase])


def _parameters(x: Array, phase_shift_deg: float) -> CtfParameters:
    half = np.hypot(x[1], x[2]) / 2
    angle = np.degrees(np.arctan2(x[2], x[1])) / 2
    phase = x[3] / _ANGSTROM_PER_DEGREE % 180 if len(x) > 3 else phase_shift_deg
    return CtfParameters(float(x[0] + half), float(x[0] - half), float(angle), float(phase))
