r"""
9. The likelihood, and expectation-maximisation
===============================================

*Lecture: "The Likelihood", "We know how to compute the likelihood", "The E-M algorithm finds a local maximum
of the likelihood".*

Instead of one best pose per image, sum over all of them. The likelihood of a volume is the probability of the
whole stack,

.. math:: L = \sum_i \ln \int P(X_i | V, \phi)\, d\phi

and the E-M iteration never lowers it:

.. math::

   V^{(n+1)} = \frac{\sum_i \int \Gamma_i^{(n)}(\phi)\, \mathbf{P}_\phi^T C_i X_i \, d\phi}
   {\frac{\sigma^2}{T\tau^2} + \sum_i \int \Gamma_i^{(n)}(\phi)\, \mathbf{P}_\phi^T C_i^2 \, d\phi}

The E-step evaluates :math:`\Gamma_i(\phi)`, the posterior of page 8, for each image; the M-step is the Wiener
filter with :math:`\Gamma` as weights. The denominator's first term is the prior on the volume, so what never
falls is :math:`L` plus the log-prior. This holds for a fixed noise variance :math:`\sigma^2`, a fixed prior
:math:`\tau^2` and a fixed grid of poses. Here all three are fixed; the real refinement re-estimates them, so
its L may step.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from posterion import FourierVolume, Particles, SimulationOptions, phantom_map, read_map, simulate
from posterion.compute import Workers
from posterion.inference.exhaustive import SharedGrid
from posterion.inference.expectation import expect_batch
from posterion.inference.images import NoiseModel, prepare_images
from posterion.inference.priors import PosePrior
from posterion.inference.search import Level, SearchPlan
from posterion.inference.slice_sums import insert_slices
from posterion.mapping.fsc import fourier_shell_correlation, shell_frequencies
from posterion.mapping.masks import low_pass
from posterion.mapping.reconstruct import HalfSums
from posterion.physics.projection import Accumulator
from posterion.report.figures import draw_image, draw_scale_bar

# %%
# 100 noisy images, compared up to 20 Å on one grid of 4,608 orientations times 13 shifts, all of which are
# scored for every image.

box, pixel_size, radius = 32, 5.6, 9
options = SimulationOptions(n_particles=100, snr=0.4, shift_sd_angstrom=3.0, dtype="float32", seed=9)
with tempfile.TemporaryDirectory() as folder:
    made = simulate([phantom_map(box, pixel_size)], pixel_size, Path(folder) / "set", options)
    particles = Particles.read(made.truth_path)
    images = particles.images()
    truth, _ = read_map(made.map_paths[0])

one_group = np.zeros(len(particles), np.int32)
# sigma2: noise of variance 1 per pixel
noise = NoiseModel(np.full((1, box // 2 + 1), float(box**2)), one_group, np.ones(1), one_group)
unshifted = np.zeros((len(particles), 2))
batch = prepare_images(particles, np.arange(len(particles)), images, radius, 3.0 * box, noise, unshifted)
plan = SearchPlan(
    levels=(Level(order=2, radius=radius, shift_step_px=1.0),),
    shift_range_px=2.0,
    margin_nats=np.inf,
    max_rotations=10**9,
    point_group="C1",
    grid_offset=np.eye(3),
    prior=PosePrior.uniform(offset_sigma_px=1.0),
)

# %%
# Ten iterations, from the truth blurred to 70 Å
# ----------------------------------------------
#
# The prior on the volume is a half of the weights of the first iteration, and the same in all iterations. Its
# log is :math:`-\frac{1}{2}\sum_k |V(k)|^2/T\tau^2(k)`.

volume = FourierVolume.from_map(low_pass(truth, 70.0, pixel_size), radius)
maps, log_likelihood, log_prior, orientations = [], [], [], []
regularisation = None
for _ in range(10):
    part = expect_batch(batch, volume, plan, SharedGrid.of(volume, plan), previous=None)  # E-step
    accumulator = Accumulator(box, radius)
    insert_slices(part.sums, accumulator, batch.pixels)
    with Workers(2) as workers:
        sums = HalfSums.from_accumulator(accumulator, "C1", workers)
    if regularisation is None:
        regularisation = 0.5 * sums.shell_weight()  # sigma2 / (T tau2), fixed from here on
    log_likelihood.append(part.log_likelihood_i.sum())
    log_prior.append(sums.log_prior(volume, regularisation))
    orientations.append(np.median(part.effective_orientations_i))
    maps.append(sums.solve(regularisation))  # M-step
    volume = FourierVolume.from_map(maps[-1], radius)

objective = np.array(log_likelihood) + np.array(log_prior)
gains = ", ".join(f"{gain:.1f}" for gain in np.diff(objective))
print("gain of L + log-prior in each iteration, nats:")
print(gains)
print("never lower:", bool((np.diff(objective) > 0).all()))

# %%
# What one sees
# -------------
#
# The likelihood rises steeply at first, then hardly any more, and never falls. At the start every image is
# compatible with dozens of orientations, because nothing but a blurred blob is there to be compared with;
# as the map gains detail the posteriors narrow, which sharpens the map. That the height grows says nothing
# about whether the summit is the right one: the algorithm climbs to the nearest maximum, and the starting map
# decides which that is.

figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
iteration = np.arange(len(objective))
axes[0].plot(iteration, objective - objective[0], "o-", color="#111111", label="L + log-prior: never falls")
axes[0].plot(
    iteration,
    np.array(log_likelihood) - log_likelihood[0],
    "s--",
    color="#2c7fb8",
    label="L alone",
    markersize=4,
)
axes[0].set(xlabel="iterations done", ylabel="above the start (nats)")
axes[0].legend(frameon=False, loc="lower right")
axes[1].plot(iteration, orientations, "o-", color="#e6872e")
axes[1].set(xlabel="iterations done", ylabel="effective number of orientations", yscale="log")
frequency = shell_frequencies(box, pixel_size)
for number, color in ((1, "#9ecae1"), (3, "#4292c6"), (10, "#08306b")):
    fsc = fourier_shell_correlation(maps[number - 1], truth)
    axes[2].plot(frequency[1 : radius + 1], fsc[1 : radius + 1], color=color, label=f"iteration {number}")
axes[2].set(xlabel="spatial frequency (1/Å)", ylabel="correlation with the truth", ylim=(0, 1.03))
axes[2].legend(frameon=False, loc="lower left")

# %%

figure, axes = plt.subplots(1, 5, figsize=(13, 3), layout="constrained")
draw_image(axes[0], low_pass(truth, 70.0, pixel_size)[box // 2], "start: section")
for axis, number in zip(axes[1:4], (1, 3, 10), strict=True):
    draw_image(axis, maps[number - 1][box // 2], f"iteration {number}")
draw_image(axes[4], low_pass(truth, box * pixel_size / radius, pixel_size)[box // 2], "truth, to 20 Å")
draw_scale_bar(axes[0], box, pixel_size)
