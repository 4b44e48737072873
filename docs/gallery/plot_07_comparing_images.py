r"""
7. Four ways to compare images
==============================

*Lecture: "There are various ways to compare images", "Probabilities, another way to compare images".*

A reference is the true image seen through the microscope, :math:`R = CA`. How well does a noisy image
:math:`X` agree with it?

.. math::

   \begin{aligned}
   \text{squared difference} &= \|X - R\|^2 = \|X\|^2 - 2\,X\cdot R + \|R\|^2 \\
   \text{correlation} &= X \cdot R \\
   \mathrm{CC} &= \frac{X \cdot R}{|X|\,|R|} \\
   \ln P(X|R) &= -\frac{\|X - R\|^2}{2\sigma^2} + \text{const}
   \end{aligned}

All four are made of the same three numbers: :math:`\|X\|^2`, once per image, the cross term :math:`X\cdot R`
and the norm :math:`\|R\|^2`. The library computes the last two for all references at once, as matrix
products, and calls them ``cross`` and ``norm``.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from posterion import FourierVolume, Particles, SimulationOptions, phantom_map, read_map, simulate
from posterion.inference.images import NoiseModel, prepare_images
from posterion.inference.likelihood import cross_and_norm, gaussian_log_prob, profile_log_prob
from posterion.physics.rotations import matrices_from_euler
from posterion.physics.simulate import noise_free_images
from posterion.report.figures import draw_image, draw_scale_bar

box, pixel_size = 64, 2.8
options = SimulationOptions(n_particles=8, snr=0.02, shift_sd_angstrom=0.0, dtype="float32", seed=4)
with tempfile.TemporaryDirectory() as folder:
    made = simulate([phantom_map(box, pixel_size)], pixel_size, Path(folder) / "set", options)
    particles = Particles.read(made.truth_path)
    images = particles.images()
    truth, _ = read_map(made.map_paths[0])
volume = FourierVolume.from_map(truth)

# %%
# One image against references turned about the line of sight and tilted
# ----------------------------------------------------------------------
#
# The noise has fifty times the variance of the signal. References are projections whose in-plane angle, or
# whose tilt, differs from the true one. The image is made ready as for a refinement: transformed, multiplied
# by its CTF, divided by the noise variance.

one = np.array([2])
poses = particles.poses
degrees = np.arange(-90.0, 90.5, 1.0)
same = np.zeros_like(degrees)
rot, tilt, psi = poses.rot_deg_i[one], poses.tilt_deg_i[one], poses.psi_deg_i[one]
references = {
    "in-plane angle": matrices_from_euler(rot + same, tilt + same, psi + degrees),
    "tilt": matrices_from_euler(rot + same, tilt + degrees, psi + same),
}
group = np.zeros(len(particles), np.int32)
# sigma2: noise of variance 1 per pixel
noise = NoiseModel(np.full((1, box // 2 + 1), float(box**2)), group, np.ones(1), group)
batch = prepare_images(particles, one, images[one], volume.radius, 2.0 * box, noise, np.zeros((1, 2)))
power = 2 * batch.power_i[0]

figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
clean = noise_free_images([volume], group, particles, one)
draw_image(axes[0], images[one][0], "X: the image")
draw_image(axes[1], clean[0], "R: the reference at the true pose")
draw_image(axes[2], noise_free_images([volume], group, particles, one + 1)[0], "R: at another image's pose")
draw_scale_bar(axes[1], box, pixel_size)

# %%

measures = {}
for name, matrices in references.items():
    cross_tr, norm_r = cross_and_norm(
        volume.slices(matrices, batch.pixels), batch.whitened_ip, batch.ctf2_ip[0]
    )
    cross_r = cross_tr[0]
    measures[name] = {
        r"squared difference $\|X-R\|^2/\sigma^2$": power - 2 * cross_r + norm_r,
        r"correlation $X \cdot R/\sigma^2$": cross_r,
        r"correlation coefficient CC": cross_r / np.sqrt(power * norm_r),
        r"probability $P(X|R)$, peak = 1": np.exp(
            gaussian_log_prob(cross_r, norm_r) - gaussian_log_prob(cross_r, norm_r).max()
        ),
    }

figure, axes = plt.subplots(2, 4, figsize=(13, 5.6), layout="constrained")
for row, (name, curves) in enumerate(measures.items()):
    for axis, (title, values) in zip(axes[row], curves.items(), strict=True):
        axis.plot(degrees, values, color="#2c7fb8")
        axis.axvline(0, color="#c0392b", linewidth=0.8, linestyle=":")
        axis.set_xlabel(f"{name}, degrees from the truth", fontsize=9)
        if row == 0:
            axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)

# %%
# What one sees
# -------------
#
# The squared difference changes by a few percent only: nearly all of it is noise, :math:`\|X\|^2`, the same
# for all references. The correlations peak at the right place, over a broad hill of wrong ones. The
# probability is the exponential of the same numbers, and leaves a spike: a difference of 20 in the squared
# difference, invisible beside its size, is a factor of :math:`e^{10}` in probability. That is the theme of
# the next page.
#
# CC and probability need not agree on the best reference, since CC does not mind how strong the image is.
# Maximised over the image's intensity, the log-probability becomes :math:`(X\cdot R)^2 / 2\sigma^2\|R\|^2`,
# which orders references exactly as CC does; the library's projection matching uses that:

cross_tr, norm_r = cross_and_norm(
    volume.slices(references["tilt"], batch.pixels), batch.whitened_ip, batch.ctf2_ip[0]
)
by_profile = np.argsort(profile_log_prob(cross_tr[0], norm_r), kind="stable")
by_cc = np.argsort(cross_tr[0] / np.sqrt(norm_r), kind="stable")
print("same order:", np.array_equal(by_profile, by_cc))
