"""From micrographs to particles: reading micrographs, fitting their CTF, finding the particles in them."""

from posterion.micrographs.ctf_driver import CtfRun, ctf
from posterion.micrographs.ctf_estimation import CtfEstimate, CtfOptions, estimate_ctf
from posterion.micrographs.reading import Micrograph, read_micrograph
from posterion.micrographs.simulation import simulate_micrograph

__all__ = [
    "CtfEstimate",
    "CtfOptions",
    "CtfRun",
    "Micrograph",
    "ctf",
    "estimate_ctf",
    "read_micrograph",
    "simulate_micrograph",
]
