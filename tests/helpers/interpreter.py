"""Triton's interpreter as the tests use it."""


def make_interpreted_fma_fused() -> None:
    """Give the interpreter the hardware's fused multiply-add: one rounding, where NumPy's two would lose digits.

    The product of two float32 is exact in float64, so only the final rounding to float32 differs from the hardware's,
    and that by no more than a double rounding.
    """
    import numpy as np
    from triton.runtime import interpreter

    def create_fma(self, x, y, z):
        exact = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data.astype(np.float64)
        return interpreter.TensorHandle(exact.astype(x.data.dtype), z.dtype.scalar)

    interpreter.InterpreterBuilder.create_fma = create_fma
