"""The training loop: the same batches, gradients and errors on any number of ranks."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deeph_mpi.config import TrainConfig, TrainSection
from deeph_mpi.errors import ConfigError, ModelError, StopRequested
from deeph_mpi.model.checkpoint import load_plain, save_plain
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.parallel import World
from deeph_mpi.parallel.progress import progress
from deeph_mpi.parallel.stopping import finishing_units, stop_agreed
from deeph_mpi.parallel.torch_group import sum_over_ranks
from deeph_mpi.reading import reading
from deeph_mpi.train.batch import Sample, empty_like, join
from deeph_mpi.train.checks import Checks
from deeph_mpi.train.history import History
from deeph_mpi.train.muon import Muon
from deeph_mpi.train.objective import Objective
from deeph_mpi.train.sampler import epoch_batches, share

__all__ = ["Trainer"]

log = logging.getLogger(__name__)

RESTART = "deeph-mpi restart 3"
STEPS, LEAST_EPOCHS = 12_000, 20  # of a run whose length is not given
SAVE_EVERY = 10.0  # seconds of training at least between restart files: what a killed run loses at most, and an epoch


class Trainer:
    """One run: optimizer, learning rate, running average of the weights, restart file, log.

    Args:
        config: of the run.
        world: its ranks, already in a torch process group where there are several.
        model: to be trained.
        samples: all training structures on every rank, or this rank's part of each (`train.parallel = "graph"`).
        checks: this rank's share of the held-out structures.
        history: files of the run; on rank 0.
        device: of this rank.
    """

    def __init__(
        self,
        config: TrainConfig,
        world: World,
        model: HamiltonianModel,
        samples: list[Sample],
        checks: Checks,
        history: History | None,
        device: torch.device,
    ) -> None:
        self.config, self.world, self.model, self.checks, self.history = config, world, model, checks, history
        self.settings: TrainSection = config.train
        self.samples, self.device = samples, device
        self.spread = config.train.parallel == "graph"
        elements = np.array([2.0 * s.pair_target.numel() + s.onsite_target.numel() for s in samples])
        self.elements = world.comm.allreduce(elements) if self.spread else elements
        self.batch: int | float = self._batch()
        self.epochs = self._epochs()
        model.network.to(device)
        self.objective = Objective(model.network, config.train.band_weight)
        self.optimizer: torch.optim.Optimizer
        if config.train.optimizer == "muon":
            self.optimizer = Muon(model.network, config.train.learning_rate)
        else:
            self.optimizer = torch.optim.AdamW(
                model.network.parameters(), lr=config.train.learning_rate, betas=(0.9, 0.98), weight_decay=1e-3
            )
        self.average = {key: value.clone() for key, value in model.network.state_dict().items()}
        self.best: dict[str, Any] = {"error": math.inf, "epoch": 0, "weights": self._weights(self.average)}
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.batches, self.loss = 0, 0.0  # done in this epoch, and the sum of their losses on this rank
        self.restart = config.output.directory / "restart.pt"

    def _batch(self) -> int | float:
        """Structures per step, or matrix elements per step for `epoch_batches`."""
        if self.spread:
            return 1
        return float(self.settings.batch_elements) if self.settings.batch == "auto" else self.settings.batch

    def _epochs(self) -> int:
        if self.settings.epochs != "auto":
            return self.settings.epochs
        steps = len(epoch_batches(self.elements, self.batch, self.settings.seed, 0))
        return max(round(STEPS / steps), LEAST_EPOCHS)

    def run(self) -> None:
        """Train to the end (or a limit); afterwards the model has the best weights. Collective.

        Raises:
            StopRequested: on all ranks, when the job was asked to stop; the restart file goes on from the last step.
        """
        resume = self.world.on_root(lambda: self.settings.resume and self.restart.exists())
        with self.world.together():
            if resume:
                self._resume()
            elif self.history is not None:
                self.history.start()
                self.restart.unlink(missing_ok=True)  # of a run that is not to be continued
        self._begin = time.monotonic() - self.seconds
        self._saved = time.monotonic()
        with finishing_units(), progress(self.world, "epoch", self.epochs, done=self.epoch) as bar:
            while not self._finished():
                loss = self._train_epoch()
                self.epoch += 1
                errors = self._validate()
                self.seconds = self.world.comm.bcast(time.monotonic() - self._begin, root=0)
                self._keep(loss, errors)
                bar.advance(1, f"loss {loss:.3f} meV, validation {errors['all']:.3f} meV")
        with self.world.together():
            if self.history is not None:
                self._save(0.0)
        self.model.network.load_state_dict(self.best["weights"])
        log.info("best epoch %d: validation error %.3f meV", self.best["epoch"], self.best["error"])

    def facts(self) -> dict[str, object]:
        """Epochs done, the best of them and its error in meV."""
        return {"epochs": self.epoch, "best_epoch": self.best["epoch"], "best_error_meV": self.best["error"]}

    def _finished(self) -> bool:
        if self.epoch >= self.epochs:
            return True
        if self.epoch - self.best["epoch"] >= self.settings.patience:
            log.info("stopped at epoch %d: no better for %d epochs", self.epoch, self.settings.patience)
            return True
        if self.settings.minutes is not None and self.seconds >= 60 * self.settings.minutes:
            log.info("stopped at epoch %d: %g minutes are over", self.epoch, self.settings.minutes)
            return True
        return False

    def _train_epoch(self) -> float:
        """One pass over the training structures: the mean loss in meV on the way. Collective."""
        world = self.world
        batches = epoch_batches(self.elements, self.batch, self.settings.seed, self.epoch)
        self.objective.turn = self.epoch
        for number, batch in enumerate(batches[self.batches :], start=self.batches):
            self._stop_if_asked()
            rate = self._learning_rate(self.epoch + number / len(batches))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss = self.objective(self._own(batch)) / self.elements[batch].sum()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            sum_over_ranks(self._gradients())
            norm = nn.utils.clip_grad_norm_(self.model.network.parameters(), self.settings.clip)
            if not bool(torch.isfinite(norm)):
                raise ModelError(f"the loss is not finite in epoch {self.epoch + 1}: try a smaller learning_rate")
            self.optimizer.step()
            self.step += 1
            self._update_average()
            self.loss += float(loss.detach()) * self.elements[batch].sum()
            self.batches = number + 1
        mean = float(1e3 * world.sum(self.loss) / self.elements.sum())
        self.batches, self.loss = 0, 0.0
        return mean

    def _stop_if_asked(self) -> None:
        """Between two steps: write the restart file and leave, when a signal asked any rank for it. Collective.

        Raises:
            StopRequested: on all ranks.
        """
        if stop := stop_agreed(self.world):
            self.seconds = time.monotonic() - self._begin
            loss = float(self.world.sum(self.loss))
            with self.world.together():
                if self.history is not None:
                    self._save(loss)
            done = f"{self.epoch} epochs and {self.batches} steps"
            raise StopRequested(f"stopped by {stop} after {done}: the same command goes on from {self.restart}")

    def _gradients(self) -> list[Tensor]:
        """Of all parameters, zero where a rank had nothing to do."""
        for parameter in self.model.network.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self.model.network.parameters() if parameter.grad is not None]

    def _own(self, batch: np.ndarray) -> Sample:
        """This rank's share of a batch."""
        if self.spread:
            return self.samples[batch[0]]
        mine = share(batch, self.elements, self.world.rank, self.world.size)
        return join([self.samples[index] for index in mine]) if mine else empty_like(self.samples[0])

    def _learning_rate(self, epoch: float) -> float:
        """Linear warm-up over steps, then half a cosine over the epochs."""
        warm = min(1.0, (self.step + 1) / (self.settings.warmup + 1))
        fall = 0.5 * (1.0 + math.cos(math.pi * min(epoch / self.epochs, 1.0)))
        return self.settings.learning_rate * warm * max(fall, 1e-3)

    def _update_average(self) -> None:
        decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in self.model.network.state_dict().items():
                if value.is_floating_point():
                    self.average[key].lerp_(value, 1 - decay)

    def _validate(self) -> dict[str, float]:
        """Errors of the averaged weights (zero without validation structures). Collective."""
        network = self.model.network
        report = self.epoch % self.settings.report_every == 0
        current = {key: value.clone() for key, value in network.state_dict().items()}
        network.load_state_dict(self.average)
        errors = self.checks.errors(self.world, validation=True, bands=report)
        network.load_state_dict(current)
        if report and self.history is not None:
            self.history.report(self.epoch, errors)
        return errors.mean

    def _keep(self, loss: float, errors: dict[str, float]) -> None:
        """Remember the best weights, append to the log and, where `SAVE_EVERY` has passed, write the restart file (root)."""
        error = errors["all"] if self.config.data.validation else loss
        if error < self.best["error"]:
            self.best = {"error": error, "epoch": self.epoch, "weights": self._weights(self.average)}
        with self.world.together():
            if self.history is None:
                return
            self.history.epoch(self.epoch, self.seconds, self._learning_rate(self.epoch), loss, errors)
            if time.monotonic() - self._saved >= SAVE_EVERY:
                self._save(0.0)

    def _save(self, loss: float) -> None:
        """Write the restart file, given the sum of this epoch's losses over all ranks. Root only."""
        state = {
            "format": RESTART,
            "settings": _comparable(self.config),
            "epoch": self.epoch,
            "batches": self.batches,
            "loss": loss,
            "step": self.step,
            "seconds": self.seconds,
            "weights": self._weights(self.model.network.state_dict()),
            "average": self._weights(self.average),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
        }
        save_plain(self.restart, state)
        self._saved = time.monotonic()

    def _resume(self) -> None:
        state = load_plain(self.restart, RESTART)
        now, then = _comparable(self.config), state.get("settings", {})
        if now != then:
            different = sorted(key for key in set(now) | set(then) if now.get(key) != then.get(key))
            raise ConfigError(
                f"{self.config.output.directory} holds a run with other settings ({', '.join(different)}): "
                "choose another output.directory, or set train.resume = false to start over"
            )
        with reading(self.restart, "damaged, or of another version", ModelError):
            self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
            self.batches, self.loss = state.get("batches", 0), state.get("loss", 0.0) if self.world.is_root else 0.0
            self.model.network.load_state_dict(state["weights"])
            self.average = {key: value.to(self.device) for key, value in state["average"].items()}
            self.best = state["best"]
            self.optimizer.load_state_dict(state["optimizer"])
        if self.history is not None:
            self.history.resume(self.epoch)
        log.info("resuming after epoch %d and %d steps", self.epoch, self.batches)

    def _weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value.detach().cpu().clone() for key, value in state.items()}


def _comparable(config: TrainConfig) -> dict[str, str]:
    """Settings that a continued run must share with its beginning."""
    free = {
        "train.minutes", "train.patience", "train.resume", "train.report_every", "data.test", "data.split",
        "data.fractions", "data.split_seed",
    }  # fmt: skip
    found = {}
    for section in ("data", "network", "train"):
        for name, value in getattr(config, section).model_dump(mode="json").items():
            if f"{section}.{name}" not in free:  # a moved dataset is the same dataset
                moved = name in ("directory", "init_from") and value is not None
                found[f"{section}.{name}"] = repr(Path(value).name if moved else value)
    return found
