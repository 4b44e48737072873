r"""
10. What a search costs
=======================

*Lecture: "The orientation determination is the most expensive step", "Evaluating* :math:`\Gamma_\phi` *is
expensive: one of 5 parameters".*

*N* images of *n* by *n* pixels, *t* shifts along each axis, and orientations as finely spaced as the
resolution asks for. Counting one multiplication and addition as an operation, brute force needs

.. math::

   \begin{aligned}
   \text{finding orientations} & \quad \frac{\pi^3}{8}\, t^2 n^5 N \\
   \text{3D reconstruction} & \quad \pi n^4 + N n^2
   \end{aligned}

operations. For :math:`N = 10^5`, :math:`n = 128`, :math:`t = 7`:
"""

import matplotlib.pyplot as plt
import numpy as np

from posterion.report.bench import BenchOptions, bench
from posterion.report.bench_operations import lecture_operations

count = lecture_operations(100_000, 128, shifts_per_axis=7)
print(f"finding orientations {count.orientations:.1e}, reconstruction {count.reconstruction:.1e} operations")
print(f"{count.cpu_years():.0f} CPU-years at a billion operations a second")

# %%
# How it grows
# ------------
#
# The number of orientations grows as :math:`n^3` (three angles), each compared on :math:`n^2` pixels.
# Doubling the box makes it 32 times as much.

boxes = np.array([32, 64, 128, 256, 512])
figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
counts = [lecture_operations(100_000, int(n)) for n in boxes]
axis.plot(boxes, [c.orientations for c in counts], "o-", color="#c0392b", label="finding orientations")
axis.plot(boxes, [c.reconstruction for c in counts], "o-", color="#2c7fb8", label="reconstruction")
axis.set(xscale="log", yscale="log", xlabel="box n (pixels)", ylabel="operations for 100,000 images")
axis.set_xticks(boxes, [str(n) for n in boxes])
axis.minorticks_off()
axis.legend(frameon=False)

# %%
# What this program does instead, counted
# ---------------------------------------
#
# The library can count what its search really compares: each score and each slice that is taken reports
# itself. Below, a set of 64 px images of the phantom: the first iteration, at low resolution and over all
# orientations; a late one over all orientations; and a late one near the poses of the iteration before.

measured = bench(BenchOptions(n_particles=100_000, box_px=64, images=8))
names = {"first": "first iteration", "everywhere": "late, all orientations", "local": "late, local"}
for key, name in names.items():
    operations = measured.searches[key].operations
    print(f"{name:24s} {operations.pairs:12,.0f} poses scored, {operations.total:9.2e} operations per image")
per_image = measured.lecture.total / measured.options.n_particles
print(f"{'brute force, n = 64':24s} {'':28s}{per_image:9.2e} operations per image")
fewer = measured.lecture.total / measured.operations
print(f"a whole refinement, all iterations: {fewer:,.0f} times fewer than brute force once")

# %%

# sphinx_gallery_thumbnail_number = 2
figure, axis = plt.subplots(figsize=(10, 3.6), layout="constrained")
parts = {"scoring": "#08519c", "slicing": "#6baed6", "insertion": "#e6872e"}
labels = {
    "scoring": "comparing images with slices",
    "slicing": "interpolating slices",
    "insertion": "adding slices to the map",
}
for row, key in enumerate(names):
    operations = measured.searches[key].operations
    for offset, (part, color) in zip((-0.25, 0.0, 0.25), parts.items(), strict=True):
        axis.barh(
            row + offset,
            max(getattr(operations, part), 1.0),
            height=0.23,
            color=color,
            label=labels[part] if row == 0 else None,
        )
axis.barh(3, per_image, height=0.5, color="#c0392b", label="brute force, by the formula")
axis.set_yticks(range(4), [*names.values(), "brute force"])
axis.invert_yaxis()
axis.set(xscale="log", xlabel="operations per image", xlim=(1e4, 1e12))
axis.legend(frameon=False, loc="upper right", fontsize=9)

# %%
# What one sees
# -------------
#
# Three things bring the count down, all of which keep :math:`\Gamma` and not only its maximum: low resolution
# first, when few pixels and few orientations suffice; grids that are subdivided only where a pose may matter
# (page 12); and a search near the last pose once poses have settled, where a pose climbs to its peak
# with derivatives instead of being tried on a grid.
