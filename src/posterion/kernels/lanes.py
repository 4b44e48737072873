"""A few float32 lanes of a vector register as one number in compiled code: load, arithmetic, halves, store.

Compiled code may call ``load4(flat, i)`` and treat what it gets as a number: ``+ - *`` among lanes and with a
float32. The two neighbours along x of a complex transform are one such load. LLVM's vector types are
portable; for a CPU without them it takes the lanes apart.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel.models import PrimitiveModel
from numba.extending import intrinsic, overload, register_model

__all__ = [
    "alternating_high",
    "alternating_low",
    "evens",
    "fetch_soon",
    "high",
    "joined",
    "load4",
    "load8",
    "low",
    "odds",
    "pair",
    "store",
]

_INDEX = ir.IntType(32)
_instruction: Any = intrinsic


class Lanes(types.Type):
    """Numba's type of ``n`` float32 lanes."""

    def __init__(self, n: int) -> None:
        self.n = n
        super().__init__(f"Lanes({n})")


def _llvm_type(n: int) -> ir.VectorType:
    return ir.VectorType(ir.FloatType(), n)


@register_model(Lanes)
class _LanesModel(PrimitiveModel):
    """In memory and in registers: an LLVM vector."""

    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, _llvm_type(lanes.n))  # type: ignore[no-untyped-call]


def _address(context: Any, builder: Any, signature: Any, args: Any, vector: Any) -> Any:
    """Pointer to a vector that starts at element ``args[1]`` of the flat array ``args[0]``."""
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return builder.bitcast(builder.gep(array.data, [args[1]]), vector.as_pointer())


def _selected(builder: Any, a: Any, b: Any, which: list[int]) -> Any:
    """Return the lanes ``which`` of a and b laid end to end."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INDEX, len(which)), which))


def _loads(n: int) -> Any:
    """Make the function that loads ``n`` elements of a flat float32 array from a start on."""

    @_instruction
    def load(typing: Any, flat: Any, start: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(_address(context, builder, signature, args, _llvm_type(n)), align=4)

        return Lanes(n)(flat, start), code

    return load


load4 = _loads(4)
load8 = _loads(8)


@_instruction
def store(typing: Any, flat: Any, start: Any, value: Any) -> Any:
    """Store lanes into a flat float32 array."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, signature, args, args[2].type), align=4)
        return context.get_dummy_value()

    return types.void(flat, start, value), code


@_instruction
def fetch_soon(typing: Any, flat: Any, start: Any) -> Any:
    """Ask the memory for the cache line of an element, into the second level: the first is too small."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _INDEX, _INDEX, _INDEX])
        prefetch = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            builder.module, kind, "llvm.prefetch.p0i8"
        )
        address = builder.bitcast(_address(context, builder, signature, args, ir.FloatType()), byte)
        builder.call(prefetch, [address, _INDEX(0), _INDEX(2), _INDEX(1)])
        return context.get_dummy_value()

    return types.void(flat, start), code


def _part(which: Callable[[int], list[int]]) -> Any:
    """Make the function that takes some of a number of lanes."""

    @_instruction
    def part(typing: Any, value: Any) -> Any:
        lanes = which(value.n)

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _selected(builder, args[0], args[0], lanes)

        return Lanes(len(lanes))(value), code

    return part


def _mixture(which: Callable[[int], list[int]]) -> Any:
    """Make the function that takes some lanes of two equal numbers of them, counted end to end."""

    @_instruction
    def mixture(typing: Any, a: Any, b: Any) -> Any:
        lanes = which(a.n)

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _selected(builder, args[0], args[1], lanes)

        return Lanes(len(lanes))(a, b), code

    return mixture


low = _part(lambda n: list(range(n // 2)))
high = _part(lambda n: list(range(n // 2, n)))
joined = _mixture(lambda n: list(range(2 * n)))
evens = _mixture(lambda n: list(range(0, 2 * n, 2)))
odds = _mixture(lambda n: list(range(1, 2 * n, 2)))
alternating_low = _mixture(lambda n: [lane for k in range(n // 2) for lane in (k, n + k)])
alternating_high = _mixture(lambda n: [lane for k in range(n // 2, n) for lane in (k, n + k)])


@_instruction
def pair(typing: Any, a: Any, b: Any) -> Any:
    """Make two lanes of two float32."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first = builder.insert_element(ir.Constant(_llvm_type(2), ir.Undefined), args[0], _INDEX(0))
        return builder.insert_element(first, args[1], _INDEX(1))

    return Lanes(2)(types.float32, types.float32), code


def _repeated(builder: Any, number: Any, n: int) -> Any:
    """Put one float32 into every lane."""
    empty = ir.Constant(_llvm_type(n), ir.Undefined)
    return _selected(builder, builder.insert_element(empty, number, _INDEX(0)), empty, [0] * n)


def _define(symbol: Callable[[Any, Any], Any], instruction: str) -> None:
    """Give lanes an operator, among themselves and with float32 on either side."""

    @_instruction
    def apply(typing: Any, a: Any, b: Any) -> Any:
        lanes = a if isinstance(a, Lanes) else b

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            each = zip(signature.args, args, strict=True)
            sides = [v if isinstance(t, Lanes) else _repeated(builder, v, lanes.n) for t, v in each]
            return getattr(builder, instruction)(*sides)

        return lanes(*(t if isinstance(t, Lanes) else types.float32 for t in (a, b))), code

    # Numba compares the signatures, annotations included.
    @overload(symbol, inline="always")
    def operator_of_lanes(a, b):  # type: ignore[no-untyped-def]
        if isinstance(a, Lanes) or isinstance(b, Lanes):
            return lambda a, b: apply(a, b)  # noqa: PLW0108
        return None


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
