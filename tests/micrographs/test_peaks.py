import numpy as np

from posterion.micrographs.peaks import find_peaks


def field(*peaks: tuple[float, float, float]) -> np.ndarray:
    y, x = np.mgrid[:40, :50]
    return sum(h * np.exp(-((y - py) ** 2 + (x - px) ** 2) / 18.0) for px, py, h in peaks).astype(np.float32)


def test_positions_between_pixels_and_order() -> None:
    position, index = find_peaks(field((10.3, 20.4, 5.0), (35.0, 8.7, 7.0)), 3.0, 4.0)
    np.testing.assert_allclose(position, [[35.0, 8.7], [10.3, 20.4]], atol=0.02)
    assert index.tolist() == [[9, 35], [20, 10]]


def test_vertex_of_an_exact_parabola() -> None:
    y, x = np.mgrid[:9, :9]
    score = (10 - 0.3 * (x - 4.4) ** 2 - 0.2 * (y - 3.7) ** 2).astype(np.float32)
    np.testing.assert_allclose(find_peaks(score, 9.0, 3.0)[0], [[4.4, 3.7]], atol=1e-4)


def test_lower_neighbour_is_hidden_but_its_neighbour_is_not() -> None:
    """Of three in a row, 10 apart, the middle one is second: it goes, the third stays."""
    score = field((10, 20, 7.0), (20, 20, 6.0), (30, 20, 5.0))
    assert len(find_peaks(score, 3.0, 8.0)[0]) == 3
    np.testing.assert_allclose(find_peaks(score, 3.0, 12.0)[0], [[10, 20], [30, 20]], atol=0.1)


def test_threshold_forbidden_places_and_edges() -> None:
    score = field((10, 20, 7.0), (30, 20, 5.0), (0, 39, 6.0))
    assert len(find_peaks(score, 5.5, 5.0)[0]) == 2
    score[18:24, 7:11] = -np.inf
    position, _ = find_peaks(score, 6.5, 5.0)
    assert not any(np.allclose(p, (10, 20), atol=0.4) for p in position)
    assert len(find_peaks(np.full((5, 5), -np.inf, np.float32), 1.0, 2.0)[0]) == 0


def test_nothing_found() -> None:
    position, index = find_peaks(np.zeros((6, 6), np.float32), 1.0, 2.0)
    assert position.shape == index.shape == (0, 2)
