"""Simulated sets against RELION's frozen projections, and their statistics, files and determinism."""

import errno
import hashlib
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from posterion.data.particles import OpticsGroup, Particles, Poses
from posterion.errors import PosterionError
from posterion.physics.fourier import fourier_transform_2d, shell_mean
from posterion.physics.phantom import phantom_map
from posterion.physics.projection import FourierVolume
from posterion.physics.simulate import (
    COLOURED_NOISE,
    Microscope,
    NoiseSpectrum,
    SimulationOptions,
    draw_particles,
    noise_free_images,
    noise_images,
    simulate,
)

RELION = dict(np.load(Path(__file__).parents[1] / "references" / "relion_projections.npz"))
MAP = phantom_map(32, 5.5)
SMALL = SimulationOptions(n_particles=70, seed=5)


def relion_particles(box: int, with_ctf: bool) -> Particles:
    pixel = float(RELION["pixel_size"])
    u, v, angle, plate, b, scale = RELION[f"parameters_{box}"].T
    group = RELION[f"group_{box}"].astype(np.int32)
    optics = [OpticsGroup(f"og{row[0]:.0f}", *map(float, row), pixel, box) for row in RELION["optics"]]
    if not with_ctf:  # a CTF of 1 everywhere: amplitude contrast only, no defocus
        u, v, b, scale, plate = 0 * u, 0 * v, 0 * b, np.ones_like(scale), 0 * plate
        optics = [replace(o, amplitude_contrast=1.0, spherical_aberration_mm=0.0) for o in optics]
    n = len(group)
    options = SimulationOptions(n_particles=n)
    blank, _ = draw_particles(box, pixel, options, Path())
    return replace(
        blank,
        optics=tuple(optics),
        optics_index_i=group,
        defocus_u_angstrom_i=u,
        defocus_v_angstrom_i=v,
        defocus_angle_deg_i=angle,
        phase_shift_deg_i=plate,
        ctf_bfactor_i=b,
        ctf_scale_i=scale,
        poses=Poses(*RELION[f"poses_{box}"].T),
    )


@pytest.mark.parametrize("box", [32, 33])
@pytest.mark.parametrize("with_ctf", [False, True])
def test_images_are_relions(box: int, with_ctf: bool) -> None:
    particles = relion_particles(box, with_ctf)
    volume, indices = FourierVolume.from_map(RELION[f"map_{box}"]), np.arange(len(particles))
    ours = noise_free_images([volume], np.zeros(len(particles), int), particles, indices)
    relions = RELION[f"images_{box}" if with_ctf else f"projections_{box}"]
    for a, b in zip(ours, relions, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.998
        assert np.vdot(a, b) / np.vdot(b, b) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("noise", [None, COLOURED_NOISE])
@pytest.mark.parametrize("box", [48, 49])
def test_noise_has_variance_one_and_its_spectrum(box: int, noise: NoiseSpectrum | None) -> None:
    images = noise_images(300, box, 3.0, noise, np.random.default_rng(0))
    assert images.dtype == np.float32
    assert images.var() == pytest.approx(1, abs=0.01)
    power = shell_mean((np.abs(fourier_transform_2d(images)) ** 2).mean(axis=0), box)[1:] / box**2
    if noise is None:
        np.testing.assert_allclose(power, 1, atol=0.15)
    else:
        wanted = np.interp(
            np.arange(1, box // 2 + 1) / (3.0 * box), noise.frequency_per_angstrom, noise.power
        )
        np.testing.assert_allclose(power / power.mean(), wanted / wanted.mean(), rtol=0.15)


def test_snr_is_signal_over_noise_variance(tmp_path: Path) -> None:
    noisy = simulate([MAP], 5.5, tmp_path / "noisy", replace(SMALL, snr=0.25, dtype="float32"))
    clean = simulate([MAP], 5.5, tmp_path / "clean", replace(SMALL, snr=np.inf, dtype="float32"))
    signal = mrcfile.read(clean.stack_path) * noisy.scale
    noise = mrcfile.read(noisy.stack_path) - signal
    assert clean.scale == 1
    assert noise.var() == pytest.approx(1, rel=0.02)
    assert signal.var(axis=(1, 2)).mean() / noise.var() == pytest.approx(0.25, rel=0.03)


def test_truth_reproduces_the_images(tmp_path: Path) -> None:
    made = simulate(
        [MAP], 5.5, tmp_path, replace(SMALL, snr=1e4, microscopes=(Microscope(), Microscope(200, 1.4, 0.07)))
    )
    truth = Particles.read(made.truth_path)
    volume = FourierVolume.from_map(mrcfile.read(made.map_paths[0]))
    images = noise_free_images([volume], np.zeros(70, int), truth, np.arange(70))
    assert len(truth.optics) == 2
    for a, b in zip(images, truth.images(), strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.999


def test_poses_are_hidden_unless_asked(tmp_path: Path) -> None:
    hidden = Particles.read(simulate([MAP], 5.5, tmp_path / "hidden", SMALL).particles_path)
    shown = Particles.read(
        simulate([MAP], 5.5, tmp_path / "shown", replace(SMALL, write_poses=True)).particles_path
    )
    assert hidden.poses is None
    assert shown.poses is not None
    assert sorted(np.bincount(hidden.half_i)) == [0, 35, 35]
    np.testing.assert_array_equal(hidden.defocus_u_angstrom_i, shown.defocus_u_angstrom_i)


def test_same_seed_same_files(tmp_path: Path) -> None:
    def digests(name: str, seed: int) -> list[str]:
        simulate([MAP], 5.5, tmp_path / name, replace(SMALL, seed=seed, noise=COLOURED_NOISE))
        paths = sorted((tmp_path / name).iterdir())
        assert [p.name for p in paths] == ["particles.mrcs", "particles.star", "truth.mrc", "truth.star"]
        return [hashlib.sha256(p.read_bytes()[1024:]).hexdigest() for p in paths]

    assert digests("a", 1) == digests("b", 1)
    assert digests("c", 2)[0] != digests("a2", 1)[0]


def test_mixture_of_maps(tmp_path: Path) -> None:
    options = replace(SMALL, n_particles=400, fractions=(0.75, 0.25), snr=np.inf, shift_sd_angstrom=0.0)
    other = np.ascontiguousarray(MAP[:, ::-1])
    made = simulate([MAP, 2 * other], 5.5, tmp_path, options)
    truth = Particles.read(made.truth_path)
    classes = truth.table.integers("rlnClassNumber")
    assert [p.name for p in made.map_paths] == ["truth_class1.mrc", "truth_class2.mrc"]
    assert np.mean(classes == 2) == pytest.approx(0.25, abs=0.06)
    spread = truth.images().std(axis=(1, 2))
    assert spread[classes == 2].mean() == pytest.approx(2 * spread[classes == 1].mean(), rel=0.05)


def test_directions_are_uniform_or_preferred() -> None:
    options = SimulationOptions(n_particles=20000, shift_sd_angstrom=3.0)
    uniform, _ = draw_particles(32, 5.5, options, Path())
    preferred, _ = draw_particles(32, 5.5, replace(options, direction_concentration=4.0), Path())
    directions = uniform.poses.matrices()[:, 2]
    np.testing.assert_allclose(directions.T @ directions / 20000, np.eye(3) / 3, atol=0.01)
    mean_z = preferred.poses.matrices()[:, 2, 2].mean()
    assert mean_z == pytest.approx(
        1 / np.tanh(4) - 1 / 4, abs=0.01
    )  # mean of a von Mises-Fisher distribution
    assert uniform.poses.shift_x_angstrom_i.std() == pytest.approx(3, rel=0.03)


def test_defocus_is_within_its_range_and_shared_by_micrographs() -> None:
    options = SimulationOptions(
        n_particles=1000, defocus_range_angstrom=(8e3, 2e4), particles_per_micrograph=10
    )
    particles, _ = draw_particles(32, 5.5, options, Path())
    mean = (particles.defocus_u_angstrom_i + particles.defocus_v_angstrom_i) / 2
    assert 7e3 < mean.min() < 9e3
    assert 1.9e4 < mean.max() < 2.1e4
    assert len(particles.micrograph_names) == 100
    assert mean.reshape(100, 10).std(axis=1).max() < 400
    assert np.ptp(particles.defocus_angle_deg_i.reshape(100, 10), axis=1).max() == 0


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"n_particles": 0}, "must be positive"),
        ({"snr": 0.0}, "must be positive"),
        ({"snr": float("nan")}, "must be positive"),
        ({"defocus_range_angstrom": (2e4, 1e4)}, "must rise"),
        ({"fractions": (0.5, 0.5)}, "2 fractions do not go with 1 maps"),
        ({"fractions": (-1.0,)}, "fractions must be positive"),
        ({"dtype": "int8"}, "float16 or float32"),
        ({"microscopes": ()}, "at least one microscope"),
        ({"microscopes": (Microscope(300, 2.7, 1.2),)}, "amplitude contrast"),
    ],
)
def test_options_out_of_range(tmp_path: Path, changed: dict, complaint: str) -> None:
    with pytest.raises(PosterionError, match=complaint):
        simulate([MAP], 5.5, tmp_path / "out", replace(SMALL, **changed))
    assert not (tmp_path / "out").exists()


def test_bad_maps_and_folders(tmp_path: Path) -> None:
    with pytest.raises(PosterionError, match="cubic maps of one box"):
        simulate([MAP, MAP[:16, :16, :16]], 5.5, tmp_path, SMALL)
    with pytest.raises(PosterionError, match="flat"):
        simulate([np.zeros_like(MAP)], 5.5, tmp_path, SMALL)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(PosterionError, match="cannot be written"):
        simulate([MAP], 5.5, tmp_path / "file" / "out", SMALL)
    (tmp_path / "particles.star").touch()
    with pytest.raises(PosterionError, match="already holds a particle set"):
        simulate([MAP], 5.5, tmp_path, SMALL)


def test_noise_spectrum_from_text(tmp_path: Path) -> None:
    path = tmp_path / "noise.txt"
    path.write_text("# 1/A power\n0 10\n0.1 2\n0.2 1\n")
    assert NoiseSpectrum.read(path) == NoiseSpectrum((0.0, 0.1, 0.2), (10.0, 2.0, 1.0))
    for text in ("0 1 2\n", "0 1\n0 2\n", "0 -1\n", "a b\n"):
        path.write_text(text)
        with pytest.raises(PosterionError, match=r"noise\.txt"):
            NoiseSpectrum.read(path)


def test_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    def fill_disk(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(PosterionError, match=r"particles\.mrcs: cannot be written .*No space left"):
        simulate([MAP], 5.5, tmp_path, SMALL, observer=fill_disk)
    assert list(tmp_path.iterdir()) == []
