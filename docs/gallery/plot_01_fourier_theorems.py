r"""
1. Fourier theorems
===================

*Lecture: "Every image has a 2D Fourier transform", "Image processing with Fourier transforms".*

An image :math:`g(x, y)` is a sum of gratings. Its Fourier transform :math:`G(u, v)` says how strong each
grating is and where its crests lie:

.. math:: G(u, v) = \iint g(x, y)\, e^{-2\pi i (ux + vy)}\, dx\, dy

Three properties carry the whole of single-particle analysis:

.. math::

   \begin{aligned}
   g * h &\;\rightarrow\; G\,H && \text{convolution} \\
   g(x', y') &\;\rightarrow\; G(u', v') && \text{rotation} \\
   P_y\, g(x, y) &\;\rightarrow\; G(u, 0) && \text{projection}
   \end{aligned}

Our image is a projection of the package's phantom, a made-up protein assembly.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import convolve

from posterion import FourierVolume, phantom_map
from posterion.physics.ctf import contrast_transfer
from posterion.physics.fourier import (
    disc,
    fourier_transform_2d,
    frequencies_2d,
    inverse_fourier_transform_2d,
)
from posterion.physics.rotations import matrices_from_euler
from posterion.report.figures import draw_image, draw_scale_bar

box, pixel_size = 96, 2.0  # pixels, Angstrom
volume = FourierVolume.from_map(phantom_map(box, pixel_size))
view = matrices_from_euler([40.0], [70.0], [0.0])
image = inverse_fourier_transform_2d(volume.project(view), box)[0]
G = fourier_transform_2d(image)

# %%
# Each point is a grating
# -----------------------
#
# We keep only the strongest of the transform's coefficients and transform back. One coefficient is one
# grating, a sine wave across the whole box. A few hundred of them already are the particle.

pixels = disc(box, (box - 1) // 2)
coefficients = pixels.take(G)
strongest_first = np.argsort(-np.abs(coefficients))[1:]  # without the mean, which comes first

figure, axes = plt.subplots(1, 5, figsize=(12, 2.8), layout="constrained")
for axis, count in zip(axes, (1, 10, 100, 1000, len(strongest_first)), strict=True):
    kept = np.zeros_like(coefficients)
    kept[strongest_first[:count]] = coefficients[strongest_first[:count]]
    draw_image(axis, inverse_fourier_transform_2d(pixels.put(kept), box), f"{count} gratings")
axes[0].set_title("1 grating", fontsize=9)
draw_scale_bar(axes[-1], box, pixel_size)

# %%
# Convolution
# -----------
#
# A microscope out of focus smears every point of the specimen into a pattern of rings, the point spread
# function *h*. Smearing is a convolution: for each pixel a sum over all the others. In Fourier space it is a
# plain product with *H*, the contrast transfer function. Both ways give the same picture.

kx, ky = (k / (box * pixel_size) for k in frequencies_2d(box))
fx, fy = (f.ravel() for f in np.broadcast_arrays(kx, ky))
microscope = {
    "voltage_kv": 300.0,
    "spherical_aberration_mm": 2.7,
    "amplitude_contrast": 0.1,
    "bfactor_angstrom2": 150.0,
}
H = contrast_transfer(fx, fy, [8000.0], [8000.0], [0.0], **microscope).reshape(G.shape)
h = inverse_fourier_transform_2d(H.astype(np.complex64), box)

by_product = inverse_fourier_transform_2d(G * H, box)
by_sum = convolve(image, h, mode="wrap")
print(f"largest difference {np.abs(by_sum - by_product).max() / np.ptp(by_product):.1e} of the image's range")

figure, axes = plt.subplots(1, 4, figsize=(12, 3.3), layout="constrained")
draw_image(axes[0], image, "g: the specimen")
draw_image(axes[1], h, "h: point spread function")
draw_image(axes[2], by_sum, "g * h, summed pixel by pixel")
draw_image(axes[3], by_product, "transformed back from G H")
draw_scale_bar(axes[0], box, pixel_size)

# %%
# Rotation
# --------
#
# Turn the image and its transform turns along. We turn the particle by 35° in the plane. Beside it the
# amplitude of its transform, to the power of 0.3, zero frequency in the middle.

turned_view = matrices_from_euler([40.0], [70.0], [35.0])
turned = inverse_fourier_transform_2d(volume.project(turned_view), box)[0]

figure, axes = plt.subplots(1, 4, figsize=(12, 3.3), layout="constrained")
for pair, picture, name in ((axes[:2], image, "upright"), (axes[2:], turned, "turned by 35°")):
    amplitude = np.abs(
        np.fft.fftshift(np.fft.fft2(picture, s=(4 * box, 4 * box)))
    )  # zeros around: finer steps
    middle = slice(2 * box - 64, 2 * box + 65)
    draw_image(pair[0], picture, name)
    draw_image(pair[1], amplitude[middle, middle] ** 0.3, "|G|, out to 12 Å")
draw_scale_bar(axes[0], box, pixel_size)

# %%
# Projection
# ----------
#
# Add the image up along *y*: a curve over *x*. Its one-dimensional transform is the line *v* = 0 of the
# two-dimensional one, to the last digit. The slice theorem of the next page is nothing else, one dimension
# up.

profile = image.sum(axis=0)
of_the_profile = np.fft.rfft(np.fft.ifftshift(profile))
on_the_line = G[0]
frequency = np.arange(box // 2 + 1) / (box * pixel_size)

figure, axes = plt.subplots(1, 2, figsize=(12, 3.4), layout="constrained")
axes[0].plot((np.arange(box) - box // 2) * pixel_size, profile, color="#2c7fb8")
axes[0].set(xlabel="x (Å)", ylabel="sum over y", title="projection of the image")
axes[1].plot(
    frequency, np.abs(of_the_profile), color="#e6872e", linewidth=4, label="transform of the projection"
)
axes[1].plot(frequency, np.abs(on_the_line), color="#111111", linewidth=1.2, label="G(u, 0)")
axes[1].set(xlabel="spatial frequency u (1/Å)", ylabel="amplitude", title="its transform, and a line of G")
axes[1].set(xlim=(0, 0.24), ylim=(0.5, 1e4), yscale="log")
axes[1].legend(frameon=False)
