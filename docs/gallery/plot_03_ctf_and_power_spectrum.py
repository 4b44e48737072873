r"""
3. The contrast transfer function and the power spectrum
========================================================

*Lecture: "Dealing with the contrast-transfer function", "The power spectrum describes the magnitude of
Fourier components in an image".*

A microscope shows a thin specimen only if it is out of focus, and then not every frequency alike: each
Fourier component of the projected density is multiplied by

.. math:: \mathrm{CTF} = \sin(-\pi\lambda\,\delta f^2 + \tfrac{\pi}{2} C_s \lambda^3 f^4 - \alpha)

with the wavelength :math:`\lambda`, the defocus :math:`\delta`, the spherical aberration :math:`C_s` and an
angle :math:`\alpha` for amplitude contrast and phase plates. The library's function is *minus* this one,
positive at low frequency, because stacks are stored with protein white.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from posterion import FourierVolume, Particles, SimulationOptions, phantom_map, simulate
from posterion.physics.ctf import contrast_transfer, ctf_half_spectrum, wavelength_angstrom
from posterion.physics.fourier import fourier_transform_2d, shell_mean
from posterion.report.figures import draw_image

microscope = {"voltage_kv": 300.0, "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1}
print(f"wavelength of the electrons: {float(wavelength_angstrom(300.0)):.5f} Angstrom")

# %%
# CTF against defocus
# -------------------
#
# Near focus the first zero lies far out but low frequencies, which show where the particle is, hardly pass.
# Far from focus they pass well, but the function oscillates and every zero loses information. Right: the
# function for all defoci at once; zeros are parabolas.

frequency = np.linspace(0, 0.25, 2000)
nowhere = np.zeros_like(frequency)
figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained", width_ratios=(1.1, 1))
chosen = (5000.0, 10000.0, 20000.0)
for row, defocus in enumerate(chosen):
    ctf = contrast_transfer(frequency, nowhere, [defocus], [defocus], [0.0], **microscope)[0]
    axes[0].plot(frequency, ctf - 2.4 * row, color="#2c7fb8", linewidth=1)
    axes[0].axhline(-2.4 * row, color="#8a8a8a", linewidth=0.7)
axes[0].set(xlabel="spatial frequency (1/Å)", xlim=(0, 0.25), ylim=(-6.1, 1.2))
axes[0].set_yticks([0, -2.4, -4.8], [f"{d / 1e4:g} µm" for d in chosen])
axes[0].set_title("CTF at three defoci, each between -1 and 1", fontsize=10)
defoci = np.linspace(2000, 30000, 600)
all_ctfs = contrast_transfer(frequency, nowhere, defoci, defoci, np.zeros_like(defoci), **microscope)
drawn = axes[1].imshow(all_ctfs, aspect="auto", origin="lower", cmap="RdBu_r", extent=(0, 0.25, 0.2, 3.0))
axes[1].set(xlabel="spatial frequency (1/Å)", ylabel="defocus (µm)")
axes[1].set_title("CTF over frequency and defocus", fontsize=10)
figure.colorbar(drawn, ax=axes[1], label="CTF")

# %%
# In two dimensions, with astigmatism
# -----------------------------------
#
# If the lens is stronger in one direction, the rings are ellipses. :math:`\delta` then depends on the
# direction: U along one axis, V across it.

n, pixel_size = 256, 2.0
k = (np.arange(n) - n // 2) / (n * pixel_size)
kx, ky = (a.ravel() for a in np.meshgrid(k, k))
figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
for axis, (u, v) in zip(axes, ((10000.0, 10000.0), (20000.0, 20000.0), (20000.0, 14000.0)), strict=True):
    ctf = contrast_transfer(kx, ky, [u], [v], [30.0], **microscope).reshape(n, n)
    draw_image(axis, ctf, f"U = {u / 1e4:g} µm, V = {v / 1e4:g} µm, angle 30°; rim 4 Å")

# %%
# The power spectrum of noisy images
# ----------------------------------
#
# In one noisy image nothing of this can be seen. The mean power of many images of one defocus, though, is
#
# .. math:: \langle |X|^2 \rangle = C^2\, \langle |A|^2 \rangle + \langle |N|^2 \rangle
#
# and shows the zeros as dark (Thon) rings. 400 particles with noise ten times as strong as the signal, all at
# 1.8 µm:

box, pixel_size = 96, 2.2
options = SimulationOptions(
    n_particles=400,
    snr=0.1,
    defocus_range_angstrom=(18000.0, 18000.0),
    astigmatism_angstrom=0.0,
    dtype="float32",
    seed=3,
)
with tempfile.TemporaryDirectory() as folder:
    made = simulate([phantom_map(box, pixel_size)], pixel_size, Path(folder) / "set", options)
    particles = Particles.read(made.truth_path)
    images = particles.images()
power = np.abs(fourier_transform_2d(images)) ** 2 / box**2
ctf2 = ctf_half_spectrum(box, particles, np.array([0]))[0] ** 2
slices = FourierVolume.from_map(made.scale * phantom_map(box, pixel_size)).project(particles.poses.matrices())
signal = ctf2 * np.mean(np.abs(slices) ** 2, axis=0) / box**2

figure, axes = plt.subplots(1, 3, figsize=(12.5, 4), layout="constrained", width_ratios=(1, 1, 1.6))
draw_image(axes[0], images[0], "one image")
mean_power = np.fft.fftshift(power.mean(axis=0), axes=0)
draw_image(
    axes[1],
    np.log(np.hstack([np.roll(mean_power[::-1, :0:-1], 1, axis=0), mean_power])),
    "ln of the mean power of 400",
)
frequency = np.arange(box // 2 + 1) / (box * pixel_size)
axes[2].plot(frequency[1:], shell_mean(power[0], box)[1:], color="#bbbbbb", label="one image")
axes[2].plot(
    frequency[1:], shell_mean(power.mean(axis=0), box)[1:], color="#2c7fb8", linewidth=2, label="mean of 400"
)
axes[2].plot(
    frequency[1:],
    shell_mean(signal, box)[1:] + 1,
    color="#e6872e",
    linestyle="--",
    label=r"$C^2|A|^2 + |N|^2$, from the truth",
)
axes[2].set(
    yscale="log", xlabel="spatial frequency (1/Å)", ylabel="power, noise = 1", xlim=(0, frequency[-1])
)
axes[2].legend(frameon=False)
