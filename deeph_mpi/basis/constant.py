"""Constant arrays as tensors, on whatever device and in whatever dtype they are needed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["Constant"]


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
