"""Block Lanczos on (H − σS)⁻¹ S: the factor is read once for a block of vectors instead of once for each."""

from __future__ import annotations

import numpy as np

from deeph_mpi.solvers.factor import ShiftedFactor
from deeph_mpi.solvers.pencil import Pencil

__all__ = ["block_lanczos"]

_BLOCK = 8  # vectors; on disk, where reading the factor is all that counts, twice as many
_CAPACITY = 5  # columns kept before a restart, over those wanted
_RANK = 1e-26  # a direction whose share of a block's S-norm squared is smaller is rounding
_NEGLIGIBLE = 1e-10  # part of a unit vector along the basis: what taking it away changes is far below any tolerance
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
    width = min(2 * _BLOCK if factor.on_disk else _BLOCK, pencil.dimension - known.shape[1])
    capacity = known.shape[1] + int(_CAPACITY * count) + 8 * width
    space = _Space(pencil, known, capacity)
    block, image = space.orthonormal(factor.solve_block(_random(pencil, width)))[:2]
    projected = np.zeros((0, 0), dtype=pencil.dtype)  # V† S (H − σS)⁻¹ S V for the columns V after the known ones
    for _ in range(_STEPS):
        space.append(block)
        size = space.size - known.shape[1]
        mapped = factor.solve_block(image)
        rest, rest_image, coefficients, residual = space.orthonormal_rest(mapped)
        column = coefficients[known.shape[1] :]
        grown = np.zeros((size, size), dtype=pencil.dtype)
        grown[: size - block.shape[1], : size - block.shape[1]] = projected
        grown[:, size - block.shape[1] :] = column
        grown[size - block.shape[1] :, :] = column.conj().T
        projected = (grown + grown.conj().T) / 2
        values, ritz = pencil.eigh(projected)
        order = np.argsort(-np.abs(values), kind="stable")
        errors = np.linalg.norm(residual @ ritz[size - block.shape[1] :], axis=0)
        converged = errors <= tolerance * np.abs(values)
        wanted = order[:count]
        exhausted = rest.shape[1] == 0
        if exhausted or (size >= count and converged[wanted].all()):
            break
        if space.size + rest.shape[1] > capacity:
            kept = order[: min(count + width, size - width)]
            space.rotate(known.shape[1], ritz[:, kept])
            projected = np.diag(values[kept]).astype(pencil.dtype)
        block, image = rest, rest_image
    chosen = order[converged[order] | exhausted]
    return space.vectors[:, known.shape[1] : space.size] @ ritz[:, chosen]


class _Space:
    """S-orthonormal columns, the known ones first."""

    def __init__(self, pencil: Pencil, known: np.ndarray, capacity: int) -> None:
        self.pencil = pencil
        self.vectors = np.empty((pencil.local_dimension, capacity + known.shape[1] + 16), pencil.dtype, order="F")
        self.size = 0
        self.append(known)

    def append(self, block: np.ndarray) -> None:
        self.vectors[:, self.size : self.size + block.shape[1]] = block
        self.size += block.shape[1]

    def rotate(self, begin: int, rotation: np.ndarray) -> None:
        """Replace the columns from `begin` by combinations of them."""
        self.vectors[:, begin : begin + rotation.shape[1]] = self.vectors[:, begin : self.size] @ rotation
        self.size = begin + rotation.shape[1]

    def orthonormal_rest(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Q, S Q, C, R with block = V C + Q R and Q S-orthonormal; columns of Q that are rounding are left out.

        Done twice, the second time with columns of unit norm: near an eigenvalue a few directions are so much longer than
        the others that these would otherwise drown in what rounding leaves of the former.
        """
        pencil, basis = self.pencil, self.vectors[:, : self.size]
        total = np.zeros((self.size, block.shape[1]), dtype=pencil.dtype)
        upper = np.eye(block.shape[1], dtype=pencil.dtype)
        image = pencil.multiply(pencil.s, block)
        scale = np.abs(pencil.total((block.conj() * image).sum(axis=0))).max(initial=1e-300)
        for threshold in (_RANK * scale, 0.25):
            overlap = pencil.total(basis.conj().T @ image)
            block = block - basis @ overlap
            total += overlap @ upper
            if np.abs(overlap).max(initial=0.0) > _NEGLIGIBLE:  # the product with S is half of the work here
                image = pencil.multiply(pencil.s, block)
            gram = pencil.total(block.conj().T @ image)
            metric, rotation = pencil.eigh(gram)
            kept = metric > threshold
            root = np.sqrt(metric[kept])
            change = rotation[:, kept] / root
            block, image = block @ change, image @ change
            upper = (root[:, None] * rotation[:, kept].conj().T) @ upper
        return block, image, total, upper

    def orthonormal(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Q and S Q of `orthonormal_rest`."""
        return self.orthonormal_rest(block)[:2]


def _random(pencil: Pencil, width: int) -> np.ndarray:
    """A random block (local_dimension, width)."""
    rng = np.random.default_rng([17, pencil.world.rank])
    block = rng.standard_normal((pencil.local_dimension, width))
    if pencil.dtype.kind == "c":
        block = block + 1j * rng.standard_normal(block.shape)
    return block.astype(pencil.dtype)
