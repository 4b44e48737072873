import numpy as np
import pytest

from posterion.micrographs.sector_spectrum import sector_spectrum


def test_bins_against_a_loop_over_pixels() -> None:
    n, size = 64, 1.7
    power = np.random.default_rng(0).gamma(4, 1, (n, n // 2 + 1))
    spectrum = sector_spectrum(power, size, 0.05, 0.25)
    sums: dict[tuple[int, int], list[float]] = {}
    for row in range(n):
        for kx in range(2, n // 2 + 1):
            ky = row if row < n // 2 else row - n
            shell = round(float(np.hypot(kx, ky)))
            if abs(ky) > 1 and round(0.05 * n * size) <= shell <= int(0.25 * n * size):
                sector = int(np.degrees(np.arctan2(ky, kx)) % 180 / 5)
                sums.setdefault((sector, shell - round(0.05 * n * size)), []).append(power[row, kx])
    assert len(sums) > 400
    for (sector, shell), values in sums.items():
        assert spectrum.count_as[sector, shell] == len(values)
        assert spectrum.log_power_as[sector, shell] == pytest.approx(np.log(np.mean(values)))
    assert spectrum.count_as.sum() == sum(map(len, sums.values())) == len(spectrum.pixel_p)
    counted = np.bincount(spectrum.bin_p, minlength=spectrum.count_as.size).reshape(spectrum.count_as.shape)
    np.testing.assert_array_equal(counted, spectrum.count_as)


def test_places_of_the_bins() -> None:
    spectrum = sector_spectrum(np.ones((128, 65)), 2.0, 0.05, 0.2)
    assert (spectrum.frequency_s[0], spectrum.frequency_s[-1]) == (13 / 256, 51 / 256)
    radius = np.hypot(spectrum.frequency_x_as, spectrum.frequency_y_as)
    assert np.abs(radius - spectrum.frequency_s).max() < 0.5 / 256
    azimuth = np.degrees(np.arctan2(spectrum.frequency_y_as, spectrum.frequency_x_as))
    np.testing.assert_allclose(azimuth, np.broadcast_to(spectrum.azimuth_deg_a[:, None], azimuth.shape))
    np.testing.assert_allclose(spectrum.azimuth_deg_a, np.arange(2.5, 180, 5))
    np.testing.assert_array_equal(spectrum.log_power_as, 0)
