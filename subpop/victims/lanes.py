"""Sixteen float32 in registers: the word that Numba lacks for explicit vector code.

Loops over sixteen hidden units that Numba compiles itself are not kept in registers: with the same bits they train an Adult
network 3.5 times slower, and one for the digits 7 times. `plain_lanes` says in numpy what each word means, and takes over where
these cannot be built; nothing else of the package writes LLVM instructions.
Machine code on disk does not notice changes here: `mlp_kernel.BUILT_FROM` must follow them, and a test says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from subpop.types import Floats
from subpop.victims import plain_lanes
from subpop.victims.compiled import compiled

LANES = plain_lanes.LANES
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_ZEROS = ir.Constant(_VECTOR, [0.0] * LANES)
_Instruction = tuple[Any, Callable[[Any, Any, Any, Any], Any]]


class Vector(types.Type):
    """The Numba type of sixteen float32."""

    def __init__(self) -> None:
        super().__init__(name="float32x16")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, _VECTOR)  # type: ignore[no-untyped-call]


vector = Vector()


def instruction(define: Callable[..., _Instruction]) -> Any:
    """A function of compiled code whose LLVM instructions `define` writes."""
    return intrinsic(define)


def _address(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])


def _sixteen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.bitcast(_address(context, builder, signature, arguments), _VECTOR.as_pointer())


def _lanes(builder: Any, value: Any, chosen: Sequence[int]) -> Any:
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(chosen)), list(chosen))
    return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), mask)


def _spread(builder: Any, scalar: Any) -> Any:
    nothing, first = ir.Constant(_VECTOR, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    return _lanes(builder, builder.insert_element(nothing, scalar, first), [0] * LANES)


@instruction
def get(_: Any, array: Any, index: Any) -> _Instruction:
    """`array[index]`, unchecked, without Python's reading of negative indices."""
    return array.dtype(array, types.intp), lambda c, b, s, a: b.load(_address(c, b, s, a))


@instruction
def load(_: Any, array: Any, index: Any) -> _Instruction:
    """Sixteen floats of `array` from `index` on, unchecked."""
    return vector(array, types.intp), lambda c, b, s, a: b.load(_sixteen(c, b, s, a), align=4)


@instruction
def store(_: Any, array: Any, index: Any, value: Any) -> _Instruction:
    """Write sixteen floats to `array` from `index` on, unchecked."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _sixteen(context, builder, signature, arguments), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), emit


@instruction
def fill(_: Any, scalar: Any) -> _Instruction:
    """Sixteen times one float."""
    return vector(types.float32), lambda c, b, s, a: _spread(b, a[0])


@instruction
def multiply_add(_: Any, factor: Any, value: Any, sums: Any) -> _Instruction:
    """factor * value + sums, rounded once where the processor can; `factor` is a float or a vector."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name, module = f"llvm.fmuladd.v{LANES}f32", builder.module
        function = module.globals.get(name) or ir.Function(module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), name)
        factors = arguments[0] if signature.args[0] == vector else _spread(builder, arguments[0])
        return builder.call(function, [factors, *arguments[1:]])

    return vector(vector if factor == vector else types.float32, vector, vector), emit


@instruction
def where_positive(_: Any, test: Any, value: Any) -> _Instruction:
    """`value` where `test` > 0, else 0."""
    return vector(vector, vector), lambda c, b, s, a: b.select(b.fcmp_ordered(">", a[0], _ZEROS), a[1], _ZEROS)


@instruction
def total(_: Any, value: Any) -> _Instruction:
    """The sum of sixteen floats, one half added to the other."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, width = arguments[0], LANES
        while width > 1:
            width //= 2
            sums = builder.fadd(_lanes(builder, sums, range(width)), _lanes(builder, sums, range(width, 2 * width)))
        return builder.extract_element(sums, ir.Constant(ir.IntType(32), 0))

    return types.float32(vector), emit


# --- whether they work here -------------------------------------------------------------------------------------------


@compiled
def _all_words(array: Floats) -> Any:
    units = load(array, LANES)
    store(array, 0, multiply_add(get(array, 2), units, fill(get(array, 1))))
    return total(multiply_add(units, where_positive(units, units), load(array, 0)))


def works() -> str:
    """Why these words cannot be used with the Numba and on the processor at hand; empty where they can."""
    array = np.arange(2 * LANES, dtype=np.float32) - 20
    expected = array[LANES:] * array[2] + array[1]
    wanted = float((array[LANES:] * array[LANES:].clip(0) + expected).sum())
    try:
        found = _all_words(array)
    except Exception as error:  # whatever another version of Numba makes of instructions that it does not know
        return f"{type(error).__name__}: {error}"
    return "" if found == wanted and np.array_equal(array[:LANES], expected) else "wrong sums"
