"""From micrographs to particles: reading micrographs, fitting their CTF, finding the particles in them."""

from posterion.micrographs.ctf_driver import CtfRun, ctf
from posterion.micrographs.ctf_estimation import CtfEstimate, CtfOptions, estimate_ctf
from posterion.micrographs.extract_run import ExtractResult, extract
from posterion.micrographs.extraction import ExtractOptions
from posterion.micrographs.pick_run import PickResult, Template, pick
from posterion.micrographs.picking import PickOptions
from posterion.micrographs.reading import Micrograph, read_micrograph
from posterion.micrographs.simulation import simulate_micrograph

__all__ = [
    "CtfEstimate",
    "CtfOptions",
    "CtfRun",
    "ExtractOptions",
    "ExtractResult",
    "Micrograph",
    "PickOptions",
    "PickResult",
    "Template",
    "ctf",
    "estimate_ctf",
    "extract",
    "pick",
    "read_micrograph",
    "simulate_micrograph",
]
