"""What a training run writes about itself: CSV files, TensorBoard, and pictures at the end. Root only."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeph_mpi.errors import ConfigError
from deeph_mpi.results.textfile import write_text
from deeph_mpi.results.training import plot_error_map, plot_learning_curve
from deeph_mpi.train.errors import BINS, ErrorSums

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["COLUMNS", "History", "tensorboard_writer"]

log = logging.getLogger(__name__)

COLUMNS = (
    "epoch", "seconds", "learning_rate", "train_meV", "all_meV", "onsite_meV", "hopping_meV", "eigenvalues_meV",
)  # fmt: skip


class History:
    """The files of one run's directory.

    - `log.csv`: one row per epoch, `COLUMNS`; the errors are those of the validation structures.
    - `errors.csv`: one row per report, validation errors by shell pair and by distance.
    - `learning_curve.png`, `error_map.png` (and PDF) at the end.
    - `tensorboard/`: the same numbers, where asked for.

    Args:
        directory: of the run.
        shells: names of the template's shells.
        tensorboard: whether TensorBoard files are written.
    """

    def __init__(self, directory: Path, shells: list[str], *, tensorboard: bool) -> None:
        self.directory, self.shells = directory, shells
        self.log_file, self.errors_file = directory / "log.csv", directory / "errors.csv"
        pairs = [f"{a}-{b}" for a in shells for b in shells]
        self.detail = (
            "epoch", *(f"onsite_{pair}_meV" for pair in pairs), *(f"hopping_{pair}_meV" for pair in pairs),
            *(f"{r}-{r + 1}A_meV" for r in range(BINS)),
        )  # fmt: skip
        self.writer = tensorboard_writer(directory / "tensorboard") if tensorboard else None

    def start(self) -> None:
        """Begin anew."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for path, columns in ((self.log_file, COLUMNS), (self.errors_file, self.detail)):
            write_text(path, ",".join(columns) + "\n")

    def resume(self, epoch: int) -> None:
        """Forget what was written after `epoch`, as that will be done again."""
        for path, columns in ((self.log_file, COLUMNS), (self.errors_file, self.detail)):
            rows = path.read_text().splitlines() if path.exists() else [",".join(columns)]
            kept = [row for row in rows if not row[:1].isdigit() or int(row.split(",")[0]) <= epoch]
            write_text(path, "\n".join(kept) + "\n")

    def epoch(self, epoch: int, seconds: float, learning_rate: float, loss: float, errors: dict[str, float]) -> None:
        """Append one epoch. Errors in meV; NaN ones are left empty."""
        found = [errors[key] for key in ("all", "onsite", "hopping", "eigenvalues")]
        self._append(self.log_file, (epoch, f"{seconds:.1f}", f"{learning_rate:.3e}", f"{loss:.5f}", *_texts(found)))
        if self.writer is not None:
            scalars = {"train/loss_meV": loss, "train/learning_rate": learning_rate}
            scalars |= {f"validation/{key}_meV": value for key, value in errors.items() if np.isfinite(value)}
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, epoch)

    def report(self, epoch: int, errors: ErrorSums) -> None:
        """Append the errors by shell pair and distance."""
        onsite, hopping = errors.by_shells
        values = np.concatenate([onsite.ravel(), hopping.ravel(), errors.by_distance])
        self._append(self.errors_file, (epoch, *_texts(values)))
        if self.writer is not None:
            for name, value in zip(self.detail[1:], values, strict=True):
                if np.isfinite(value):
                    self.writer.add_scalar(f"detail/{name}", value, epoch)

    def finish(self, errors: ErrorSums, title: str) -> None:
        """Draw the pictures and log the table of errors by distance."""
        rows = list(csv.DictReader(self.log_file.read_text().splitlines()))
        columns = {name: np.array([float(row[name] or "nan") for row in rows]) for name in COLUMNS}
        plot_learning_curve(self.directory, columns)
        onsite, hopping = errors.by_shells
        plot_error_map(self.directory, self.shells, {"onsite": onsite, "hopping": hopping}, title)
        for line in _table(self.shells, hopping, errors.by_distance):
            log.info("%s", line)
        if self.writer is not None:
            self.writer.close()

    @staticmethod
    def _append(path: Path, row: Iterable[Any]) -> None:
        with path.open("a", newline="") as file:
            csv.writer(file).writerow(row)


def _texts(values: Iterable[float]) -> list[str]:
    return [f"{value:.5f}" if np.isfinite(value) else "" for value in values]


def _table(shells: list[str], hopping: np.ndarray, distance: np.ndarray) -> list[str]:
    """Errors of hopping blocks in meV, as text."""
    lines = ["error of hopping blocks by shell pair (meV):", "      " + "".join(f"{name:>8}" for name in shells)]
    lines += [f"  {a:<4}" + "".join(f"{value:8.3f}" for value in row) for a, row in zip(shells, hopping, strict=True)]
    bins = [f"{r}-{r + 1} Å {value:.3f}" for r, value in enumerate(distance) if np.isfinite(value)]
    return [*lines, "by distance (meV): " + ", ".join(bins)]


def tensorboard_writer(directory: Path) -> SummaryWriter:
    """A writer of TensorBoard files.

    Raises:
        ConfigError: when TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            'output.tensorboard needs the package tensorboard: pip install "deeph-mpi[tensorboard]"'
        ) from None
    return SummaryWriter(str(directory))
