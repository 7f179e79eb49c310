"""Block Lanczos on (H − σS)⁻¹ S: the factor is read once for a block of vectors instead of once for each."""

from __future__ import annotations

import numpy as np

from deeph_mpi.solvers.factor import ShiftedFactor
from deeph_mpi.solvers.pencil import Pencil

__all__ = ["block_lanczos"]

_BLOCK = 16  # vectors: a pass takes twice as long as with one, and no longer where the factor is on disk
_CAPACITY = 5  # columns kept before a restart, over those wanted
_RANK = 1e-26  # a direction whose share of a block's S-norm squared is smaller is rounding
_CANCELLED = 1e-4  # of a block's longest vector: in shorter ones as many digits are lost
_STEPS = 400


def block_lanczos(factor: ShiftedFactor, count: int, known: np.ndarray, tolerance: float) -> np.ndarray:
    """Eigenvectors nearest the factor's shift, S-orthogonal to those already known. Collective.

    Thick-restarted block Lanczos with full orthogonalization in the S inner product (Golub, Underwood 1977; Wu, Simon, SIAM
    J. Matrix Anal. Appl. 22, 602 (2000)). Vectors of the doubled real form are treated as the complex ones that they
    are, so that no pair comes twice.

    Args:
        factor: of H − σS, factorized.
        count: how many are wanted.
        known: (local_dimension, m) eigenvectors to be deflated.
        tolerance: relative residual of the shift-inverted problem.

    Returns:
        (local_dimension, found), S-orthonormal.
    """
    pencil = factor.pencil
    count = min(count, pencil.dimension - known.shape[1])
    if count <= 0:
        return np.empty((pencil.local_dimension, 0), dtype=pencil.dtype)
    width = min(_BLOCK, pencil.dimension - known.shape[1])
    capacity = known.shape[1] + int(_CAPACITY * count) + 8 * width
    space = _Space(pencil, known, capacity)
    start = factor.solve_block(_random(pencil, width, known.shape[1]))
    block, image = space.orthonormal_rest(start, np.zeros((0, width)))[:2]
    if block.shape[1] == 0:
        return np.empty((pencil.local_dimension, 0), dtype=pencil.dtype)
    projected = np.zeros((0, 0), dtype=pencil.dtype)  # V† S (H − σS)⁻¹ S V for the columns V after the known ones
    coupling = np.zeros((0, block.shape[1]), dtype=pencil.dtype)  # the same, former columns × block
    for step in range(_STEPS):
        space.append(block, image)
        size = space.size - known.shape[1]
        mapped = factor.solve_block(image)
        # What the recurrence says of it is taken away before the product with S, which then serves for what rounding leaves.
        diagonal = pencil.total(image.conj().T @ mapped)
        expected = np.concatenate([coupling, (diagonal + diagonal.conj().T) / 2])
        mapped -= space.vectors[:, space.size - len(expected) : space.size] @ expected
        rest, rest_image, column, residual = space.orthonormal_rest(mapped, expected)
        column = column[known.shape[1] :]
        column[size - len(expected) :] += expected
        grown = np.zeros((size, size), dtype=pencil.dtype)
        grown[: size - block.shape[1], : size - block.shape[1]] = projected
        grown[:, size - block.shape[1] :] = column
        grown[size - block.shape[1] :, :] = column.conj().T
        projected = (grown + grown.conj().T) / 2
        coupling = residual.conj().T
        exhausted = rest.shape[1] == 0
        last = exhausted or step == _STEPS - 1
        full = space.size + rest.shape[1] > capacity
        if size >= count or full or last:
            values, ritz = pencil.eigh(projected)
            order = np.argsort(-np.abs(values), kind="stable")
            leaving = residual @ ritz[size - block.shape[1] :]
            converged = np.linalg.norm(leaving, axis=0) <= tolerance * np.abs(values)
            if last or (size >= count and converged[order[:count]].all()):
                break
        if full:
            kept = order[: min(count + width, size - width)]
            space.rotate(known.shape[1], ritz[:, kept])
            projected = np.diag(values[kept]).astype(pencil.dtype)
            coupling = leaving[:, kept].conj().T
        block, image = rest, rest_image
    # Those beyond the first that has not converged would make it look as if everything up to them were known.
    ready = converged[order] | exhausted
    chosen = order[ready] if ready.all() or last else order[: int(np.argmin(ready))]
    return space.vectors[:, known.shape[1] : space.size] @ ritz[:, chosen]


class _Space:
    """S-orthonormal columns V, the known ones first, and S V: every new block then needs one product with S."""

    def __init__(self, pencil: Pencil, known: np.ndarray, capacity: int) -> None:
        self.pencil = pencil
        shape = pencil.local_dimension, capacity + known.shape[1] + 16
        self.vectors, self.images = (np.empty(shape, pencil.dtype, order="F") for _ in range(2))
        self.size = 0
        if known.shape[1]:
            self.append(known, pencil.multiply(pencil.s, known))

    def append(self, block: np.ndarray, image: np.ndarray) -> None:
        added = slice(self.size, self.size + block.shape[1])
        self.vectors[:, added], self.images[:, added] = block, image
        self.size += block.shape[1]

    def rotate(self, begin: int, rotation: np.ndarray) -> None:
        """Replace the columns from `begin` by combinations of them."""
        for columns in (self.vectors, self.images):
            columns[:, begin : begin + rotation.shape[1]] = columns[:, begin : self.size] @ rotation
        self.size = begin + rotation.shape[1]

    def orthonormal_rest(
        self, block: np.ndarray, taken: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Q, S Q, C, R with block = V C + Q R and Q S-orthonormal; columns of Q that are rounding are left out.

        Columns are made orthonormal twice, the second time with unit norm: near an eigenvalue a few directions are so much
        longer than the others that these would otherwise drown in what rounding leaves of the former. Where that is so, S Q
        is computed anew and V taken away again.

        Args:
            block: (local_dimension, m).
            taken: (any, m) coefficients of columns of V that were taken away from it before: rounding is relative to these too.
        """
        pencil = self.pencil
        basis, basis_image = self.vectors[:, : self.size], self.images[:, : self.size]
        total = np.zeros((self.size, block.shape[1]), dtype=pencil.dtype)
        upper = np.eye(block.shape[1], dtype=pencil.dtype)
        image = pencil.multiply(pencil.s, block)
        squares = np.abs(pencil.total((block.conj() * image).sum(axis=0)))
        whole = (squares + (np.abs(taken) ** 2).sum(axis=0)).max(initial=1e-300)
        cancelled = True
        for again, threshold in enumerate((_RANK * whole, 0.25)):
            if cancelled:
                overlap = pencil.total(basis.conj().T @ image)
                block, image = block - basis @ overlap, image - basis_image @ overlap
                total += overlap @ upper
            metric, rotation = pencil.eigh(pencil.total(block.conj().T @ image))
            kept = metric > threshold
            root = np.sqrt(metric[kept])
            change = rotation[:, kept] / root
            block, image = block @ change, image @ change
            upper = (root[:, None] * rotation[:, kept].conj().T) @ upper
            cancelled = not again and root.min(initial=np.inf) < _CANCELLED * np.sqrt(squares.max())
            if cancelled:
                image = pencil.multiply(pencil.s, block)
        return block, image, total, upper


def _random(pencil: Pencil, width: int, run: int) -> np.ndarray:
    """A random block (local_dimension, width), another in every `run`.

    Of a level with many copies a run finds as many as a block has vectors, and from the same block again the same ones.
    """
    rng = np.random.default_rng([17, pencil.world.rank, run])
    block = rng.standard_normal((pencil.local_dimension, width))
    if pencil.dtype.kind == "c":
        block = block + 1j * rng.standard_normal(block.shape)
    return block.astype(pencil.dtype)
