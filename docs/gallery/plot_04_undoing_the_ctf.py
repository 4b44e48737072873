r"""
4. Undoing the CTF
==================

*Lecture: "How to undo the CTF effects?", "How to undo the CTF effects in noisy images?", "Image restoration
when spectral SNR is known".*

The model of an image is :math:`X = CA + N`: the true image *A* times the contrast transfer function *C*, plus
noise *N*. Dividing, :math:`\hat A = X/C`, would blow the noise up wherever *C* is near zero. There are three
better ways:

.. math::

   \begin{aligned}
   \text{phase flipping} && \hat A &= \mathrm{sgn}(C)\, X \\
   \text{Wiener filter} && \hat A &= \frac{C X}{C^2 + k} \\
   \text{Wiener, many images} && \hat A &= \frac{\sum_i C_i X_i}{k_w(s) + \sum_i C_i^2}, \quad
   k_w(s) = \frac{1}{\mathrm{SNR}(s)} = \frac{|N|^2}{|A|^2}
   \end{aligned}

The same are the commands ``posterion correct`` and ``posterion average``.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from posterion import FourierVolume, Particles, SimulationOptions, phantom_map, simulate
from posterion.mapping.average import average
from posterion.mapping.fsc import fourier_ring_correlation
from posterion.physics.ctf import contrast_transfer, ctf_half_spectrum
from posterion.physics.ctf_correction import filtered, phase_flip_filter, wiener_filter
from posterion.physics.fourier import inverse_fourier_transform_2d
from posterion.physics.simulate import draw_particles, noise_free_images
from posterion.report.figures import draw_image, draw_scale_bar

# %%
# Without noise
# -------------
#
# A particle at 1.5 µm defocus. Phase flipping puts every frequency's sign right, and with it most of the
# shape; amplitudes stay as they are, and near the zeros they are small. A Wiener filter also restores
# amplitudes as far as *k* allows. Division would restore all, without noise.

box, pixel_size = 128, 1.5
volume = FourierVolume.from_map(phantom_map(box, pixel_size))
options = SimulationOptions(
    n_particles=1,
    shift_sd_angstrom=0.0,
    defocus_range_angstrom=(15000.0, 15000.0),
    astigmatism_angstrom=0.0,
    seed=2,
)
particle, one_class = draw_particles(box, pixel_size, options, Path())
clean = noise_free_images([volume], one_class, particle, np.arange(1))[0]
A = inverse_fourier_transform_2d(volume.project(particle.poses.matrices()), box)[0]
C = ctf_half_spectrum(box, particle)[0]
N = np.random.default_rng(0).normal(0, np.sqrt(2) * clean.std(), clean.shape).astype(np.float32)

filters = {
    r"divided by C, where $|C| > 0.05$": np.where(np.abs(C) > 0.05, 1 / np.where(C == 0, 1, C), 0),
    "phase flipped": phase_flip_filter(C),
    "Wiener filter, k = 0.1": wiener_filter(C, 0.1),
    "Wiener filter, k = 1": wiener_filter(C, 1.0),
}
figure, axes = plt.subplots(2, 6, figsize=(14, 5), layout="constrained")
for row, (name, X) in enumerate({"X = CA": clean, "X = CA + N": clean + N}.items()):
    draw_image(axes[row, 0], A, "A: the true image")
    draw_image(axes[row, 1], X, name)
    for axis, (label, values) in zip(axes[row, 2:], filters.items(), strict=True):
        draw_image(axis, filtered(X, values), label)
draw_scale_bar(axes[0, 0], box, pixel_size)

# %%
# With noise (lower row, variance twice the signal's) division shows hardly anything but noise from around the
# zeros. Phase flipping leaves the noise as strong as it was. The Wiener filter with *k* near
# :math:`|N|^2/|A|^2` holds the balance: it gives the least squared error, at the price of keeping little
# where *C* is small. What it cannot do is bring back what the zeros have taken.

# %%
# Many images, and why 1 to 1.5 µm is enough
# ------------------------------------------
#
# The zeros move with the defocus. What one image lacks another has, so :math:`\sum_i C_i^2` of many defoci
# has no zeros beyond the first. Even the small range from 1 to 1.5 µm fills them.

frequency = np.linspace(0, 1 / 3.0, 1500)
nowhere = np.zeros_like(frequency)
microscope = {"voltage_kv": 300.0, "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1}
sets = {
    "100 images, all at 1.25 µm": np.full(100, 12500.0),
    "100 images, 1.2 to 1.3 µm": np.linspace(12000, 13000, 100),
    "100 images, 1 to 1.5 µm": np.linspace(10000, 15000, 100),
}
figure, axes = plt.subplots(3, 1, figsize=(10, 6), layout="constrained", sharex=True)
for axis, (name, defoci) in zip(axes, sets.items(), strict=True):
    ctfs = contrast_transfer(frequency, nowhere, defoci, defoci, np.zeros_like(defoci), **microscope)
    axis.fill_between(frequency, (ctfs**2).mean(axis=0), color="#6baed6", linewidth=0)
    axis.set(ylim=(0, 1.05), xlim=(0, 1 / 3.0), ylabel="mean $C^2$")
    axis.set_title(name, loc="left", fontsize=10)
axes[-1].set_xlabel("spatial frequency (1/Å)")

# %%
# The same with images. 200 noisy pictures of one view, aligned, once at one defocus and once over the range.
# The library's `average` estimates the signal-to-noise ratio of each ring from the correlation of two half
# averages, and takes :math:`k_w(s)` from it.

density = phantom_map(64, 2.8)
averages, truths, examples = {}, {}, {}
for name, defoci in {"all at 1.25 µm": (12500.0, 12500.0), "1 to 1.5 µm": (10000.0, 15000.0)}.items():
    wanted = SimulationOptions(
        n_particles=200,
        snr=0.1,
        defocus_range_angstrom=defoci,
        astigmatism_angstrom=0.0,
        direction_concentration=1e7,  # all are seen along z
        particles_per_micrograph=5,
        dtype="float32",
        seed=4,
    )
    with tempfile.TemporaryDirectory() as folder:
        made = simulate([density], 2.8, Path(folder) / "set", wanted)
        particles = Particles.read(made.truth_path)
        poses = particles.poses  # turned about z by rot and then psi, which is one angle
        aligned = replace(poses, rot_deg_i=0 * poses.rot_deg_i, psi_deg_i=poses.rot_deg_i + poses.psi_deg_i)
        averages[name] = average(replace(particles, poses=aligned), diameter_angstrom=160.0, threads=2)[0]
        truths[name] = density.sum(axis=0) * made.scale
        examples[name] = particles.images([0])[0]

figure, axes = plt.subplots(2, 4, figsize=(12, 6.2), layout="constrained")
for row, name in zip(axes, averages, strict=True):
    draw_image(row[0], examples[name], f"{name}: one image")
    draw_image(row[1], averages[name].plain, "mean of 200, CTFs left as they are")
    draw_image(row[2], averages[name].image, "Wiener, 200 images")
    draw_image(row[3], truths[name], "A: the truth")
draw_scale_bar(axes[0, 3], 64, 2.8)

# %%
# Correlation with the truth, ring by ring: at one defocus the zeros are gaps in what is known, in every image
# the same. Over the small range nothing is missing. Right, the measured signal-to-noise ratio of the
# averages.

figure, axes = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
frequency = np.arange(33) / (64 * 2.8)
for (name, found), color in zip(averages.items(), ("#e6872e", "#08519c"), strict=True):
    axes[0].plot(
        frequency[1:], fourier_ring_correlation(found.image, truths[name])[1:], color=color, label=name
    )
    axes[1].plot(frequency[1:], found.ssnr_s[1:], color=color, label=name)
axes[0].set(ylabel="correlation with the truth", ylim=(-0.1, 1.03))
axes[1].set(ylabel="SSNR = 2 FRC / (1 - FRC)", yscale="log")
for axis in axes:
    axis.set(xlabel="spatial frequency (1/Å)", xlim=(0, frequency[-2]))
    axis.legend(frameon=False)
