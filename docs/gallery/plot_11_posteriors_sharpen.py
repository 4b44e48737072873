r"""
11. Orientation distributions sharpen over iterations
=====================================================

*Lecture: "Reconstruction: on the first EM iteration, angle assignments mainly arise from geometry",
"Iteration 14, near convergence: distributions are becoming sharp".*

A refinement starts from a map without detail. Against it an image fits nearly as well in many orientations:
:math:`\Gamma_i(\phi)` is broad, and what shape it has comes from the outline of the particle. Each iteration
uses these broad weights to make a slightly better map, against which the next weights are narrower:

.. math:: \Gamma_i^{(n)}(\phi) = \frac{P(X_i|V^{(n)},\phi)}{\int P(X_i|V^{(n)},\phi)\,d\phi}

Here we run the library's own gold-standard refinement, one step at a time, and look at the distributions of
single images along the way.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import Normalize

from posterion import (
    FourierVolume,
    Particles,
    RefineOptions,
    SimulationOptions,
    phantom_map,
    posterior,
    read_map,
    simulate,
)
from posterion.compute import Workers
from posterion.mapping.masks import low_pass
from posterion.physics.rotations import angular_distance_deg
from posterion.physics.sampling import RotationGrid
from posterion.refine.auto_refine import step
from posterion.refine.inputs import prepare
from posterion.refine.start import init
from posterion.report.sphere import draw_sphere

# %%
# Eight iterations from 60 Å
# --------------------------

box, pixel_size, diameter = 48, 3.7, 150.0
options = SimulationOptions(n_particles=300, snr=0.1, shift_sd_angstrom=4.0, dtype="float32", seed=11)
folder = tempfile.TemporaryDirectory()
made = simulate([phantom_map(box, pixel_size)], pixel_size, Path(folder.name) / "set", options)
truth, _ = read_map(made.map_paths[0])
true_matrices = Particles.read(made.truth_path).poses.matrices()
particles = Particles.read(made.particles_path)

asked = RefineOptions(initial_lowpass_angstrom=60.0, seed=1)
inputs = prepare(particles, low_pass(truth, 60.0, pixel_size), diameter, asked)
references, estimates, infos = [], [], []
with Workers(2) as workers:
    context = inputs.context(workers)
    state, _ = init(context, inputs.reference)
    for _ in range(8):
        references.append(state.half_maps)
        state, info, _ = step(context, state)
        estimates.append(state.particles)
        infos.append(info)

# %%
# One image
# ---------
#
# The probability of each viewing direction of one image, given the map that an iteration started from;
# logarithmic, from the peak (bright) down to :math:`e^{-25}`.

chosen = int(np.argsort(estimates[0].effective_orientations)[150])
half = int(inputs.half_i[chosen]) - 1
figure, axes = plt.subplots(2, 2, figsize=(14, 8), layout="constrained")
for axis, number in zip(axes.flat, (1, 2, 3, 8), strict=True):
    volume = FourierVolume.from_map(references[number - 1][half])
    resolution = max(infos[number - 1].compared_to_angstrom, 20.0)
    comparison = {"diameter_angstrom": diameter, "resolution_angstrom": resolution, "shift_range_px": 2.0}
    gamma = posterior(particles[chosen], volume, **comparison)
    weights = gamma.direction_weights
    nats = np.log(np.maximum(weights, 1e-300) / weights.max())
    drawn = draw_sphere(axis, np.maximum(nats, -25), Normalize(-25, 0))
    name = f"iteration {number}, compared to {resolution:.0f} Å"
    axis.set_title(f"{name}: {gamma.effective_orientations:,.0f} orientations in effect", fontsize=11)
bar = figure.colorbar(drawn, ax=axes, shrink=0.6, pad=0.02)
bar.set_label("ln P below its peak (nats)")
folder.cleanup()

# %%
# All images
# ----------
#
# Left, the share of all orientations that an image cannot tell apart: the effective number
# :math:`\exp(-\sum_r \Gamma_r \ln \Gamma_r)` over the number in the grid of that iteration. Right, how far
# the mean orientation of each posterior is from the truth. As the map gains detail the distributions narrow
# by orders of magnitude, and the errors follow.

figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
iteration = np.arange(1, len(infos) + 1)
effective = np.array([e.effective_orientations for e in estimates])
grids = [RotationGrid(round(np.log2(60 / info.angular_step_deg)), np.eye(3)) for info in infos]
share = 100 * effective / np.array([[grid.n_directions * grid.n_psi] for grid in grids])
errors = np.array([angular_distance_deg(e.matrices, true_matrices) for e in estimates])
for axis, values, label in (
    (axes[0], share, "% of all orientations"),
    (axes[1], errors, "angle to the true pose (degrees)"),
):
    low, middle, high = np.percentile(values, (10, 50, 90), axis=1)
    axis.fill_between(iteration, low, high, color="#9ecae1", label="10 to 90 % of the images")
    axis.plot(iteration, middle, "o-", color="#08519c", label="median")
    axis.set(xlabel="iteration", ylabel=label, yscale="log")
axes[0].legend(frameon=False)
print("iteration  compared to  grid step  orientations in effect  median error")
for info, counts, error in zip(infos, effective, errors, strict=True):
    grid = f"{info.compared_to_angstrom:9.1f} Å  {info.angular_step_deg:8.2f}°"
    print(f"{info.iteration:9d}  {grid}  {np.median(counts):22.1f}  {np.median(error):11.1f}°")
