"""Arithmetic on tables of blocks, against NumPy's own."""

from __future__ import annotations

import numpy as np
import pytest

from deeph_mpi.data.ragged import distinct_rows


@pytest.mark.parametrize("scale", [3, 10**12])  # rows that fit in one number, and that do not
@pytest.mark.parametrize("count", [0, 1, 200])
def test_distinct_rows(scale: int, count: int) -> None:
    table = np.random.default_rng(count).integers(-2, 3, (count, 3)) * scale
    rows, which = distinct_rows(table)
    wanted, places = np.unique(table, axis=0, return_inverse=True)
    np.testing.assert_array_equal(rows, wanted)
    np.testing.assert_array_equal(which, places.reshape(-1))


def test_distinct_rows_of_small_integers() -> None:
    table = np.array([[-100, 3], [120, 3], [-100, 3], [0, -128]], dtype=np.int8)  # differences beyond what int8 holds
    rows, which = distinct_rows(table)
    np.testing.assert_array_equal(rows, np.unique(table, axis=0))
    np.testing.assert_array_equal(rows[which], table)
