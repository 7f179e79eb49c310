"""Data-parallel training: the same batches, gradients and errors on any number of ranks."""

from __future__ import annotations

import csv
import logging
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deeph_mpi._version import __version__
from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.config import TrainConfig, TrainSection
from deeph_mpi.data.deeph import DeephSystem
from deeph_mpi.errors import ConfigError, ModelError
from deeph_mpi.model.checkpoint import from_plain, load_plain, save_checkpoint, save_plain, to_plain
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.model.network import HamiltonianNetwork
from deeph_mpi.parallel import World
from deeph_mpi.parallel.memory import keep_freed_memory
from deeph_mpi.parallel.progress import progress
from deeph_mpi.parallel.stages import Stages
from deeph_mpi.parallel.torch_group import rank_device, torch_group
from deeph_mpi.train.batch import Sample, join, make_sample, split
from deeph_mpi.train.errors import ErrorSums, hamiltonian_errors
from deeph_mpi.train.labels import Labels
from deeph_mpi.train.prepare import common_orbitals, read_labels, untrained_model
from deeph_mpi.train.sampler import epoch_batches, share

__all__ = ["Objective", "train"]

log = logging.getLogger(__name__)

RESTART = "deeph-mpi restart 1"
COLUMNS = ("epoch", "seconds", "learning_rate", "train_meV", "all_meV", "onsite_meV", "hopping_meV")


class Objective(nn.Module):
    """Sum of absolute errors of all matrix elements of a batch, eV, and as many times the error that eigenstates feel.

    Attributes:
        band_weight: factor of the latter, see `BandReference.error`.
        turn: which of the k-points is taken.
    """

    def __init__(self, network: HamiltonianNetwork, band_weight: float = 0.0) -> None:
        super().__init__()
        self.network, self.band_weight, self.turn = network, band_weight, 0

    def forward(self, sample: Sample) -> Tensor:
        """Each undirected pair stands for two blocks of the matrix."""
        pair, onsite = predict(self.network, sample)
        pair, onsite = pair - sample.pair_target, onsite - sample.onsite_target
        loss = 2 * pair.abs().sum() + onsite.abs().sum()
        for bands, *errors in split(sample.bands, pair, onsite):
            elements = 2 * errors[0].numel() + errors[1].numel()
            loss = loss + self.band_weight * elements * bands.error(*errors, self.turn)
        return loss


def predict(network: HamiltonianNetwork, sample: Sample) -> tuple[Tensor, Tensor]:
    """What the network adds to the baseline: packed pair blocks and onsite components of a sample."""
    state = network.features(sample.species, lambda: [sample.messages], lambda features: features)
    pair = network.pairs(network.pair_norm(*state), sample.pairs, sample.pair_species)
    return pair, network.onsite(state, sample.species)


def train(config: TrainConfig, world: World) -> HamiltonianModel:
    """Train a network, write `model.pt`, `restart.pt` and `log.csv`, and return the best model. Collective.

    Raises:
        DataError: for a dataset that is incomplete or inconsistent.
        ConfigError: when the output directory holds a run with other settings.
    """
    keep_freed_memory()
    device = rank_device(world)
    stages = Stages(world)
    data = config.data
    with stages("read"), world.together():
        template = ShellTemplate(common_orbitals(data.directory, data.train))
        systems, labels = read_labels(data.directory, data.train, template)
        held = read_labels(data.directory, (data.validation + data.test)[world.rank :: world.size], template)
    with stages("fit tables"):
        plain, shifts = world.on_root(_fitted, config, template, systems, labels)
        model = from_plain(plain)
        for one, shift in zip(labels, shifts, strict=True):
            if not world.is_root and shift:  # rank 0 has done it while fitting
                one.shift(shift)
        model.network.to(dtype=getattr(torch, config.train.dtype))
        _log_model(model, config, world)
    with stages("prepare"), world.together():
        samples = [
            make_sample(model, one, system.structure, 4 if config.train.band_weight else 0).to(device)
            for system, one in zip(systems, labels, strict=True)
        ]
        checks = Checks(model, *held, set(data.validation), device)
    with stages("train"), torch_group(world, device):
        Trainer(config, world, model, samples, checks, device).run()
    with stages("test"):
        _report(config, world, model, checks)
    with world.together():
        if world.is_root:
            save_checkpoint(config.output.directory / "model.pt", model)
    log.info("\n%s", stages.summary())
    log.info("checkpoint: %s", config.output.directory / "model.pt")
    return model


def _fitted(
    config: TrainConfig, template: ShellTemplate, systems: list[DeephSystem], labels: list[Labels]
) -> tuple[dict[str, Any], list[float]]:
    model, shifts = untrained_model(config, template, systems, labels)
    return to_plain(model), shifts


class Checks:
    """This rank's share of the validation and test structures."""

    def __init__(
        self,
        model: HamiltonianModel,
        systems: list[DeephSystem],
        labels: list[Labels],
        validation: set[str],
        device: torch.device,
    ) -> None:
        self.model, self.labels, self.validation = model, labels, validation
        self.samples = [
            make_sample(model, one, system.structure).to(device) for system, one in zip(systems, labels, strict=True)
        ]

    def errors(self, world: World, *, validation: bool) -> dict[str, float]:
        """Mean absolute errors in meV over all validation (or else test) structures. Collective."""
        sums = ErrorSums()
        for one, sample in zip(self.labels, self.samples, strict=True):
            if (one.name in self.validation) != validation:
                continue
            with torch.no_grad():
                pair, onsite = predict(self.model.network, sample)
            rest = (pair - sample.pair_target).cpu(), (onsite - sample.onsite_target).cpu()
            sums = sums + hamiltonian_errors(self.model, one, *rest)
        return world.comm.allreduce(sums).mean


class Trainer:
    """One run: optimizer, learning rate, running average of the weights, restart file, log."""

    def __init__(
        self,
        config: TrainConfig,
        world: World,
        model: HamiltonianModel,
        samples: list[Sample],
        checks: Checks,
        device: torch.device,
    ) -> None:
        self.config, self.world, self.model, self.checks = config, world, model, checks
        self.settings: TrainSection = config.train
        self.samples, self.device = samples, device
        self.costs = np.array([len(sample.pairs) for sample in samples], dtype=float)
        self.elements = np.array([2 * s.pair_target.numel() + s.onsite_target.numel() for s in samples], dtype=float)
        model.network.to(device)
        self.objective = Objective(model.network, config.train.band_weight)
        self.wrapped: nn.Module = self.objective
        if world.size > 1:
            self.wrapped = nn.parallel.DistributedDataParallel(
                self.objective, device_ids=[device] if device.type == "cuda" else None
            )
        self.optimizer = torch.optim.AdamW(
            model.network.parameters(), lr=config.train.learning_rate, betas=(0.9, 0.98), weight_decay=1e-3
        )
        self.average = {key: value.clone() for key, value in model.network.state_dict().items()}
        self.best: dict[str, Any] = {"error": math.inf, "epoch": 0, "weights": self._weights(self.average)}
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.steps = len(epoch_batches(len(samples), self.settings.batch, 0, 0)) * self.settings.epochs
        self.restart = config.output.directory / "restart.pt"
        self.log_file = config.output.directory / "log.csv"

    def run(self) -> None:
        """Train to the end (or a limit); afterwards the model has the best weights. Collective."""
        resume = self.world.on_root(lambda: self.settings.resume and self.restart.exists())
        with self.world.together():
            if resume:
                self._resume()
            elif self.world.is_root:
                self.config.output.directory.mkdir(parents=True, exist_ok=True)
                self.restart.unlink(missing_ok=True)  # of a run that is not to be continued
                self.log_file.write_text(",".join(COLUMNS) + "\n")
        begin = time.monotonic() - self.seconds
        with progress(self.world, "epoch", self.settings.epochs) as bar:
            bar.advance(self.epoch)
            while not self._finished():
                loss = self._train_epoch()
                errors = self._validate()
                self.epoch += 1
                self.seconds = self.world.comm.bcast(time.monotonic() - begin, root=0)
                self._keep(loss, errors)
                bar.advance(1, f"loss {loss:.3f} meV, validation {errors['all']:.3f} meV")
        self.model.network.load_state_dict(self.best["weights"])
        log.info("best epoch %d: validation error %.3f meV", self.best["epoch"], self.best["error"])

    def _finished(self) -> bool:
        if self.epoch >= self.settings.epochs:
            return True
        if self.epoch - self.best["epoch"] >= self.settings.patience:
            log.info("stopped at epoch %d: no better for %d epochs", self.epoch, self.settings.patience)
            return True
        if self.settings.minutes is not None and self.seconds >= 60 * self.settings.minutes:
            log.info("stopped at epoch %d: %g minutes are over", self.epoch, self.settings.minutes)
            return True
        return False

    def _train_epoch(self) -> float:
        """One pass over the training structures: mean absolute error in meV on the way. Collective."""
        total = 0.0
        world = self.world
        for batch in epoch_batches(len(self.samples), self.settings.batch, self.settings.seed, self.epoch):
            mine = share(batch, self.costs, world.rank, world.size)
            sample = join([self.samples[index] for index in mine]) if mine else empty_like(self.samples[0])
            self.objective.turn = self.epoch
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate()
            loss = self.wrapped(sample) / self.elements[batch].sum()
            self.optimizer.zero_grad(set_to_none=True)
            (loss * world.size).backward()  # DDP averages over ranks; each holds its share of the batch's sum
            norm = nn.utils.clip_grad_norm_(self.model.network.parameters(), self.settings.clip)
            if not bool(torch.isfinite(norm)):
                raise ModelError(f"the loss is not finite in epoch {self.epoch + 1}: try a smaller learning_rate")
            self.optimizer.step()
            self.step += 1
            self._update_average()
            total += float(loss.detach()) * self.elements[batch].sum()
        return 1e3 * world.sum(total) / self.elements.sum()

    def _learning_rate(self) -> float:
        warm = min(1.0, (self.step + 1) / (self.settings.warmup + 1))
        fall = 0.5 * (1.0 + math.cos(math.pi * min(self.step / max(self.steps, 1), 1.0)))
        return self.settings.learning_rate * warm * max(fall, 1e-3)

    def _update_average(self) -> None:
        decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in self.model.network.state_dict().items():
                if value.is_floating_point():
                    self.average[key].lerp_(value, 1 - decay)

    def _validate(self) -> dict[str, float]:
        """Errors of the averaged weights; of the training loss where there are no validation structures. Collective."""
        network = self.model.network
        current = {key: value.clone() for key, value in network.state_dict().items()}
        network.load_state_dict(self.average)
        errors = self.checks.errors(self.world, validation=True)
        network.load_state_dict(current)
        return errors

    def _keep(self, loss: float, errors: dict[str, float]) -> None:
        """Remember the best weights, append to the log and write the restart file (root)."""
        error = errors["all"] if self.config.data.validation else loss
        if error < self.best["error"]:
            self.best = {"error": error, "epoch": self.epoch, "weights": self._weights(self.average)}
        with self.world.together():
            if not self.world.is_root:
                return
            row = (self.epoch, f"{self.seconds:.1f}", f"{self._learning_rate():.3e}", f"{loss:.5f}")
            with self.log_file.open("a", newline="") as file:
                csv.writer(file).writerow([*row, *(f"{errors[key]:.5f}" for key in ("all", "onsite", "hopping"))])
            state = {
                "format": RESTART,
                "settings": _comparable(self.config),
                "epoch": self.epoch,
                "step": self.step,
                "seconds": self.seconds,
                "weights": self._weights(self.model.network.state_dict()),
                "average": self._weights(self.average),
                "best": self.best,
                "optimizer": self.optimizer.state_dict(),
            }
            save_plain(self.restart, state)

    def _resume(self) -> None:
        state = load_plain(self.restart, RESTART)
        now, then = _comparable(self.config), state["settings"]
        if now != then:
            different = sorted(key for key in set(now) | set(then) if now.get(key) != then.get(key))
            raise ConfigError(
                f"{self.config.output.directory} holds a run with other settings ({', '.join(different)}): "
                "choose another output.directory, or set train.resume = false to start over"
            )
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.model.network.load_state_dict(state["weights"])
        self.average = {key: value.to(self.device) for key, value in state["average"].items()}
        self.best = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        if self.world.is_root:
            rows = self.log_file.read_text().splitlines() if self.log_file.exists() else [",".join(COLUMNS)]
            kept = [row for row in rows if not row[:1].isdigit() or int(row.split(",")[0]) <= self.epoch]
            self.log_file.write_text("\n".join(kept) + "\n")
        log.info("resuming after epoch %d", self.epoch)

    def _weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value.detach().cpu().clone() for key, value in state.items()}


def empty_like(sample: Sample) -> Sample:
    """A sample without atoms, for a rank that has no structure in a step: it takes part in the gradient's sum."""
    none = torch.zeros(0, dtype=torch.int64, device=sample.species.device)
    bonds = [
        type(part)(
            none, none, *(getattr(part, name)[:0] for name in ("natural", "pseudo", "radial", "envelope", "distances"))
        )
        for part in (sample.messages, sample.pairs)
    ]
    return Sample(none, bonds[0], bonds[1], none, sample.pair_target[:0], sample.onsite_target[:0])


def _comparable(config: TrainConfig) -> dict[str, str]:
    """Settings that a continued run must share with its beginning."""
    free = {"train.minutes", "train.patience", "train.resume", "data.test"}
    found = {}
    for section in ("data", "network", "train"):
        for name, value in getattr(config, section).model_dump(mode="json").items():
            if f"{section}.{name}" not in free:  # a moved dataset is the same dataset
                found[f"{section}.{name}"] = repr(Path(value).name if name == "directory" else value)
    return found


def _log_model(model: HamiltonianModel, config: TrainConfig, world: World) -> None:
    count = sum(p.numel() for p in model.network.parameters())
    settings = model.settings
    log.info(
        "%s: %d training, %d validation, %d test structures; elements %s; zero of energy: %s",
        config.data.directory, len(config.data.train), len(config.data.validation), len(config.data.test),
        ", ".join(settings.orbitals.to_symbols()), model.facts.energy_reference,
    )  # fmt: skip
    log.info(
        "network of %d parameters, %d layers, messages to %.2f Å, pairs to %.2f Å, %s, %d rank(s)",
        count, settings.layers, settings.r_message, settings.r_pair, config.train.dtype, world.size,
    )  # fmt: skip


def _report(config: TrainConfig, world: World, model: HamiltonianModel, checks: Checks) -> None:
    """Log the final errors and put them into the model's provenance. Collective."""
    provenance: dict[str, Any] = {
        "version": __version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "structures": {"train": len(config.data.train), "validation": len(config.data.validation)},
        "dataset": Path(config.data.directory).name,
        "ranks": world.size,
        "config": config.model_dump_json(exclude={"data": {"directory"}, "output": True}),
    }
    for name, validation in (("validation", True), ("test", False)):
        if getattr(config.data, name):
            errors = checks.errors(world, validation=validation)
            provenance[f"{name}_error_meV"] = errors
            log.info(
                "%s error of H: %.3f meV (onsite %.3f, hopping %.3f), a common shift of energy fitted out",
                name, errors["all"], errors["onsite"], errors["hopping"],
            )  # fmt: skip
    model.facts.provenance = provenance
