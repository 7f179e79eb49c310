"""`deeph-mpi train`: dataset → labels → tables → samples → trained network → checkpoint and report."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deeph_mpi._version import __version__
from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.config import TrainConfig
from deeph_mpi.data.deeph import DeephSystem
from deeph_mpi.errors import ConfigError
from deeph_mpi.model.checkpoint import from_plain, load_checkpoint, save_checkpoint, to_plain
from deeph_mpi.model.model import HamiltonianModel
from deeph_mpi.model.novelty import Novelty, invariants
from deeph_mpi.parallel import World
from deeph_mpi.parallel.events import emit
from deeph_mpi.parallel.memory import keep_freed_memory
from deeph_mpi.parallel.nodes import rank_device
from deeph_mpi.parallel.stages import Stages
from deeph_mpi.parallel.torch_group import torch_group
from deeph_mpi.results.textfile import write_text
from deeph_mpi.train.batch import Sample, make_sample, spread_sample
from deeph_mpi.train.checks import BAND_KPOINTS, LARGEST_DENSE, Checks
from deeph_mpi.train.errors import ErrorSums, shell_names
from deeph_mpi.train.finetune import union_of_orbitals
from deeph_mpi.train.history import History
from deeph_mpi.train.labels import Labels
from deeph_mpi.train.objective import features
from deeph_mpi.train.prepare import common_orbitals, read_labels, untrained_model
from deeph_mpi.train.trainer import Trainer

__all__ = ["train"]

log = logging.getLogger(__name__)


def train(config: TrainConfig, world: World) -> HamiltonianModel:
    """Train a network, write the files of `History`, `model.pt` and `restart.pt`, and return the best model. Collective.

    Raises:
        DataError: for a dataset that is incomplete or inconsistent.
        ConfigError: when the output directory holds a run with other settings.
        ModelError: when `train.init_from` does not fit the structures.
    """
    keep_freed_memory()
    device = rank_device(world, share=config.train.share_gpus)
    stages = Stages(world)
    data = config.data
    with stages("read"), world.together():
        orbitals = common_orbitals(data.directory, data.train)
        start = None
        if config.train.init_from is not None:
            start = load_checkpoint(config.train.init_from)
            _same_network(config, start)
            orbitals = union_of_orbitals(start, orbitals)
        template = ShellTemplate(orbitals)
        systems, labels = read_labels(data.directory, data.train, template)
        held = read_labels(data.directory, (data.validation + data.test)[world.rank :: world.size], template)
    with stages("fit tables"):
        plain, shifts = world.on_root(_fitted, config, template, systems, labels, start)
        model = from_plain(plain)
        for one, shift in zip(labels, shifts, strict=True):
            if not world.is_root and shift:  # rank 0 has done it while fitting
                one.shift(shift)
        model.network.to(dtype=getattr(torch, config.train.dtype))
        _log_model(model, config, world)
    spread = config.train.parallel == "graph"
    with stages("prepare"):
        if spread:
            samples = [spread_sample(world, model, one, s.structure) for one, s in zip(labels, systems, strict=True)]
        with world.together():
            if not spread:
                bands = [_band_kpoints(config, model, one) for one in labels]
                samples = [
                    make_sample(model, one, system.structure, k)
                    for one, system, k in zip(labels, systems, bands, strict=True)
                ]
            samples = [sample.to(device) for sample in samples]
            checks = Checks(model, *held, set(data.validation), device)
        with world.together():
            history = _history(config, template) if world.is_root else None
            if world.is_root:
                split = {part: getattr(data, part) for part in ("train", "validation", "test")}
                write_text(config.output.directory / "split.json", json.dumps(split, indent=1))
    with stages("train"), torch_group(world, device):
        trainer = Trainer(config, world, model, samples, checks, history, device)
        trainer.run()
    with stages("environments"):
        model.novelty = _novelty(config, world, model, samples)
        if data.validation:
            model.novelty.fit_law(*checks.novelty_and_errors(world))
    with stages("test"):
        reported = _report(config, world, model, checks)
    with world.together():
        if world.is_root:
            save_checkpoint(config.output.directory / "model.pt", model)
            assert history is not None
            history.finish(reported[1], f"{reported[0]} structures")
    log.info("\n%s", stages.summary())
    log.info("checkpoint: %s", config.output.directory / "model.pt")
    if world.is_root:
        errors = {name: value for name, value in model.facts.provenance.items() if name.endswith("_meV")}
        emit("result", what="network", checkpoint=config.output.directory / "model.pt", **trainer.facts(), **errors)
    return model


def _same_network(config: TrainConfig, start: HamiltonianModel) -> None:
    """Keys of [network] that are given must be those of the checkpoint.

    Raises:
        ConfigError: naming the first that is not.
    """
    for name in sorted(config.network.model_fields_set):
        wanted, have = getattr(config.network, name), getattr(start.settings, name)
        if wanted != have:
            raise ConfigError(
                f"network.{name} = {wanted}, but the network of train.init_from has {have}: leave the key out"
            )


def _fitted(
    config: TrainConfig,
    template: ShellTemplate,
    systems: list[DeephSystem],
    labels: list[Labels],
    start: HamiltonianModel | None,
) -> tuple[dict[str, Any], list[float]]:
    model, shifts = untrained_model(config, template, systems, labels, start)
    return to_plain(model), shifts


def _band_kpoints(config: TrainConfig, model: HamiltonianModel, labels: Labels) -> int:
    """Number of k-points at which a structure's eigenstates count in the loss."""
    small = model.settings.orbitals.orbitals(labels.numbers).sum() <= LARGEST_DENSE
    return BAND_KPOINTS if config.train.band_weight and small and labels.fermi_energy is not None else 0


def _history(config: TrainConfig, template: ShellTemplate) -> History:
    return History(config.output.directory, shell_names(template), tensorboard=config.output.tensorboard)


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


def _novelty(config: TrainConfig, world: World, model: HamiltonianModel, samples: list[Sample]) -> Novelty:
    """Statistics of the training atoms. Collective."""
    own = samples if config.train.parallel == "graph" else samples[world.rank :: world.size]
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for sample in own:
        with torch.no_grad():
            state = features(model.network, sample)
        parts.append((invariants(*state).cpu().numpy(), sample.species.cpu().numpy()))
    parts = [part for rank in world.comm.allgather(parts) for part in rank]
    values, species = (torch.tensor(np.concatenate([part[column] for part in parts])) for column in range(2))
    return Novelty.of_training(values, species, len(model.elements))


def _report(config: TrainConfig, world: World, model: HamiltonianModel, checks: Checks) -> tuple[str, ErrorSums]:
    """Log the final errors and put them into the model's provenance; the last ones, with their name. Collective."""
    provenance: dict[str, Any] = {
        "version": __version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "structures": {"train": len(config.data.train), "validation": len(config.data.validation)},
        "dataset": Path(config.data.directory).name,
        "ranks": world.size,
        "config": config.model_dump_json(exclude={"data": {"directory", "split"}, "output": True}),
    }
    last = "no held-out", ErrorSums.zero(len(model.template.shells))
    for name in ("validation", "test"):
        if getattr(config.data, name):
            last = name, checks.errors(world, validation=name == "validation", bands=True)
            errors = last[1].mean
            provenance[f"{name}_error_meV"] = errors
            log.info(
                "%s error of H: %.3f meV (onsite %.3f, hopping %.3f), a common shift of energy fitted out; "
                "eigenvalues near E_F: %.1f meV",
                name, errors["all"], errors["onsite"], errors["hopping"], errors["eigenvalues"],
            )  # fmt: skip
    model.facts.provenance = provenance
    return last
