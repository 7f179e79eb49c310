"""Constant arrays as tensors, on whatever device and in whatever dtype they are needed."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

__all__ = ["Constant", "SparseConstant"]


class Constant:
    """An array that is converted once for every device and dtype, so that no copy to a GPU waits in a loop.

    Args:
        value: of any shape.
    """

    def __init__(self, value: np.ndarray) -> None:
        self._value = torch.tensor(value)
        self._found: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def on(self, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor; of its own dtype by default."""
        key = (device, dtype or self._value.dtype)
        if key not in self._found:
            self._found[key] = self._value.to(*key)
        return self._found[key]

    def like(self, other: Tensor) -> Tensor:
        """The tensor on the device and in the dtype of another."""
        return self.on(other.device, other.dtype)


class SparseConstant:
    """A matrix with few entries, to multiply columns with. On the CPU by scipy, which takes a tenth of a dense product's time
    and half of that of torch's sparse one; a GPU has no use for the zeros.

    Args:
        matrix: (rows, k).
    """

    def __init__(self, matrix: np.ndarray) -> None:
        self._dense = Constant(matrix)
        self._sparse = {np.dtype(dtype): csr_array(matrix.astype(dtype)) for dtype in (np.float32, np.float64)}

    def times(self, columns: Tensor) -> Tensor:
        """(k, n) → (rows, n); without gradients."""
        if columns.device.type != "cpu":
            return self._dense.like(columns) @ columns
        values = columns.detach().numpy()
        return torch.from_numpy(self._sparse[values.dtype] @ values)
