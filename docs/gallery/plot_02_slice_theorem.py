r"""
2. The slice theorem, and filling Fourier space
===============================================

*Lecture: "The Fourier Slice Theorem", "Reconstruction using the Fourier Slice Theorem".*

A projection of a density along any direction has, as its two-dimensional transform, the central slice of the
density's three-dimensional transform at right angles to that direction:

.. math:: \mathcal{F}\{\mathbf{P}_\phi V\}(k_x, k_y) = V\!\left(R^T (k_x, k_y, 0)\right)

So collecting projections from all directions fills Fourier space, and a transform back gives the structure.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm

from posterion import FourierVolume, phantom_map
from posterion.compute import Workers
from posterion.mapping.fsc import fourier_shell_correlation, shell_frequencies
from posterion.mapping.reconstruct import HalfSums
from posterion.physics.atomic_model import map_from_atoms
from posterion.physics.fourier import disc, fourier_transform_2d, inverse_fourier_transform_2d
from posterion.physics.phantom import phantom_atoms
from posterion.physics.projection import Accumulator
from posterion.physics.rotations import matrices_from_euler
from posterion.physics.sampling import RotationGrid
from posterion.report.figures import draw_image, draw_scale_bar

box, pixel_size = 64, 2.8  # pixels, Angstrom
density = phantom_map(box, pixel_size)
volume = FourierVolume.from_map(density)
pixels = disc(box, volume.radius)

# %%
# The theorem, checked
# --------------------
#
# The phantom is made of atoms, so we can turn the atoms themselves, make a map of them and sum its voxels
# along *z*. The other way is one slice of the unturned map's transform. Both are compared up to 7.5 Å; near
# the grid's limit, at 5.6 Å, sampled atoms are no longer quite the atoms.

view = matrices_from_euler([40.0], [70.0], [20.0])
atoms = phantom_atoms()
turned_atoms = atoms._replace(positions_angstrom=atoms.positions_angstrom @ view[0].T)
summed = fourier_transform_2d(map_from_atoms(turned_atoms, box, pixel_size).sum(axis=0))
inner = disc(box, 24)
from_atoms = inverse_fourier_transform_2d(inner.put(inner.take(summed)), box)
from_slice = inverse_fourier_transform_2d(inner.put(volume.slices(view, inner)), box)[0]

figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
draw_image(axes[0], from_atoms, "atoms turned, voxels summed")
draw_image(axes[1], from_slice, "central slice, transformed back")
draw_image(axes[2], 20 * (from_slice - from_atoms), "difference, 20 times stronger")
axes[2].images[0].set_clim(axes[0].images[0].get_clim())
draw_scale_bar(axes[0], box, pixel_size)
print(f"correlation {np.corrcoef(from_atoms.ravel(), from_slice.ravel())[0, 1]:.5f}")

# %%
# One slice, ten, a hundred, three thousand
# -----------------------------------------
#
# We project the phantom along 1, 10, 100 and 3,072 directions, lay each projection's transform into Fourier
# space (the back-projection of the lecture), divide by how often each point was hit, and transform back.
# Above: how many slices hit each point of the plane *ky* = 0. Below: a section through the map.

grid = RotationGrid(order=4, offset=np.eye(3))
one_per_direction = np.arange(grid.n_directions) * grid.n_psi
rng = np.random.default_rng(0)
matrices = grid.matrices(rng.permutation(one_per_direction))

figure, axes = plt.subplots(2, 4, figsize=(12, 6.2), layout="constrained")
curves = {}
for column, count in enumerate((1, 10, 100, len(matrices))):
    name = f"{count} slices" if count > 1 else "1 slice"
    slices = volume.slices(matrices[:count], pixels)
    accumulator = Accumulator(box, volume.radius)
    accumulator.insert(matrices[:count], pixels, slices, np.ones(slices.shape, np.float32))
    with Workers(2) as workers:
        sums = HalfSums.from_accumulator(accumulator, "C1", workers)
    map_ = sums.solve(np.full(volume.radius + 1, 1e-2))
    curves[count] = fourier_shell_correlation(map_, density)

    inside = sums.grid.shells[:, sums.grid.centre] <= volume.radius
    half_plane = sums.weight[:, sums.grid.centre]  # (kz, kx >= 0); the other half is its mirror image
    plane = np.concatenate([half_plane[::-1, :0:-1], half_plane], axis=1)
    axes[0, column].imshow(
        plane, cmap="magma", norm=LogNorm(1e-2, 100), origin="lower", interpolation="nearest"
    )
    axes[0, column].set(xticks=[], yticks=[])
    share = 100 * np.mean(half_plane[inside] > 0.01)
    axes[0, column].set_title(f"{name}: {share:.0f} % of the plane hit", fontsize=10)
    draw_image(axes[1, column], map_[box // 2], f"section of the map, {name}")
axes[0, 0].set(xlabel="kx", ylabel="kz")
draw_scale_bar(axes[1, 0], box, pixel_size)

# %%
# How many are enough? The slices of a particle of diameter *D* have to lie closer than 1/*D* to one another,
# also at the rim. About :math:`\pi D / d` directions around one tilt axis give resolution *d* (Crowther), a
# few thousand over the sphere here. With fewer, the middle of Fourier space is full and its rim full of
# holes: the correlation with the truth falls with frequency.

figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
frequency = shell_frequencies(box, pixel_size)
for (count, fsc), color in zip(curves.items(), ("#c6dbef", "#6baed6", "#2171b5", "#08306b"), strict=True):
    name = f"{count} projections" if count > 1 else "1 projection"
    axis.plot(frequency[1:], fsc[1:], color=color, label=name, linewidth=2)
axis.set(
    xlabel="spatial frequency (1/Å)",
    ylabel="correlation with the true density",
    ylim=(0, 1.03),
    xlim=(0, 0.165),
)
axis.legend(frameon=False)
