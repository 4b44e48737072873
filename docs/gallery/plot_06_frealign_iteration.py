r"""
6. The FREALIGN iteration
=========================

*Lecture: "Single-particle reconstruction", "3D reconstruction in FREALIGN—it's like a Wiener filter".*

Each image is a projection of the volume in an unknown direction, seen through the microscope, with noise:

.. math:: X_i = C_i \mathbf{P}_{\phi_i} V + N_i

where :math:`\phi = \{\alpha, \beta, \gamma, t_x, t_y\}`. One iteration takes the volume :math:`V^{(n)}` to
the next:

1. for each image find the pose whose projection :math:`R_i = C_i \mathbf{P}_{\phi_i} V^{(n)}` has the highest
   correlation coefficient :math:`\mathrm{CC} = X_i \cdot R_i / |X_i||R_i|`;
2. with these poses reconstruct

.. math:: V^{(n+1)} = \frac{\sum_i \mathbf{P}_{\phi_i}^T C_i X_i}{k + \sum_i \mathbf{P}_{\phi_i}^T C_i^2}

which is the Wiener filter of page 4 with slices in place of images. As FREALIGN does, images that match worse
than the mean lose their high frequencies in the sum (score weights). The library's refinement has this as
``method="projection-matching"``; a step of it is one call.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from posterion import Particles, RefineOptions, SimulationOptions, phantom_map, read_map, simulate
from posterion.compute import Workers
from posterion.mapping.fsc import fourier_shell_correlation, shell_frequencies
from posterion.mapping.masks import low_pass
from posterion.physics.rotations import angular_distance_deg
from posterion.refine.auto_refine import step
from posterion.refine.inputs import prepare
from posterion.refine.start import init
from posterion.report.figures import draw_image, draw_scale_bar

# %%
# A set with a known answer
# -------------------------
#
# 300 noisy images; the starting map is the truth without anything finer than 40 Å.

box, pixel_size, diameter = 48, 3.7, 140.0
options = SimulationOptions(n_particles=300, snr=0.15, shift_sd_angstrom=4.0, dtype="float32", seed=6)
folder = tempfile.TemporaryDirectory()
made = simulate([phantom_map(box, pixel_size)], pixel_size, Path(folder.name) / "set", options)
truth, _ = read_map(made.map_paths[0])
true_poses = Particles.read(made.truth_path).poses.matrices()
start = low_pass(truth, 40.0, pixel_size)

# %%
# Six iterations
# --------------

asked = RefineOptions(method="projection-matching", initial_lowpass_angstrom=40.0, seed=1)
inputs = prepare(made.particles_path, start, diameter, asked)
maps, errors, rows = [start], [], []
with Workers(2) as workers:
    context = inputs.context(workers)
    state, _ = init(context, inputs.reference)
    for _ in range(6):
        state, info, map_set = step(context, state)
        maps.append(map_set.unfiltered.mean(axis=0))
        errors.append(angular_distance_deg(state.particles.matrices, true_poses))
        rows.append(
            (
                info.iteration,
                info.resolution_angstrom,
                np.median(errors[-1]),
                state.particles.correlation.mean(),
            )
        )
folder.cleanup()

print("iteration  resolution  median angular error  mean CC")
for row in rows:
    print("{:9d}  {:8.1f} Å  {:19.1f}°  {:7.3f}".format(*row))

# %%
# The map sharpens, its correlation with the truth moves out, and most images find their direction in the
# first or second iteration.

shown = {"start": 0, "iteration 1": 1, "iteration 2": 2, "iteration 6": 6}
figure, axes = plt.subplots(2, 5, figsize=(13, 5.5), layout="constrained")
for column, (name, number) in enumerate(shown.items()):
    draw_image(axes[0, column], maps[number][box // 2], f"{name}: section")
    draw_image(axes[1, column], maps[number].sum(axis=0), f"{name}: projection")
draw_image(axes[0, 4], truth[box // 2], "truth: section")
draw_image(axes[1, 4], truth.sum(axis=0), "truth: projection")
draw_scale_bar(axes[0, 0], box, pixel_size)

# %%
# Left, each map against the truth. Right, how far the found poses are from the true ones; a good start leaves
# few images lost on the far side.

# sphinx_gallery_thumbnail_number = 2
figure, axes = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
frequency = shell_frequencies(box, pixel_size)
colors = plt.get_cmap("viridis_r")(np.linspace(0.1, 0.95, len(maps)))
for number, (volume, color) in enumerate(zip(maps, colors, strict=True)):
    fsc = fourier_shell_correlation(volume, truth)
    axes[0].plot(frequency[1:], fsc[1:], color=color, label=f"iteration {number}" if number else "start")
axes[0].set(
    xlabel="spatial frequency (1/Å)",
    ylabel="correlation with the truth",
    xlim=(0, frequency[-2]),
    ylim=(-0.05, 1.03),
)
axes[0].legend(frameon=False, fontsize=8, loc="lower left")
bins = np.geomspace(0.5, 180, 40)
for number in (1, 2, 6):
    axes[1].hist(
        errors[number - 1],
        bins,
        histtype="step",
        linewidth=1.6,
        color=colors[number],
        label=f"iteration {number}",
    )
axes[1].set(xscale="log", xlabel="angle between found and true pose (degrees)", ylabel="images")
axes[1].set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
axes[1].legend(frameon=False, loc="upper left")
