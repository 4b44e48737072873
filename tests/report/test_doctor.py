"""The doctor finds each illness that a sound set is given, names it, and finds nothing in the sound one."""

import json
from pathlib import Path

import numpy as np
import pytest

from posterion.data.particles import Particles
from posterion.errors import PosterionError
from posterion.report.doctor import doctor
from posterion.report.findings import Diagnosis, Finding


def found(diagnosis: Diagnosis, check: str) -> Finding:
    """The finding of this name, the worst where there are several."""
    order = ("fine", "note", "warning", "problem")
    return max((f for f in diagnosis.findings if f.check == check), key=lambda f: order.index(f.level))


def test_a_sound_set(particle_set, tmp_path: Path) -> None:
    diagnosis = doctor(particle_set.write(tmp_path))
    assert diagnosis.is_sound, diagnosis.to_text()
    assert diagnosis.exit_code == 0
    assert {finding.level for finding in diagnosis.findings} == {"fine"}, diagnosis.to_text()
    assert "a structure" in found(diagnosis, "structure").message
    assert "bright" in found(diagnosis, "contrast").message


def test_takes_a_set_in_memory_and_fewer_images(particle_set, tmp_path: Path) -> None:
    particles = Particles.read(particle_set.write(tmp_path))
    diagnosis = doctor(particles, n_images=50)
    assert "50 images" in found(diagnosis, "pixels").message
    assert diagnosis.n_particles == 240


def test_report_is_json_and_text(particle_set, tmp_path: Path) -> None:
    diagnosis = doctor(particle_set.write(tmp_path), n_images=20)
    record = json.loads(diagnosis.to_json())
    assert record["sound"] is diagnosis.is_sound
    assert [f["check"] for f in record["findings"]] == [f.check for f in diagnosis.findings]
    assert diagnosis.verdict in diagnosis.to_text()


class TestFiles:
    def test_missing_stack(self, particle_set, tmp_path: Path) -> None:
        path = particle_set.write(tmp_path)
        (tmp_path / "particles.mrcs").unlink()
        diagnosis = doctor(path)
        finding = found(diagnosis, "stacks")
        assert finding.level == "problem"
        assert "particles.mrcs is missing" in finding.message
        assert finding.count == 240

    def test_truncated_stack(self, particle_set, tmp_path: Path) -> None:
        path = particle_set.write(tmp_path)
        stack = tmp_path / "particles.mrcs"
        stack.write_bytes(stack.read_bytes()[: 1024 + 4 * 32 * 32 * 100 + 7])
        finding = found(doctor(path), "stacks")
        assert finding.level == "problem"
        assert "truncated (100 of 240 images are there)" in finding.message

    def test_image_numbers_out_of_range(self, particle_set, tmp_path: Path) -> None:
        particle_set.images = particle_set.images[:200]
        diagnosis = doctor(particle_set.write(tmp_path))
        finding = found(diagnosis, "image numbers")
        assert (finding.level, finding.count) == ("problem", 40)
        assert finding.particles[0] == 201
        assert "the first is image 201" in finding.message
        assert found(diagnosis, "pixels").level == "fine", "the others are still looked at"

    def test_header_pixel_size(self, particle_set, tmp_path: Path) -> None:
        particle_set.optics["ImagePixelSize"] = 3.5
        finding = found(doctor(particle_set.write(tmp_path), n_images=20), "pixel size")
        assert finding.level == "warning"
        assert "4 A" in finding.message
        assert "3.5" in finding.message


class TestTable:
    def test_voltage_in_volts(self, particle_set, tmp_path: Path) -> None:
        particle_set.optics["Voltage"] = 300_000.0
        finding = found(doctor(particle_set.write(tmp_path), n_images=20), "optics")
        assert finding.level == "problem"
        assert "volts" in finding.message

    def test_impossible_pixel_size(self, particle_set, tmp_path: Path) -> None:
        particle_set.optics["ImagePixelSize"] = 90.0
        finding = found(doctor(particle_set.write(tmp_path), n_images=20), "optics")
        assert finding.level == "problem"
        assert "90 A" in finding.message

    @pytest.mark.parametrize(("factor", "word"), [(-1.0, "overfocus"), (1e-4, "micrometres")])
    def test_impossible_defocus(self, particle_set, tmp_path: Path, factor: float, word: str) -> None:
        for name in ("DefocusU", "DefocusV"):
            particle_set.columns[name] = [factor * value for value in particle_set.columns[name]]
        finding = found(doctor(particle_set.write(tmp_path), n_images=20), "ctf")
        assert (finding.level, finding.count) == ("problem", 240)
        assert word in finding.message

    def test_duplicate_images_and_places(self, particle_set, tmp_path: Path) -> None:
        particle_set.columns["ImageName"][7] = particle_set.columns["ImageName"][3]
        for name in ("MicrographName", "CoordinateX"):
            particle_set.columns[name][20] = particle_set.columns[name][10]
        diagnosis = doctor(particle_set.write(tmp_path), n_images=20)
        duplicates = [f for f in diagnosis.findings if f.check == "duplicates"]
        assert [(f.level, f.particles) for f in duplicates] == [("problem", (8,)), ("problem", (21,))]

    @pytest.mark.parametrize(
        ("halves", "level"),
        [([1] * 240, "problem"), ([1] * 200 + [2] * 40, "warning"), ([1, 0] * 120, "warning")],
    )
    def test_half_sets(self, particle_set, tmp_path: Path, halves: list[int], level: str) -> None:
        particle_set.columns["RandomSubset"] = halves
        assert found(doctor(particle_set.write(tmp_path), n_images=20), "halves").level == level

    def test_no_half_sets_and_no_poses_are_not_problems(self, particle_set, tmp_path: Path) -> None:
        for name in ("RandomSubset", "AngleRot", "AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst"):
            del particle_set.columns[name]
        diagnosis = doctor(particle_set.write(tmp_path), n_images=20)
        assert diagnosis.is_sound
        assert found(diagnosis, "halves").level == found(diagnosis, "poses").level == "note"
        assert all(finding.check != "structure" for finding in diagnosis.findings)

    def test_poses_of_a_2d_classification_are_not_back_projected(self, particle_set, tmp_path: Path) -> None:
        particle_set.columns |= {"AngleRot": [0.0] * 240, "AngleTilt": [0.0] * 240}
        diagnosis = doctor(particle_set.write(tmp_path), n_images=20)
        assert "2D classification" in found(diagnosis, "poses").message
        assert all(finding.check != "structure" for finding in diagnosis.findings)

    def test_shifts_beyond_the_box(self, particle_set, tmp_path: Path) -> None:
        particle_set.columns["OriginXAngst"][5] = 90.0
        finding = found(doctor(particle_set.write(tmp_path), n_images=20), "poses")
        assert (finding.level, finding.particles) == ("warning", (6,))


class TestImages:
    def test_nan_and_constant_images(self, particle_set, tmp_path: Path) -> None:
        particle_set.images[4, 3, 3] = np.nan
        particle_set.images[9] = 1.5
        diagnosis = doctor(particle_set.write(tmp_path))
        pixels = [f for f in diagnosis.findings if f.check == "pixels"]
        assert [(f.level, f.particles) for f in pixels] == [("problem", (5,)), ("problem", (10,))]
        assert found(diagnosis, "structure").level == "fine", "the sound images are still back-projected"

    def test_hot_and_far_too_bright_images(self, particle_set, tmp_path: Path) -> None:
        """Both are problems, and neither decides about contrast or structure."""
        sound = doctor(particle_set.write(tmp_path))
        particle_set.images[4, 3, 3] = 1e8
        particle_set.images[9] *= -1e4
        particle_set.images[12] *= 5
        diagnosis = doctor(particle_set.write(tmp_path))
        hot, bright = (f for f in diagnosis.findings if f.check == "pixels")
        assert "hot pixel" in hot.message
        assert "the first is image 10 of particles.mrcs" in bright.message
        assert [(f.level, f.particles) for f in (hot, bright)] == [("problem", (5,)), ("problem", (10,))]
        for check in ("contrast", "structure"):
            assert found(diagnosis, check).level == found(sound, check).level == "fine"

    def test_a_second_grey_scale_is_no_outlier(self, particle_set, tmp_path: Path) -> None:
        particle_set.images[::4] *= 1e3
        diagnosis = doctor(particle_set.write(tmp_path))
        (told,) = (f for f in diagnosis.findings if f.check == "pixels")
        assert told.level == "problem"
        assert "about 25 % of the images of optics group" in told.message
        assert "a second grey scale" in told.message

    def test_dark_particles(self, particle_set, tmp_path: Path) -> None:
        particle_set.images *= -1
        diagnosis = doctor(particle_set.write(tmp_path))
        for check in ("contrast", "structure"):
            finding = found(diagnosis, check)
            assert finding.level == "problem"
            assert finding.message.startswith("inverted")

    def test_cannot_tell_the_contrast_of_noise(self, particle_set, tmp_path: Path) -> None:
        particle_set.images = np.random.default_rng(0).standard_normal((240, 32, 32)).astype(np.float32)
        diagnosis = doctor(particle_set.write(tmp_path))
        assert "cannot tell" in found(diagnosis, "contrast").message
        finding = found(diagnosis, "structure")
        assert finding.level == "problem"
        assert finding.message.startswith("noise")

    def test_a_gradient_is_not_contrast(self, particle_set, tmp_path: Path) -> None:
        gradient = np.linspace(-5, 5, 32, dtype=np.float32)
        noise = np.random.default_rng(2).standard_normal((240, 32, 32))
        particle_set.images = (noise + gradient).astype(np.float32)
        assert "cannot tell" in found(doctor(particle_set.write(tmp_path)), "contrast").message


class TestPoses:
    def test_shifts_of_the_other_sign(self, particle_set, tmp_path: Path) -> None:
        for name in ("OriginXAngst", "OriginYAngst"):
            particle_set.columns[name] = [-value for value in particle_set.columns[name]]
        finding = found(doctor(particle_set.write(tmp_path)), "structure")
        assert finding.level == "problem"
        assert "shifts of the other sign give" in finding.message

    def test_shifts_in_pixels(self, particle_set, tmp_path: Path) -> None:
        for name in ("OriginXAngst", "OriginYAngst"):
            particle_set.columns[name] = [value / 4.0 for value in particle_set.columns[name]]
        finding = found(doctor(particle_set.write(tmp_path)), "structure")
        assert finding.level == "problem"
        assert "shifts that are pixels where Angstrom is written give" in finding.message

    def test_transposed_rotations(self, particle_set, tmp_path: Path) -> None:
        columns = particle_set.columns
        inverse = {"AngleRot": "AnglePsi", "AngleTilt": "AngleTilt", "AnglePsi": "AngleRot"}
        columns |= {name: [-value for value in columns[other]] for name, other in inverse.items()}
        finding = found(doctor(particle_set.write(tmp_path)), "structure")
        assert finding.level == "problem"
        assert "transposed" in finding.message

    def test_images_upside_down(self, particle_set, tmp_path: Path) -> None:
        # Row 0 has no partner about the origin n//2: roll it back after the flip.
        particle_set.images = np.roll(particle_set.images[:, ::-1], 1, axis=1)
        finding = found(doctor(particle_set.write(tmp_path)), "structure")
        assert finding.level == "problem"
        assert "upside down" in finding.message

    def test_poses_of_other_images(self, particle_set, tmp_path: Path) -> None:
        order = np.random.default_rng(4).permutation(240)
        for name in ("AngleRot", "AngleTilt", "AnglePsi"):
            particle_set.columns[name] = [particle_set.columns[name][i] for i in order]
        finding = found(doctor(particle_set.write(tmp_path)), "structure")
        assert finding.level == "problem"

    def test_too_few_images_to_judge(self, particle_set, tmp_path: Path) -> None:
        assert found(doctor(particle_set.write(tmp_path), n_images=5), "structure").level == "note"


def test_unknown_symmetry(particle_set, tmp_path: Path) -> None:
    with pytest.raises(PosterionError, match="Q7"):
        doctor(particle_set.write(tmp_path), point_group="Q7")
