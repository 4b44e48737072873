from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from posterion.micrographs.correlation import Correlator
from posterion.micrographs.noise_model import NoiseSpectrum
from posterion.micrographs.templates import TemplateBank, blob_templates, map_templates

Real = NDArray[np.float32]
PIXEL, DIAMETER, LOWPASS, SHAPE = 8.0, 150.0, 25.0, (60, 70)
NOISE = NoiseSpectrum(np.array([0.0, 0.1, 0.5]), np.array([3.0, 1.5, 1.0]))


@pytest.fixture(scope="module")
def bank(density: Real) -> TemplateBank:
    return map_templates(density, 4.0, PIXEL, DIAMETER, LOWPASS, symmetry="D7")


def test_score_is_the_normalised_sum_over_the_window(
    bank: TemplateBank, ctf: Callable[[Real, Real], Real]
) -> None:
    """Each template filtered on its own, moved with np.roll, summed pixel by pixel: no FFT correlation."""
    correlator = Correlator(bank, SHAPE, PIXEL, DIAMETER, LOWPASS)
    values = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    transfer = correlator.transfer(NOISE, ctf(correlator.fx, correlator.fy))
    scores = correlator.score(values, transfer)
    ny, nx = grid = transfer.whitening.shape[0], 2 * (transfer.whitening.shape[1] - 1)
    white = np.fft.irfft2(np.fft.rfft2(values, s=grid) * transfer.whitening, s=grid)
    gain = np.fft.irfft2(correlator.band**2, s=grid)[0, 0]  # variance of white noise after the band
    y, x = np.mgrid[:ny, :nx]
    box = bank.box_px
    for row, column in ((30, 35), (11, 60), (0, 20)):
        best = -np.inf
        inside = (y < SHAPE[0]) & (x < SHAPE[1])
        weight = np.clip(DIAMETER / (2 * PIXEL) - np.hypot(y - row, x - column) + 0.5, 0, 1) * inside
        local = np.sqrt((white**2 * weight).sum() / weight.sum() / gain)
        for template in np.tensordot(bank.weights_kr, bank.images_r, 1)[::37]:
            placed = np.zeros(grid)
            placed[:box, :box] = template
            placed = np.roll(placed, (row - box // 2, column - box // 2), (0, 1))
            filtered = np.fft.irfft2(np.fft.rfft2(placed) * transfer.detector, s=grid)
            sd = np.sqrt((np.fft.irfft2(np.fft.rfft2(filtered) * correlator.band, s=grid) ** 2).sum())
            best = max(best, float((white * filtered).sum() / sd / local))
        chosen = TemplateBank(bank.images_r, bank.weights_kr[::37], bank.class_k[::37], bank.psi_deg_k[::37])
        subset = Correlator(chosen, SHAPE, PIXEL, DIAMETER, LOWPASS).score(values, transfer)
        assert subset.score_yx[row, column] == pytest.approx(best, rel=2e-3)
        assert scores.local_sd_yx[row, column] == pytest.approx(local, rel=2e-3)
        assert scores.score_yx[row, column] >= subset.score_yx[row, column] - 1e-4


def test_one_template_on_noise_has_variance_one(ctf: Callable[[Real, Real], Real]) -> None:
    balls = blob_templates(PIXEL, DIAMETER, LOWPASS)
    one = TemplateBank(
        balls.images_r, balls.weights_kr[:1], balls.class_k[:1], balls.psi_deg_k[:1], has_shape=False
    )
    correlator = Correlator(one, (200, 220), PIXEL, DIAMETER, LOWPASS)
    transfer = correlator.transfer(NOISE, ctf(correlator.fx, correlator.fy))
    noise = correlator.white_noise(np.random.default_rng(2), transfer)
    inner = noise.score_yx[20:-20, 20:-20]
    assert inner.std() == pytest.approx(1, abs=0.06)  # some 1,000 independent values
    assert abs(inner.mean()) < 0.1
    assert noise.local_sd_yx[20:-20, 20:-20].mean() == pytest.approx(1, abs=0.02)


def test_best_template_is_the_one_that_is_there(bank: TemplateBank) -> None:
    correlator = Correlator(bank, SHAPE, PIXEL, DIAMETER, LOWPASS)
    values = np.zeros(SHAPE, np.float32)
    box, wanted = bank.box_px, 17
    template = np.tensordot(bank.weights_kr[wanted], bank.images_r, 1)
    values[30 - box // 2 : 30 - box // 2 + box, 40 - box // 2 : 40 - box // 2 + box] = template
    values += 0.01 * template.max() * np.random.default_rng(3).standard_normal(SHAPE).astype(np.float32)
    flat = NoiseSpectrum(np.array([0.0, 0.5]), np.array([1.0, 1.0]))
    scores = correlator.score(values, correlator.transfer(flat, None))
    row, column = np.unravel_index(scores.score_yx.argmax(), SHAPE)
    assert (row, column) == (30, 40)
    assert scores.best_templates(np.array([[30, 40]]))[0] == wanted
