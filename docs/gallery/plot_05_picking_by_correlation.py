r"""
5. Correlation and particle picking
===================================

*Lecture: "Correlation and particle picking".*

Before anything can be averaged, the particles have to be found. The correlation of a template *t* with a
micrograph *X*, at every position at once,

.. math:: c(x) = \sum_y t(y)\, X(x + y) \quad\rightarrow\quad T^*(k)\, X(k)

is a convolution with the mirrored template and so, by the theorem of page 1, one product in Fourier space.
Two refinements make a detector of it. The template is seen through the microscope as well, *C T*; and where
the noise has power *P*, dividing by *P* makes every frequency count as much as it knows:

.. math:: c = \mathcal{F}^{-1}\left\{ \frac{C\,T^*\, X}{P} \right\}

Over its own standard deviation on noise this is a score whose unit is the noise. A threshold then follows
from how often noise alone would pass it. This is what ``posterion pick`` does, with a template for every
direction and in-plane angle.
"""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

from posterion import FourierVolume, OpticsGroup, phantom_map
from posterion.micrographs.picking import Picker, PickOptions
from posterion.micrographs.simulation import simulate_micrograph
from posterion.micrographs.templates import map_templates
from posterion.physics.ctf import contrast_transfer
from posterion.physics.fourier import inverse_fourier_transform_2d
from posterion.physics.rotations import matrices_from_euler
from posterion.report.figures import draw_image, draw_scale_bar

# %%
# A micrograph with known particles
# ---------------------------------
#
# 110 particles in random orientations, none nearer than 170 Å to another, in ice, at 1.8 µm defocus.

pixel_size, diameter, edge = 3.0, 150.0, 1024
rng = np.random.default_rng(12)
density = phantom_map(64, pixel_size)
centres = np.empty((0, 2), int)
while len(centres) < 110:
    candidate = rng.integers(40, edge - 40, 2)
    if not len(centres) or np.hypot(*(centres - candidate).T).min() > 170 / pixel_size:
        centres = np.vstack([centres, candidate])
angles = rng.uniform(0, 360, (3, len(centres)))
angles[1] = np.degrees(np.arccos(rng.uniform(-1, 1, len(centres))))
projections = inverse_fourier_transform_2d(
    FourierVolume.from_map(density).project(matrices_from_euler(*angles)), 64
)
field = np.zeros((edge, edge), np.float32)
for (x, y), projection in zip(centres, projections, strict=True):
    field[y - 32 : y + 32, x - 32 : x + 32] += projection

optics = OpticsGroup("one", 300.0, 2.7, 0.1, pixel_size, 64)
defocus = 18000.0, 17500.0, 30.0
micrograph = simulate_micrograph(
    (edge, edge), optics, defocus, density=0.55 * field / projections.std(), seed=3
)


def ctf_of_micrograph(fx, fy):
    """The micrograph's CTF at any frequencies, positive at low resolution."""
    microscope = {"voltage_kv": 300.0, "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1}
    fx, fy = np.broadcast_arrays(fx, fy)
    return contrast_transfer(fx.ravel(), fy.ravel(), *([d] for d in defocus), **microscope).reshape(fx.shape)


# %%
# Templates, and the search
# -------------------------
#
# The templates are projections of the map cut off at 25 Å, in all directions and in-plane angles.

options = PickOptions(diameter_angstrom=diameter, lowpass_angstrom=25.0, false_positives=1.0)
bank = map_templates(density, pixel_size, options.search_pixel_angstrom, diameter, options.lowpass)
picks = Picker(bank, options).pick(micrograph, pixel_size, ctf_of_micrograph)

distance = np.hypot(centres[:, :1] - picks.x_px_i, centres[:, 1:] - picks.y_px_i) * pixel_size
found = distance.min(axis=1) < 40
right = distance.min(axis=0) < 40
print(
    f"{len(bank.images_r)} stored templates; threshold {picks.threshold:.1f} standard deviations of the noise"
)
print(f"{len(picks)} picks, {right.sum()} of them right; {found.sum()} of {len(centres)} particles found")

figure, axes = plt.subplots(1, 2, figsize=(13, 6.7), layout="constrained")
draw_image(axes[0], micrograph, "micrograph")
draw_scale_bar(axes[0], edge, pixel_size)
draw_image(axes[1], -picks.reduced.values_yx, "contrast inverted; circles: picks, crosses: true centres")
step = picks.reduced.step_px[0]
for x, y, good in zip(picks.x_px_i, picks.y_px_i, right, strict=True):
    circle = plt.Circle((x / step, y / step), diameter / 2 / pixel_size / step, fill=False, linewidth=1.4)
    circle.set_edgecolor("#31d17c" if good else "#ff5533")
    axes[1].add_patch(circle)
axes[1].plot(*(centres.T / step), "x", color="#ffd23f", markersize=6)

# %%
# Scores
# ------
#
# All peaks above 4, by whether a particle is there. The threshold was set so that one peak of pure noise is
# expected in a micrograph of this size: the noise it is found from has the micrograph's own spectrum and CTF.

all_peaks = Picker(bank, replace(options, threshold=4.0)).pick(micrograph, pixel_size, ctf_of_micrograph)
away = np.hypot(centres[:, :1] - all_peaks.x_px_i, centres[:, 1:] - all_peaks.y_px_i).min(axis=0) * pixel_size
figure, axis = plt.subplots(figsize=(8, 3.4), layout="constrained")
bins = np.arange(4.0, all_peaks.best_score + 0.2, 0.1)
groups = [all_peaks.score_i[away < 40], all_peaks.score_i[away >= 40]]
axis.hist(groups, bins, stacked=True, color=["#2c7fb8", "#c0392b"], label=["a particle", "noise"])
axis.axvline(picks.threshold, color="#111111", linestyle=":", label="threshold")
axis.set(xlabel="score (standard deviations of the noise)", ylabel="peaks", xlim=(4, bins[-1]))
axis.legend(frameon=False)
