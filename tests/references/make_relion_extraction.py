"""Freeze what relion_preprocess cuts from a micrograph in relion_extraction.npz (needs RELION 3.1 on PATH).

Run from any folder: python tests/references/make_relion_extraction.py
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import scipy.ndimage

from posterion.data.mrc import open_stack, write_map

BOX, NEW_BOX, RADIUS_PX, NEW_RADIUS_PX = 24, 16, 9, 6
POSITIONS = [(50, 40), (12, 12), (93, 63), (20, 57), (57, 21)]
OPTIONS = {
    "window": [],
    "ramp_removed": ["--norm", "--bg_radius", str(RADIUS_PX)],
    "mean_removed": ["--norm", "--bg_radius", str(RADIUS_PX), "--no_ramp"],
    "rescaled": ["--scale", str(NEW_BOX)],
    "all": ["--scale", str(NEW_BOX), "--norm", "--bg_radius", str(NEW_RADIUS_PX), "--invert_contrast"],
}
STAR = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
og1 1 2.0 300.0 2.7 0.1


# version 30001

data_micrographs

loop_
_rlnMicrographName #1
_rlnOpticsGroup #2
a.mrc 1

"""


def main() -> None:
    """Smooth noise on a slope, five particles, one of them in the corner."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:75, :105]
    noise = scipy.ndimage.gaussian_filter(rng.standard_normal(y.shape), 1.2)
    values = (3 * noise + 0.02 * x - 0.03 * y + 5).astype(np.float32)
    frozen = {"micrograph": values, "positions_xy": np.array(POSITIONS)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_map(folder / "a.mrc", values[None], 2.0)
        (folder / "micrographs.star").write_text(STAR)
        rows = "".join(f"{x} {y}\n" for x, y in POSITIONS)
        header = "\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
        (folder / "a_pick.star").write_text(header + rows + "\n")
        for label, extra in OPTIONS.items():
            command = ["relion_preprocess", "--i", "micrographs.star", "--coord_dir", "./"]
            command += ["--coord_suffix", "_pick.star", "--part_dir", f"{label}/", "--extract"]
            command += ["--part_star", f"{label}.star", "--extract_size", str(BOX), *extra]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            frozen[label] = np.array(open_stack(folder / label / "a.mrcs"))
    np.savez_compressed(Path(__file__).with_name("relion_extraction.npz"), **frozen)


if __name__ == "__main__":
    main()
