"""The scalar bodies: as plain Python, compiled for the CPU, and for GPUs that need not be there."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import njit

from posterion.kernels import bodies


@njit
def compiled_lerp(a, b, t):  # type: ignore[no-untyped-def]
    return bodies.lerp(a, b, t)


@njit
def compiled_split(x):  # type: ignore[no-untyped-def]
    return bodies.split_position(x)


@pytest.mark.parametrize(("t", "expected"), [(0.0, 3.0), (1.0, 5.0), (0.25, 3.5)])
def test_lerp(t: float, expected: float) -> None:
    assert bodies.lerp(np.float32(3), np.float32(5), np.float32(t)) == expected
    assert compiled_lerp(np.float32(3), np.float32(5), np.float32(t)) == expected


@pytest.mark.parametrize("x", [0.0, 0.25, 2.0, 7.75])
def test_split_position(x: float) -> None:
    whole, fraction = bodies.split_position(np.float32(x))
    assert whole + fraction == x
    assert 0 <= fraction < 1
    assert (whole, fraction) == compiled_split(np.float32(x))


def test_product_is_that_of_complex_numbers() -> None:
    assert complex(*bodies.product((2, 3), (5, -7))) == (2 + 3j) * (5 - 7j)


def test_bilinear_and_its_slopes() -> None:
    """A plane ``1 + 2 y + 3 z`` and its twist ``5 y z`` are interpolated exactly."""
    y, z = 0.25, 0.75
    corners = 1.0, 3.0, 4.0, 11.0
    value = 1 + 2 * y + 3 * z + 5 * y * z
    assert bodies.bilinear(*corners, y, z) == value
    assert bodies.bilinear_slopes(*corners, y, z) == (value, 2 + 5 * z, 3 + 5 * y)


def launched(*arguments: str, **environment: str) -> dict[str, Any]:
    """Run tests/kernels/cuda_launchers.py in a process of its own: numba.cuda is configured when imported."""
    script = Path(__file__).with_name("cuda_launchers.py")
    command = [sys.executable, str(script), *arguments]
    found = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    answer: dict[str, Any] = json.loads(found.stdout)
    return answer


def test_simulated_gpu_agrees_with_the_cpu() -> None:
    differences = launched("simulate", NUMBA_ENABLE_CUDASIM="1")
    assert set(differences) == {"gather", "insert", "score"}
    assert max(differences.values()) < 1e-5


@pytest.mark.parametrize("capability", ["8.0", "9.0"])
def test_compiles_for_gpus_without_one(capability: str, tmp_path: Path) -> None:
    """To PTX by NVVM, and that to machine code by ptxas, whose answer is a cubin: an ELF file."""
    if not all(find_spec(name) for name in ("numba_cuda", "nvidia", "nvidia.cuda_nvcc", "nvidia.cuda_nvrtc")):
        pytest.skip(
            "numba-cuda and its compilers are not installed: pip install 'posterion[test]' (Linux, x86-64)"
        )
    compilers = find_spec("nvidia.cuda_nvcc")
    assert compilers is not None
    assert compilers.submodule_search_locations is not None
    ptxas = Path(compilers.submodule_search_locations[0]) / "bin" / "ptxas"
    architecture = "sm_" + capability.replace(".", "")
    for name, ptx in launched("compile", capability, NUMBA_FORCE_CUDA_CC=capability).items():
        source, binary = tmp_path / f"{name}.ptx", tmp_path / f"{name}.cubin"
        source.write_text(ptx)
        assert f".target {architecture}" in ptx
        subprocess.run([ptxas, f"-arch={architecture}", source, "-o", binary], check=True)
        assert binary.read_bytes()[:4] == b"\x7fELF"
