"""One file with everything a model needs. Plain tensors, numbers and strings: loading it cannot run code."""

from __future__ import annotations

import io
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import torch
from torch import Tensor

from deeph_mpi._version import __version__
from deeph_mpi.basis.template import ShellTemplate
from deeph_mpi.errors import ModelError
from deeph_mpi.model.model import HamiltonianModel, ModelFacts
from deeph_mpi.model.network import HamiltonianNetwork
from deeph_mpi.model.novelty import Novelty
from deeph_mpi.model.settings import NetworkSettings
from deeph_mpi.model.tables import TwoCentreTable

__all__ = ["FORMAT", "from_plain", "load_checkpoint", "load_plain", "save_checkpoint", "save_plain", "to_plain"]

FORMAT = "deeph-mpi checkpoint 3"
_BEFORE = "deeph-mpi checkpoint 2"

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def save_plain(path: str | os.PathLike[str], content: dict[str, Any], *, compress: bool = False) -> None:
    """Write a dictionary of tensors and plain data under a temporary name, then rename it.

    Args:
        compress: torch reads compressed archives but does not write them; tables shrink to a half, weights by a tenth.

    Raises:
        OSError: it cannot be written; a former file stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(content, temporary)
        if compress:
            with ZipFile(io.BytesIO(temporary.read_bytes())) as plain, ZipFile(temporary, "w", ZIP_DEFLATED) as packed:
                for name in plain.namelist():
                    packed.writestr(name, plain.read(name))
        temporary.replace(path)
    except RuntimeError as error:  # torch's, on a full disk
        reason = str(error).strip().splitlines()
        raise OSError(f"'{path}' cannot be written ({reason[0][:120] if reason else error!r})") from None
    finally:
        temporary.unlink(missing_ok=True)


def load_plain(path: str | os.PathLike[str], *expected: str) -> dict[str, Any]:
    """Read what `save_plain` wrote, without executing anything that may be in the file.

    Raises:
        ModelError: when it is missing, damaged, not such a file or of none of the formats `expected`.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"no such checkpoint: {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as anything, from UnpicklingError to IndexError
        reason = str(error).strip().splitlines()
        raise ModelError(
            f"{path} is damaged or not a deeph-mpi checkpoint ({reason[0][:120] if reason else error!r})"
        ) from None
    found = content.get("format") if isinstance(content, dict) else None
    if found not in expected:
        raise ModelError(f"{path} is not a '{expected[0]}' but {found!r}: it does not fit deeph-mpi {__version__}")
    return content


def to_plain(model: HamiltonianModel) -> dict[str, Any]:
    """Everything of a model as tensors and plain data."""
    return {
        "format": FORMAT,
        "version": __version__,
        "settings": model.settings.to_dict(),
        "facts": asdict(model.facts),
        "dtype": str(model.dtype).removeprefix("torch."),
        "network": {key: value.detach().cpu().clone() for key, value in model.network.state_dict().items()},
        "overlap": {key: value.cpu().clone() for key, value in model.overlap.state_dict().items()},
        "baseline": {key: value.cpu().clone() for key, value in model.baseline.state_dict().items()},
        "novelty": None if model.novelty is None else model.novelty.to_plain(),
    }


def from_plain(content: dict[str, Any]) -> HamiltonianModel:
    """The inverse of `to_plain`.

    Raises:
        ModelError: when parts are missing or do not fit each other.
    """
    try:
        if content["format"] == _BEFORE:
            content = _upgraded(content)
        network = HamiltonianNetwork(NetworkSettings.from_dict(content["settings"]))
        network.to(_DTYPES[content["dtype"]])
        network.load_state_dict(_without_zeros(content["network"], network))
        tables = [
            TwoCentreTable(*(content[name][key].numpy() for key in ("knots", "coefficients", "onsite")))
            for name in ("overlap", "baseline")
        ]
        facts = ModelFacts(**content["facts"])
        novelty = None if content.get("novelty") is None else Novelty.from_plain(content["novelty"])
        pairs, size = len(network.settings.orbitals.shells) ** 2, ShellTemplate(network.settings.orbitals).size
        for table in tables:
            if len(table.coefficients) != pairs or table.onsite.shape[1:] != (size, size):
                raise ValueError("its tables are for other elements or orbitals than its network")
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ModelError(f"the checkpoint is incomplete or inconsistent: {reason[0] if reason else error!r}") from None
    for name, value in [
        *(("overlap." + key, value) for key, value in tables[0].state_dict().items()),
        *(("baseline." + key, value) for key, value in tables[1].state_dict().items()),
        *(
            ((f"novelty.{key}", value) for key, value in content["novelty"].items() if value is not None)
            if novelty
            else ()
        ),
        *network.state_dict().items(),
    ]:
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"the checkpoint holds numbers that are not finite ({name})")
    return HamiltonianModel(network, tables[0], tables[1], facts, novelty)


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """What the version before wrote, in which all pairs had one decoder, as this one would."""
    names = {"pair_scale": "corrections.scale"}
    for part in ("convolution", "factors", "hidden", "out"):
        names[f"pair_{part}."] = f"corrections.near.{part}."
    weights = {}
    for name, value in content["network"].items():
        old = next((old for old in names if name == old or (old.endswith(".") and name.startswith(old))), "")
        weights[names.get(old, "") + name.removeprefix(old)] = value
    weights["corrections.radius"] = weights["pair_radius"].clone()
    weights["corrections.near_radius"] = weights["pair_radius"].clone()
    settings = {**content["settings"], "far_hidden": 0, "far_degree": 2, "factors": 64, "fade": 0.0}
    return {**content, "format": FORMAT, "settings": settings, "network": weights}


def _without_zeros(weights: dict[str, Tensor], network: HamiltonianNetwork) -> dict[str, Tensor]:
    """Weights of the first two layers as the version before had them, less those of features that are always zero there: the
    last rows and columns of each."""
    found = dict(weights)
    for name, own in network.state_dict().items():
        if name.startswith(("layers.0.", "layers.1.")) and name in weights:
            found[name] = weights[name][tuple(slice(size) for size in own.shape)]
    return {
        name: value for name, value in found.items() if not name.startswith("layers.0.") or name in network.state_dict()
    }


def save_checkpoint(path: str | os.PathLike[str], model: HamiltonianModel) -> None:
    """Write a model to one file."""
    save_plain(path, to_plain(model), compress=True)


def load_checkpoint(path: str | os.PathLike[str], dtype: torch.dtype | None = None) -> HamiltonianModel:
    """Read a model; `dtype` converts the network (its tables stay float64).

    Raises:
        ModelError: when the file is missing, damaged, of another version or inconsistent.
    """
    content = load_plain(path, FORMAT, _BEFORE)
    try:
        model = from_plain(content)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    if dtype is not None:
        model.network.to(dtype)
    return model.eval()
