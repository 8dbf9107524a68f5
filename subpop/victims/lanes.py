"""Sixteen float32 in registers: the word that Numba lacks for explicit vector code.

Loops over sixteen hidden units that Numba compiles itself are neither kept in registers nor summed in a known order.
Kept machine code does not notice changes here: `mlp_kernel.BUILT_FROM` must follow them, and a test says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

LANES = 16
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
