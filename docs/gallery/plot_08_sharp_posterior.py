r"""
8. The probability of an image, and why the posterior is remarkably sharp
=========================================================================

*Lecture: "Probabilities, another way to compare images", "The probability of orientations is remarkably
sharp".*

If the noise of every pixel is Gaussian, the probability of seeing image *X* when the reference is *R* is a
product over its *J* pixels,

.. math::

   P(X|R) = \prod_j \frac{1}{\sqrt{2\pi}\sigma} e^{-(X_j - R_j)^2/2\sigma^2} = c e^{-\|X - R\|^2/2\sigma^2}

and Bayes' theorem turns it into a probability of poses :math:`\phi`, with :math:`R = C\mathbf{P}_\phi V`:

.. math:: \Gamma(\phi) = P(\phi|X, V) = \frac{P(X|V,\phi)}{\int P(X|V,\phi)\,d\phi}

A product of thousands of factors, each hardly different from one, is a very decided thing. No single pixel
knows the pose. All together do.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import Normalize

from posterion import FourierVolume, Particles, SimulationOptions, phantom_map, posterior, read_map, simulate
from posterion.physics.rotations import angular_distance_deg
from posterion.physics.simulate import noise_free_images
from posterion.report.figures import draw_image, draw_scale_bar
from posterion.report.sphere import draw_peak, draw_sphere

box, pixel_size = 64, 2.8

# %%
# One pixel, and all of them
# --------------------------
#
# A particle whose signal has a twentieth of the noise's variance. The right reference and a wrong one differ
# at each pixel by less than the noise does. The log-probability in favour of the right one, added up pixel by
# pixel in random order, is a random walk with a small drift. The drift wins.

options = SimulationOptions(n_particles=40, snr=0.05, shift_sd_angstrom=3.0, dtype="float32", seed=5)
folder = tempfile.TemporaryDirectory()
made = simulate([phantom_map(box, pixel_size)], pixel_size, Path(folder.name) / "set", options)
particles = Particles.read(made.truth_path)
images = particles.images()
volume = FourierVolume.from_map(read_map(made.map_paths[0])[0])

chosen = 7
everyone = np.zeros(len(particles), np.int32)
right = noise_free_images([volume], everyone, particles, np.array([chosen]))[0]
turned = replace(particles.poses, psi_deg_i=particles.poses.psi_deg_i + 10.0)
wrong = noise_free_images([volume], everyone, replace(particles, poses=turned), np.array([chosen]))[0]
gain = ((images[chosen] - wrong) ** 2 - (images[chosen] - right) ** 2) / 2
order = np.random.default_rng(0).permutation(gain.size)

figure, axes = plt.subplots(1, 4, figsize=(13, 3.3), layout="constrained", width_ratios=(1, 1, 1, 1.8))
draw_image(axes[0], images[chosen], "X: one image")
draw_image(axes[1], right, "R at the true pose")
draw_image(axes[2], wrong, "R turned by 10°")
draw_scale_bar(axes[1], box, pixel_size)
axes[3].plot(np.cumsum(gain.ravel()[order]), color="#2c7fb8")
axes[3].axhline(0, color="#8a8a8a", linewidth=0.7)
axes[3].set(xlabel="pixels added up", ylabel=r"$\ln P(X|R) - \ln P(X|R_{10°})$")
total = f"all {gain.size} pixels {gain.sum():.1f}"
print(f"nats: one pixel at most {np.abs(gain).max():.2f}, {total}")

# %%
# The posterior over all poses
# ----------------------------
#
# Now the same comparison for every pose of a complete grid: 3,072 viewing directions, 96 in-plane angles, and
# shifts. Left, the probability of each viewing direction on the sphere, on a logarithmic scale from 1 down to
# :math:`e^{-40}`; right the surroundings of the peak on a linear one. This is the lecture's figure.

gamma = posterior(particles[chosen], volume, order=4, shift_range_px=2.0)
weights = gamma.direction_weights
# sphinx_gallery_thumbnail_number = 2
figure, axes = plt.subplots(1, 2, figsize=(12, 5.2), layout="constrained", width_ratios=(2.3, 1))
nats = np.log(np.maximum(weights, 1e-300) / weights.max())
drawn = draw_sphere(axes[0], np.maximum(nats, -40), Normalize(-40, 0))
bar = figure.colorbar(drawn, ax=axes[0], orientation="horizontal", shrink=0.6, pad=0.03, aspect=30)
bar.set_label("ln P below its peak (nats)")
draw_peak(axes[1], weights)
error = angular_distance_deg(gamma.best[0], particles.poses.matrices()[chosen])
print(f"{gamma.weight_dqt.size:,} poses scored, with {len(gamma.matrices):,} orientations")
print(f"{gamma.effective_orientations:.1f} orientations in effect")
print(f"the most probable pose is {error:.1f} degrees from the true one; the grid's step is 3.75 degrees")

# %%
# How sharp it is depends on noise and resolution
# -----------------------------------------------
#
# The drift of the random walk is :math:`\|R - R'\|^2/2\sigma^2`: it grows with the square of the signal and
# with every shell of frequencies that is compared. Below, the effective number of orientations, the
# exponential of the entropy of :math:`\Gamma`, the median of four particles. At 60 Å, where only the outline
# of the particle is compared, thousands of orientations explain it about as well. At 20 Å a hundred are left
# in the strongest noise, and a single one where the signal has a tenth of the noise's variance.

images_per_point = 4
snrs = (0.01, 0.03, 0.1, 0.3)
resolutions = (60.0, 40.0, 30.0, 20.0)
effective = np.zeros((len(snrs), len(resolutions)))
for row, snr in enumerate(snrs):
    noisier = replace(options, snr=snr, n_particles=images_per_point)
    made = simulate([phantom_map(box, pixel_size)], pixel_size, Path(folder.name) / f"snr{snr}", noisier)
    few, truth = Particles.read(made.truth_path), FourierVolume.from_map(read_map(made.map_paths[0])[0])
    for column, resolution in enumerate(resolutions):
        posteriors = [
            posterior(few[i], truth, order=3, resolution_angstrom=resolution, shift_range_px=2.0)
            for i in range(images_per_point)
        ]
        effective[row, column] = np.median([g.effective_orientations for g in posteriors])
cells = len(posteriors[0].matrices)
folder.cleanup()

figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
for resolution, counts, color in zip(
    resolutions, effective.T, ("#9ecae1", "#4292c6", "#08519c", "#08306b"), strict=True
):
    axis.plot(snrs, counts, "o-", color=color, label=f"compared to {resolution:g} Å")
axis.axhline(cells, color="#8a8a8a", linestyle=":", linewidth=1)
axis.text(
    snrs[0], 0.8 * cells, f"all {cells:,} orientations of the grid", fontsize=9, va="top", color="#555555"
)
axis.set(
    xscale="log",
    yscale="log",
    xlabel="signal-to-noise ratio (variances)",
    ylabel="effective number of orientations",
)
axis.set_xticks(snrs, [f"{snr:g}" for snr in snrs])
axis.minorticks_off()
axis.legend(frameon=False, loc="lower left")
