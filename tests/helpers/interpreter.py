"""Triton's interpreter as the tests use it: it rounds as the hardware does, and does no work twice."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from triton.runtime import interpreter


def prepare_interpreter() -> None:
    """Change the interpreter of this process; to be called before a kernel is launched."""
    fuse_fma()
    patch_once_a_launch()
    reduce_by_halves()
    remember_dtypes()
    check_no_overflow()
    remember_shapes()


def fuse_fma() -> None:
    """Give the interpreter the hardware's fused multiply-add: one rounding, where NumPy's two would lose digits.

    The product of two float32 is exact in float64, so only the final rounding to float32 differs from the hardware's,
    and that by no more than a double rounding.
    """

    def create_fma(self, x, y, z):
        exact = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data.astype(np.float64)
        return interpreter.TensorHandle(exact.astype(x.data.dtype), z.dtype.scalar)

    interpreter.InterpreterBuilder.create_fma = create_fma


def patch_once_a_launch() -> None:
    """Let a launch put the interpreter's functions into Triton's language once, where every call of a helper did so.

    A kernel calls functions of its own and of Triton's library some twenty times a tile, and looking through all names
    of the language takes longer than what such a function computes. What is put there is the same each time.
    """
    patch, execute = interpreter._patch_lang, interpreter.GridExecutor.__call__
    patched: set[frozenset[str]] = set()

    @functools.cache
    def languages_of(function: Any) -> frozenset[str]:
        """The names of the modules that are patched for a function: those that are among its globals."""
        languages = (interpreter.tl, interpreter.tl.core)
        modules = filter(inspect.ismodule, function.__globals__.values())
        return frozenset(module.__name__ for module in modules if module in languages)

    def patch_once(function: Any) -> Any:
        languages = languages_of(function)
        if languages in patched:
            return None  # of a helper: only the launch itself asks for what undoes it
        patched.add(languages)
        return patch(function)

    def execute_alone(self: Any, *arguments: Any, **named: Any) -> Any:
        patched.clear()
        try:
            return execute(self, *arguments, **named)
        finally:
            patched.clear()

    interpreter._patch_lang = patch_once
    interpreter.GridExecutor.__call__ = execute_alone


def reduce_by_halves() -> None:
    """Let a reduction by a function of ours combine halves of a block, where the interpreter goes element by element.

    That is a call for each doubling in place of one for each element. In which order a device combines them is open
    too: such a function has to be associative.
    """
    by_element = interpreter.ReduceOps.generic_reduce

    def by_halves(self: Any, blocks: Any) -> list[Any]:
        if self.axis is None:
            return by_element(self, blocks)
        dtypes = [block.dtype for block in blocks]

        def tensors(arrays: Iterable[np.ndarray]) -> list[Any]:
            return [self.to_tensor(array, dtype) for array, dtype in zip(arrays, dtypes, strict=True)]

        arrays = [block.handle.data for block in blocks]
        while arrays[0].shape[self.axis] > 1:  # a power of two, as every size of a block is
            first, second = zip(*(np.split(array, 2, self.axis) for array in arrays), strict=True)
            combined = self.combine_fn.fn(*tensors(first), *tensors(second))
            arrays = [each.handle.data for each in (combined if isinstance(combined, tuple) else (combined,))]
        return tensors(arrays if self.keep_dims else [array.squeeze(self.axis) for array in arrays])

    interpreter.ReduceOps.generic_reduce = by_halves


def remember_dtypes() -> None:
    """Let the interpreter make the table that has NumPy's dtype for each of Triton's once, and not for each look."""
    find = interpreter._get_np_dtype
    of_scalar = functools.cache(find)

    def np_dtype(dtype: Any) -> np.dtype:
        return of_scalar(dtype) if type(dtype) is interpreter.tl.dtype else find(dtype)  # others have no hash

    interpreter._get_np_dtype = np_dtype


def check_no_overflow() -> None:
    """Spare the interpreter from computing beside each sum and product of integers whether it overflows.

    That is a third of its time, and with `debug` alone, which it does not have, does it look at what comes of it.
    """
    builder = interpreter.interpreter_builder
    assert not builder.options.debug
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def remember_shapes() -> None:
    """Let blocks of one shape have one description of it, which the interpreter makes for each of its values."""
    core = interpreter.tl.core

    @functools.cache
    def block_shape(shape: tuple[int, ...]) -> tuple[Any, int, str]:
        """As `block_type` has it: the shape, the number of elements, and the shape's text."""
        described = core.tuple(shape)
        return described, core.validate_block_shape(described), str(described)

    @functools.cache
    def tensor_shape(shape: tuple[int, ...]) -> tuple[Any, Any]:
        """As `tensor` has it: the number of elements and the shape, of constants."""
        return core.constexpr(math.prod(shape)), core.tuple([core.constexpr(size) for size in shape])

    def make_block_type(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = tuple(size.value if isinstance(size, core.constexpr) else size for size in shape)
        if not sizes:
            raise TypeError("0d block_type is forbidden")
        self.element_ty = element_ty
        self.shape, self.numel, text = block_shape(sizes)
        self.name = f"<{text}, {element_ty}>"

    def make_tensor(self: Any, handle: Any, type: Any) -> None:
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.numel, self.shape = tensor_shape(tuple(type.shape.values) if type.is_block() else ())

    core.block_type.__init__ = make_block_type
    core.tensor.__init__ = make_tensor
