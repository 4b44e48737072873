"""Say in words what the poses of a set back-project to: a structure, noise, or inverted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from posterion.compute import NullProgress, StageProgress
from posterion.data.particles import Particles
from posterion.report.findings import Finding, Level
from posterion.report.pose_trials import PoseTrial, pose_trials, standard_errors

__all__ = ["check_poses"]

_SIGNIFICANT = 5.0
"""Standard errors from which a preference of the images is believed."""
_BETTER = 0.1
"""Share of its gain by which another reading has to beat the written one."""
_BLURRED = 0.1
"""Share of another reading's gain from which the written one is called a blurred structure, not noise."""
_FEWEST, _MANY = 8, 100
"""Images below which nothing is said of poses, and from which on noise is not for want of images."""


def check_poses(
    particles: Particles,
    indices: NDArray[np.int64],
    point_group: str = "C1",
    progress: StageProgress = NullProgress,
) -> list[Finding]:
    """Back-project images with their poses and say in words what comes out.

    Each image is compared with the projection of the other half's map at its own rotation and at another
    image's (a blob in the middle explains both), and under other readings of the same numbers.

    Parameters
    ----------
    particles : set with poses, one box and one pixel size
    indices : (n,) images to use
    point_group : symmetry
    progress : shows how far it is
    """
    if len(indices) < _FEWEST:
        text = f"fewer than {_FEWEST} usable images: too few to judge their poses"
        return [Finding("structure", "note", text)]
    written, *others = trials = pose_trials(particles, indices, point_group, progress)
    best = max(others, key=lambda trial: trial.score)
    if _is_better(best, written):
        level, message = _other_reading(written, best)
    elif written.significance < _SIGNIFICANT:
        level, message = _noise(written)
    else:
        level, message = _structure(written)
    values: dict[str, float | str] = {trial.name: round(trial.score, 4) for trial in trials}
    values |= {
        "shuffled": round(written.shuffled_score, 4),
        "significance": round(written.significance, 1),
        "resolution_angstrom": round(written.resolution_angstrom, 2),
        "skewness": round(written.skewness, 3),
    }
    return [Finding("structure", level, message, values=values)]


def _is_better(best: PoseTrial, written: PoseTrial) -> bool:
    """Tell whether another reading explains the images better: image by image, and by enough to matter."""
    return (
        best.significance > _SIGNIFICANT
        and standard_errors(best.cc_i - written.cc_i) > _SIGNIFICANT
        and best.score - written.score > _BETTER * max(written.gain, 0.0)
    )


def _other_reading(written: PoseTrial, best: PoseTrial) -> tuple[Level, str]:
    what = "a blurred structure" if written.gain > _BLURRED * best.gain else "noise"
    return "problem", (
        f"the poses as written give {what} (mean correlation {written.score:.3f}), but {best.name} give "
        f"{best.score:.3f}: the file was written in another convention than its columns' names say"
    )


def _noise(written: PoseTrial) -> tuple[Level, str]:
    n = len(written.cc_i)
    text = (
        f"{n} images fit the map from the file's poses no better at their own rotation (mean correlation "
        f"{written.score:.3f}) than at another image's ({written.shuffled_score:.3f})"
    )
    if n < _MANY:
        return "note", f"cannot tell: {text}, but these are few images"
    return "problem", f"noise: {text}; the poses are not those of these images, or in a convention not tried"


def _structure(written: PoseTrial) -> tuple[Level, str]:
    limit = " or better" if written.is_limited_by_box else ""
    text = (
        f"{len(written.cc_i)} images back-project to a structure ({written.significance:.0f} standard errors "
        f"above noise), halves agree to {written.resolution_angstrom:.1f} A{limit}; hand unknown"
    )
    if written.skewness < 0:
        return "problem", (
            f"inverted: {text}, but it is dark; multiply the images by -1, "
            "for instance with relion_image_handler --multiply_constant -1"
        )
    return "fine", text
