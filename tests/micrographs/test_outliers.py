import numpy as np

from posterion.micrographs.outliers import unlike_places

RNG = np.random.default_rng(1)
SHAPE, RADIUS = (120, 140), 6.0


def field() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Micrograph, local standard deviation, and candidates on a grid."""
    values = RNG.standard_normal(SHAPE).astype(np.float32)
    local_sd = np.exp(0.05 * RNG.standard_normal(SHAPE)).astype(np.float32)
    rows, columns = np.mgrid[10:115:15, 10:135:15]
    return values, local_sd, np.stack([rows.ravel(), columns.ravel()], 1)


def test_ice_and_carbon_are_unlike_and_the_rest_is_not() -> None:
    values, local_sd, candidates = field()
    values[30:44, 50:64] -= 8
    local_sd[80:110, 90:120] *= 2
    beyond = unlike_places(values, local_sd, candidates, RADIUS, 6.0)
    assert beyond[37, 57]
    assert beyond[95, 105]
    assert beyond[60:75].mean() == 0
    assert beyond[:20].mean() == 0
    assert not unlike_places(values, local_sd, candidates, RADIUS, 0.0).any()


def test_strong_particles_that_are_few_are_not_unlike() -> None:
    values, local_sd, _ = field()
    places = np.array([[20, 20], [60, 70], [100, 110], [30, 100], [90, 30]])
    for row, column in places:
        values[row - 5 : row + 6, column - 5 : column + 6] += 9
        local_sd[row - 5 : row + 6, column - 5 : column + 6] *= 3
    beyond = unlike_places(values, local_sd, places, RADIUS, 6.0)
    assert not beyond[places[:, 0], places[:, 1]].any()
    assert unlike_places(values, local_sd, np.array([[50, 50]] * 5), RADIUS, 6.0)[20, 20]


def test_less_texture_is_no_reason() -> None:
    values, local_sd, candidates = field()
    local_sd[40:80, 40:80] *= 0.3
    assert not unlike_places(values, local_sd, candidates, RADIUS, 6.0).any()
