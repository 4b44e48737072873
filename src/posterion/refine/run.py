"""A whole refinement: prepare, iterate with a checkpoint after each step, write the results; or go on."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterion.compute import NullProgress, StageProgress, Workers
from posterion.data.mrc import write_map
from posterion.data.outliers import LEFT_OUT, scale_warnings
from posterion.data.output_folder import open_folder
from posterion.data.particles import Particles
from posterion.errors import PosterionError
from posterion.mapping.fsc import FscCurves, read_fsc
from posterion.refine.auto_refine import MapSet, step
from posterion.refine.checkpoint import Checkpoint, save_checkpoint
from posterion.refine.context import RefineContext
from posterion.refine.folder import CHECKPOINT, SUMMARY, find_checkpoint, finished_summary
from posterion.refine.forecast import forecast, memory_available_bytes, seconds_left
from posterion.refine.inputs import Inputs, prepare
from posterion.refine.options import RefineOptions, Sources, write_config
from posterion.refine.outputs import (
    ResultMaps,
    judge,
    peak_memory_bytes,
    resolutions,
    result_mask,
    versions,
    warn_of_left_out,
    write_iterations,
    write_maps,
    write_particles,
    write_quarantine,
    write_summary,
)
from posterion.refine.start import init
from posterion.refine.state import IterationInfo
from posterion.refine.subsets import searched, searched_count

__all__ = ["RefineResult", "refine"]

_LOG = logging.getLogger("posterion")
_TELL_TIME_AFTER = (2, 4, 8, 16)


@dataclass(frozen=True)
class RefineResult:
    """Where a finished run is, and what it reached.

    Attributes
    ----------
    folder : holds map.mrc, half1.mrc, half2.mrc, mask.mrc, fsc.tsv, particles.star, summary.json, ...
    summary : what summary.json says
    curves : FSC curves of the half maps
    was_finished : whether the run had been finished before, so that nothing was computed
    """

    folder: Path
    summary: dict[str, Any]
    curves: FscCurves
    was_finished: bool = False


def refine(
    particles: str | Path | Particles,
    reference: str | Path | NDArray[np.floating],
    output: str | Path,
    diameter_angstrom: float,
    options: RefineOptions | None = None,
    progress: StageProgress = NullProgress,
) -> RefineResult:
    """Refine a map and the poses of particle images from a starting map: gold-standard maximum likelihood.

    Both half sets are refined independently (docs/theory.md) until neither resolution nor map changes; a
    last pass joins them at all frequencies. The state is saved after each iteration: the same call goes on
    from there, to an identical result, and returns at once where it is finished.

    Parameters
    ----------
    particles : particle file (.star, .cs, .par) or set
    reference : MRC file or (m, m, m) array on the images' pixel size; any box, pixel size and grey scale
    output : folder for the results; made where needed
    diameter_angstrom : of the particle, Angstrom
    options : everything else
    progress : shows progress, for instance `posterion.report.progress.Progress`

    Raises
    ------
    PosterionError
        When inputs or options cannot be used, or the folder holds another run or cannot be written.
    """
    folder, options = Path(output), options or RefineOptions()
    inputs = prepare(particles, reference, diameter_angstrom, options)
    mark = inputs.fingerprint()
    summary = finished_summary(folder, mark)
    if summary is not None:
        (folder / CHECKPOINT).unlink(missing_ok=True)
        _LOG.info("%s: this run is finished; its results are there", folder)
        return RefineResult(folder, summary, read_fsc(folder / "fsc.tsv"), was_finished=True)
    checkpoint = find_checkpoint(folder, mark)
    with open_folder(folder), Workers(options.threads) as workers:
        run = _Run(folder, inputs, inputs.context(workers), _Meter(checkpoint), progress)
        run.announce(checkpoint)
        try:
            return run.finish(run.iterate(run.begin(mark) if checkpoint is None else checkpoint))
        except KeyboardInterrupt:
            _LOG.info("stopped; the same command goes on from the last finished iteration")
            raise


class _Meter:
    """Wall and CPU time of this process since now, and its peak memory, added to what a checkpoint says."""

    def __init__(self, before: Checkpoint | None) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self._before = before

    def read(self) -> dict[str, Any]:
        """Fields of a `Checkpoint`."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        if self._before is None:
            return {"wall_seconds": wall, "cpu_seconds": cpu, "peak_bytes": peak_memory_bytes()}
        return {
            "wall_seconds": self._before.wall_seconds + wall,
            "cpu_seconds": self._before.cpu_seconds + cpu,
            "peak_bytes": max(self._before.peak_bytes, peak_memory_bytes()),
        }


@dataclass(frozen=True)
class _Run:
    """One run at work in its folder."""

    folder: Path
    inputs: Inputs
    context: RefineContext
    meter: _Meter
    progress: StageProgress

    def announce(self, checkpoint: Checkpoint | None) -> None:
        """Say what is about to happen, and what it will need."""
        particles, config, half_i = self.inputs.particles, self.inputs.config, self.inputs.half_i
        _LOG.info(
            "%s particles, box %d px of %g A, diameter %g A, symmetry %s, %s; halves of %d and %d",
            f"{len(particles):,}",
            particles.box_px,
            particles.pixel_size_angstrom,
            config.diameter_angstrom,
            config.point_group,
            config.method,
            np.count_nonzero(half_i == 1),
            np.count_nonzero(half_i == 2),
        )
        for note in self.inputs.notes:
            _LOG.info("%s", note)
        for warning in self.inputs.warnings:
            _LOG.warning("%s", warning)
        if checkpoint is None:
            _tell_forecast(self.context)
        else:
            _LOG.info("going on from iteration %d, the last that was finished", checkpoint.state.iteration)

    def begin(self, mark: dict[str, Any]) -> Checkpoint:
        """Make the first state, save it, and write config.toml."""
        inputs, config = self.inputs, self.inputs.config
        _LOG.info("measuring the noise, fitting the reference's grey scale to the images")
        state, scale = init(self.context, inputs.reference)
        if not scale > 0:
            raise PosterionError(
                f"the reference fits the images with a negative grey scale ({scale:.3g}): one of them has "
                "inverted contrast; give --invert-contrast if particles are dark in the images, else "
                "multiply the reference by -1"
            )
        checkpoint = Checkpoint(state, (), mark, scale, 0.0, 0.0, 0)
        save_checkpoint(self.folder / CHECKPOINT, checkpoint)
        reference = inputs.reference_path
        if reference is None:
            reference = self.folder / "reference.mrc"
            write_map(reference, inputs.reference, self.context.pixel_size)
        sources = Sources(inputs.particles_path, reference, config.diameter_angstrom)
        write_config(self.folder / "config.toml", sources, inputs.options)
        _LOG.info(
            "reference low-passed to %.1f A; its grey scale was multiplied by %.4g to fit the images",
            config.initial_lowpass_angstrom,
            scale,
        )
        return checkpoint

    def iterate(self, checkpoint: Checkpoint) -> Checkpoint:
        """Step until converged, saving each state."""
        while (
            not checkpoint.state.converged and checkpoint.state.iteration < self.context.config.max_iterations
        ):
            subset = checkpoint.state.search.subset
            checkpoint, _ = self._step(checkpoint, final=False)
            checkpoint = replace(checkpoint, **self.meter.read())
            save_checkpoint(self.folder / CHECKPOINT, checkpoint)
            write_iterations(self.folder / "iterations.jsonl", checkpoint.history)
            self._quarantine(checkpoint, subset)
            if checkpoint.state.iteration in _TELL_TIME_AFTER:
                self._tell_time_left(checkpoint)
        if not checkpoint.state.converged:
            _LOG.warning("not converged after %d iterations", checkpoint.state.iteration)
        return checkpoint

    def _tell_time_left(self, checkpoint: Checkpoint) -> None:
        """Correct the forecast by what the iterations have shown: breadth of posteriors, speed."""
        left = seconds_left(checkpoint.history, len(self.context.particles), self.context.config)
        _LOG.info("about %s left, if it goes on as in the last iteration", _duration(left))

    def _quarantine(self, checkpoint: Checkpoint, subset: int) -> None:
        """List images that were left out, and say so where the last iteration met more of them."""
        *earlier, last = (info.quarantined for info in checkpoint.history)
        if last <= max(earlier, default=0):
            return
        searched_i = searched(self.context.half_i, subset, self.context.config.seed)
        left_in = checkpoint.state.particles.usable | ~searched_i
        lines = write_quarantine(self.folder / "quarantine.txt", self.context.particles, left_in)
        warn_of_left_out(lines, searched_count(self.context.half_i, subset))

    def _step(self, checkpoint: Checkpoint, final: bool) -> tuple[Checkpoint, MapSet | None]:
        """One iteration, its progress shown and its line logged."""
        name = f"iteration {checkpoint.state.iteration + 1}" + (", last, all frequencies" if final else "")
        count = searched_count(self.context.half_i, 0 if final else checkpoint.state.search.subset)
        with self.progress(name, count) as stage:
            context = replace(self.context, observer=stage.advance)
            state, info, maps = step(context, checkpoint.state, final)
        _refuse_empty_halves(self.context, state.particles.usable)
        _LOG.info("%s", _line(info))
        return replace(checkpoint, state=state, history=(*checkpoint.history, info)), maps

    def finish(self, checkpoint: Checkpoint) -> RefineResult:
        """Run the last iteration and write all results; summary.json comes last, then the checkpoint goes."""
        folder, inputs, pixel_size = self.folder, self.inputs, self.context.pixel_size
        done, found = self._step(checkpoint, final=True)
        maps = _result_maps(inputs, found, pixel_size)
        curves, warnings = judge(maps, pixel_size, inputs.config.seed, self.context.workers.threads)
        for warning in warnings:
            _LOG.warning("%s", warning)
        write_maps(folder, maps, curves)
        estimates = done.state.particles
        write_particles(folder / "particles.star", inputs.particles, inputs.half_i, estimates)
        left_out = write_quarantine(folder / "quarantine.txt", self.context.particles, estimates.usable)
        write_iterations(folder / "iterations.jsonl", done.history)
        summary = _summary(inputs, replace(done, **self.meter.read()), curves)
        scales = scale_warnings(self.context.particles)
        summary |= {"quarantined": list(left_out), "warnings": [*scales, *warnings]}
        write_summary(folder / SUMMARY, summary)
        (folder / CHECKPOINT).unlink(missing_ok=True)
        _LOG.info(
            "resolution %.2f A, without mask %.2f A", curves.resolution(), curves.resolution(curve="unmasked")
        )
        return RefineResult(folder, summary, curves)


def _tell_forecast(context: RefineContext) -> None:
    need = forecast(len(context.particles), context.box, context.config, context.workers.threads)
    usual, broad = (f"{size / 1e9:.1f} GB" for size in (need.memory_bytes, need.broad_memory_bytes))
    more = "" if broad == usual else f" (up to {broad} if posteriors stay broad)"
    _LOG.info(
        "forecast: %s of memory, in the last iteration%s, and about %s on %d threads; %.0f MB of disk",
        usual,
        more,
        _duration(need.seconds),
        context.workers.threads,
        need.disk_bytes / 1e6,
    )
    available = memory_available_bytes()
    if available is not None and need.broad_memory_bytes > available:
        _LOG.warning(
            "this machine has %.1f GB of memory left: the run may be stopped for want of memory%s; fewer "
            "threads or a smaller box (binned images) need less",
            available / 1e9,
            "" if need.memory_bytes > available else " if posteriors stay broad",
        )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{max(5 * round(seconds / 5), 5)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _refuse_empty_halves(context: RefineContext, usable: NDArray[np.bool_]) -> None:
    for half in (1, 2):
        if not usable[context.half_i == half].any():
            raise PosterionError(
                f"no image of half set {half} can be used: all {LEFT_OUT}; 'posterion doctor' says more"
            )


def _line(info: IterationInfo) -> str:
    """Say what an iteration did, in one line."""
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in info.seconds.items())
    if info.search == "look" and info.moved_share is not None:
        return (
            f"iteration {info.iteration}, {info.particles:,} particles: a look at all orientations; "
            f"{100 * info.moved_share:.2f} % have a higher peak elsewhere; {phases}"
        )
    changes = ""
    if info.angle_change_deg is not None:
        changes = f"changes {info.angle_change_deg:.2f} deg and {info.shift_change_px:.2f} px, "
    return (
        f"iteration {info.iteration}, {info.particles:,} particles: {info.resolution_angstrom:.2f} A "
        f"(images compared to {info.compared_to_angstrom:.1f} A), Pmax {info.pmax:.2f}, "
        f"log-likelihood {info.log_likelihood:.2f}, "
        f"{changes}{info.search} search "
        f"in steps of {info.angular_step_deg:.2g} deg and {info.shift_step_px:.2g} px; {phases}"
    )


def _result_maps(inputs: Inputs, found: MapSet | None, pixel_size_angstrom: float) -> ResultMaps:
    """Join the maps to write; without a mask of the user's, one is made from the map."""
    if found is None or found.joined is None or found.joined_unfiltered is None:
        raise RuntimeError("the last iteration gave no joined map")
    mask = inputs.mask
    if inputs.options.mask is None:
        mask = result_mask(found.joined, inputs.mask, pixel_size_angstrom)
    return ResultMaps(found.joined, found.joined_unfiltered, found.unfiltered[0], found.unfiltered[1], mask)


def _summary(inputs: Inputs, done: Checkpoint, curves: FscCurves) -> dict[str, Any]:
    """Numbers of the run for summary.json; lengths in Angstrom, memory in bytes."""
    return {
        "command": "refine",
        **resolutions(curves),
        "iterations": done.state.iteration,
        "converged": done.state.converged,
        "particles": len(inputs.particles),
        "gaussian_share": round(done.history[-1].gaussian_share, 4),
        "diverged": done.history[-1].diverged,
        "diverged_at_most": max(info.diverged for info in done.history),
        "reference_scale": done.reference_scale,
        "wall_seconds": round(done.wall_seconds, 1),
        "cpu_seconds": round(done.cpu_seconds, 1),
        "cpu_seconds_per_particle": round(done.cpu_seconds / len(inputs.particles), 4),
        "peak_memory_bytes": done.peak_bytes,
        "seed": inputs.config.seed,
        "options": asdict(inputs.config),
        "versions": versions(),
        "fingerprint": done.fingerprint,
    }
