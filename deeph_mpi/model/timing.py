"""Seconds spent in chosen methods of objects, for calibration and benchmarks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["timed_methods"]


@contextmanager
def timed_methods(methods: Sequence[tuple[Any, str, str]]) -> Iterator[dict[str, float]]:
    """Count the seconds of methods while the context lasts; not for methods that call each other.

    Args:
        methods: (owner, name of the method, name to count it under).

    Yields:
        Seconds under each name.
    """
    clock = {name: 0.0 for _, _, name in methods}

    def wrap(owner: Any, method: str, name: str) -> None:
        function = getattr(owner, method)

        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                clock[name] += time.perf_counter() - start

        object.__setattr__(owner, method, call)  # of the instance, before that of its class

    for owner, method, name in methods:
        wrap(owner, method, name)
    try:
        yield clock
    finally:
        for owner, method, _ in methods:
            object.__delattr__(owner, method)
