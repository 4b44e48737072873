"""Posterion: cryo-EM maps from particle images by maximum likelihood."""

from posterion.data.mrc import read_map, write_map
from posterion.data.particles import OpticsGroup, Particles, Poses, Supplement
from posterion.errors import PosterionError
from posterion.inference.single import PosePosterior, posterior
from posterion.mapping.average import ClassAverage, average
from posterion.mapping.correct import Correction, correct
from posterion.mapping.fsc import FscCurves, fsc_curves
from posterion.mapping.masks import automatic_mask
from posterion.mapping.postprocess import postprocess
from posterion.mapping.reconstruct import Reconstruction, reconstruct
from posterion.micrographs.ctf_driver import CtfRun, ctf
from posterion.micrographs.ctf_estimation import CtfEstimate, CtfOptions, estimate_ctf
from posterion.micrographs.reading import Micrograph, read_micrograph
from posterion.physics.phantom import phantom_map
from posterion.physics.projection import FourierVolume
from posterion.physics.simulate import SimulatedSet, SimulationOptions, simulate
from posterion.refine.options import RefineOptions
from posterion.refine.run import RefineResult, refine

__all__ = [
    "ClassAverage",
    "Correction",
    "CtfEstimate",
    "CtfOptions",
    "CtfRun",
    "FourierVolume",
    "FscCurves",
    "Micrograph",
    "OpticsGroup",
    "Particles",
    "PosePosterior",
    "Poses",
    "PosterionError",
    "Reconstruction",
    "RefineOptions",
    "RefineResult",
    "SimulatedSet",
    "SimulationOptions",
    "Supplement",
    "automatic_mask",
    "average",
    "correct",
    "ctf",
    "estimate_ctf",
    "fsc_curves",
    "phantom_map",
    "posterior",
    "postprocess",
    "read_map",
    "read_micrograph",
    "reconstruct",
    "refine",
    "simulate",
    "write_map",
]
