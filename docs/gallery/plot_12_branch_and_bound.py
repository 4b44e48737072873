r"""
12. Domain reduction: branch and bound
======================================

*Lecture: "Domain reduction: branch and bound, illustrated for 1D".*

To save time, probabilities of poses are computed at low resolution first. Then we place a bound on how much
higher each of them could be at full resolution. Given a cutoff, only a fraction of the domain has to be
looked at again:

.. math::

   \text{keep a cell if}\quad \ln P_{\text{low}} + \text{bound} \ge \ln P_{\text{best}} - \ln(1/\epsilon)

Where does the bound come from? The score of a pose is a sum over Fourier pixels, :math:`\sum_p (\mathrm{Re}\,
R_p^* X_p - \frac{1}{2} |R_p|^2)/\sigma_p^2`. Going from the centre of the true pose's cell, compared in the
low band, to the true pose itself, compared fully, the reference changes by :math:`\delta`. With Gaussian
noise the score then rises by a normal variable of mean :math:`Q/2` and variance :math:`Q = \sum_p
|\delta_p|^2/\sigma_p^2`. So the rise that is exceeded once in a thousand times is known beforehand, from the
reference alone.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import Normalize

from posterion import FourierVolume, Particles, SimulationOptions, phantom_map, posterior, read_map, simulate
from posterion.inference.adaptive import LevelImages, refine
from posterion.inference.bounds import most_probable_rise
from posterion.inference.branch_and_bound import BranchAndBound
from posterion.inference.images import NoiseModel, prepare_images
from posterion.inference.likelihood import cross_and_norm, gaussian_log_prob
from posterion.inference.priors import PosePrior
from posterion.inference.search import LOG_INVERSE_EPSILON, Candidates, Level, SearchPlan
from posterion.physics.rotations import matrices_from_euler
from posterion.physics.sampling import shift_lattice
from posterion.report.sphere import draw_sphere

box, pixel_size, diameter = 64, 2.8, 150.0
options = SimulationOptions(n_particles=8, snr=0.15, shift_sd_angstrom=0.0, dtype="float32", seed=4)
folder = tempfile.TemporaryDirectory()
made = simulate([phantom_map(box, pixel_size)], pixel_size, Path(folder.name) / "set", options)
particles = Particles.read(made.truth_path)
volume = FourierVolume.from_map(read_map(made.map_paths[0])[0])
everyone = np.arange(len(particles))
group = np.zeros(len(particles), np.int32)
sigma2 = np.full((1, box // 2 + 1), float(box**2))  # noise of variance 1 per pixel
noise = NoiseModel(sigma2, group, np.ones(1), group)
diameter_px = diameter / pixel_size
batch = prepare_images(
    particles, everyone, particles.images(), 20, diameter_px, noise, np.zeros((len(particles), 2))
)

# %%
# The lecture's drawing
# ---------------------
#
# One image, one unknown: the in-plane angle, all else known. The thin line is the score compared to 9 Å, at
# every half degree: what we want, without computing it everywhere. The steps are cells of 10°, scored at
# their centres and only to 30 Å. Added to each is the bound. Cells whose bound stays below the cutoff cannot
# hold an angle that matters; only the shaded ones are looked at again.

image, low, width = 2, LevelImages.of(batch, 6), 10.0
poses = particles.poses
fixed = poses.rot_deg_i[image], poses.tilt_deg_i[image]
fine, centres = np.arange(-180, 180, 0.5), np.arange(-175.0, 180.0, width)


def slices_at(offset_deg, pixels):
    """Slices of the reference turned in the plane, away from the true pose."""
    return volume.slices(matrices_from_euler(*fixed, poses.psi_deg_i[image] + offset_deg), pixels)


full = LevelImages.of(batch, 20)
score = {}
for name, angles, level in (("full", fine, full), ("low", centres, low)):
    own_image = np.ascontiguousarray(level.whitened_ip[image : image + 1])
    cross, norm = cross_and_norm(slices_at(angles, level.pixels), own_image, level.ctf2_ip[image])
    score[name] = gaussian_log_prob(cross[0], norm)

offsets = np.linspace(-width / 2, width / 2, 21)
in_band = full.pixels.within(6)
changes = slices_at(offsets, full.pixels)
changes[:, in_band] -= slices_at(np.zeros(1), full.pixels)[:, in_band]
q = np.abs(changes) ** 2 @ full.ctf2_ip[image]
bound = most_probable_rise(q[None], failure=1e-3)[0]
cutoff = score["full"].max() - LOG_INVERSE_EPSILON
kept = score["low"] + bound >= cutoff

figure, axis = plt.subplots(figsize=(11, 4.8), layout="constrained")
for centre in centres[kept]:
    axis.axvspan(centre - width / 2, centre + width / 2, color="#fff3c4")
edges = np.append(centres - width / 2, 180)
axis.plot(fine, score["full"], color="#111111", linewidth=0.9, label="compared to 9 Å")
axis.stairs(
    score["low"], edges, baseline=None, color="#2c7fb8", linewidth=2, label="cells of 10°, compared to 30 Å"
)
axis.stairs(
    score["low"] + bound,
    edges,
    baseline=None,
    color="#2c7fb8",
    linestyle="--",
    label="the same plus the bound",
)
axis.axhline(cutoff, color="#c0392b", linewidth=1, label=r"cutoff: best $-\ln 10^5$")
axis.set(xlabel="in-plane angle, degrees from the truth", ylabel="log-probability (nats)", xlim=(-180, 180))
axis.set_xticks(range(-180, 181, 60))
axis.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
print(f"bound: {bound:.0f} nats; cells kept: {kept.sum()} of {len(kept)}")

# %%
# All five parameters
# -------------------
#
# The real search does this with cells of orientations (each has eight children) and shifts (four). Three
# levels, from 30° and 60 Å to 7.5° and 20 Å. The spheres show the viewing directions that each level scores,
# by the best score of any in-plane angle and shift; white directions have been cut off before.

levels = (Level(1, 3, 2.0), Level(2, 5, 1.0), Level(3, 9, 1.0))
plan = SearchPlan(
    levels=levels,
    shift_range_px=4.0,
    margin_nats=np.inf,
    max_rotations=10**9,
    point_group="C1",
    grid_offset=np.eye(3),
    prior=PosePrior.uniform(offset_sigma_px=4.0),
)
search = BranchAndBound.of(volume, plan)
cut = [LevelImages.of(batch, level.radius) for level in levels]
rules = search.rules(batch, cut)
start = Candidates(0, plan.grid(0).all_cells(), shift_lattice(plan.shift_range_px, levels[0].shift_step_px))
supports = [refine(batch, i, cut, volume, plan, start, rules[i]) for i in everyone]


def recorded(rule, record):
    """Pass on what a rule keeps, and keep the best score of every direction."""

    def prune(candidates, log_prob_rt):
        record.append((candidates.level, candidates.cell, log_prob_rt.max(axis=1)))
        return rule(candidates, log_prob_rt)

    return prune


record = []
chosen = refine(batch, image, cut, volume, plan, start, recorded(search.rules(batch, cut)[image], record))
record.append((len(levels) - 1, chosen.cell, chosen.log_prob_rt.max(axis=1)))

figure, axes = plt.subplots(1, 3, figsize=(14, 3.2), layout="constrained")
for axis, (level, cell, best_r) in zip(axes, record, strict=True):
    grid = plan.grid(level)
    best_d = np.full(grid.n_directions, -np.inf)
    np.maximum.at(best_d, cell // grid.n_psi, best_r)
    best_d[np.isinf(best_d)] = np.nan
    drawn = draw_sphere(axis, best_d - np.nanmax(best_d), Normalize(-150, 0))
    resolution = box * pixel_size / levels[level].radius
    share = 100 * np.mean(np.isfinite(best_d))
    axis.set_title(f"{grid.step_deg:g}°, {resolution:.0f} Å: {share:.0f} % of the directions", fontsize=10)
figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.01, label="nats below the best")

# %%
# Nothing that matters is lost
# ----------------------------
#
# The same posterior, computed by scoring every pose of the finest grid, shows what was cut off: the share of
# :math:`\Gamma` outside of the poses that the search has kept.

every = plan.grid(2).n_directions * plan.grid(2).n_psi * len(shift_lattice(4.0, 1.0))
lost = []
for i in everyone:
    gamma = posterior(
        particles[i],
        volume,
        order=3,
        diameter_angstrom=diameter,
        sigma2_s=sigma2[0],
        resolution_angstrom=20.0,
    )
    weight_r = gamma.weight_dqt.sum(axis=2).ravel()
    lost.append(1 - weight_r[supports[i].cell].sum())
folder.cleanup()
print(
    f"every pose of the finest level: {every:,} per image, {every * len(cut[2].pixels):.2e} pixels compared"
)
pixels = np.array([len(level.pixels) for level in cut])
scored = [[support.counts[level].scored for support in supports] for level in range(len(levels))]
print("poses scored, median of 8 images, level by level:", [f"{np.median(s):,.0f}" for s in scored])
work = (np.array(scored) * pixels[:, None]).sum(axis=0)
print(f"pixels compared: {np.median(work):.2e}, {every * pixels[2] / np.median(work):.0f} times fewer")
print(f"largest share of a posterior that was lost: {max(lost):.1e}")
