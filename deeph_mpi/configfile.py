"""Reading a TOML configuration against its schema: overrides, paths, and one readable line per mistake.

The schemas themselves, with every key, are in `deeph_mpi.config`; their reference is made by `deeph_mpi.configreference`.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails

from deeph_mpi.errors import ConfigError, did_you_mean

__all__ = [
    "InputDataset",
    "InputDirectory",
    "InputFile",
    "OutputDirectory",
    "Schema",
    "Section",
    "key",
    "load",
    "section_types",
]


class Section(BaseModel):
    """A table of a configuration, such as `[solve]`.

    Attributes:
        alternatives: groups of keys of which at most one may be given. An override of one key takes the place of
            the others.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = ()

    @model_validator(mode="after")
    def _one_of_each_group(self) -> Section:
        for group in self.alternatives:
            given = [name for name in group if getattr(self, name) is not None]
            if len(given) > 1:
                raise ValueError(f"give one of {', '.join(group)}, not {' and '.join(given)} together")
        return self


class Schema(BaseModel):
    """A whole configuration: its fields are `Section`s."""

    model_config = ConfigDict(extra="forbid", strict=True)


S = TypeVar("S", bound=Schema)


def key(default: Any, meaning: str, *, unit: str = "", **constraints: Any) -> Any:
    """A key of a section: its default (`...` when it must be given), unit, meaning and limits (pydantic's `ge`, …)."""
    return Field(default, description=meaning, json_schema_extra={"unit": unit}, **constraints)


def section_types(schema: type[Schema]) -> dict[str, type[Section]]:
    """The sections of a schema, by name."""
    found: dict[str, type[Section]] = {}
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found[name] = field.annotation
    return found


def load(path: str | Path, schema: type[S], overrides: Iterable[str] = ()) -> S:
    """Read and check a configuration.

    Not collective: call it on rank 0 (`World.on_root`) and broadcast the result.

    Args:
        path: of the TOML file. Relative paths in it, and in overrides, count from its folder.
        schema: one of `deeph_mpi.config`.
        overrides: `"section.key=value"`, the value as in TOML; a bare word is a string.

    Raises:
        ConfigError: with one line for every mistake found.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except IsADirectoryError:
        raise ConfigError(f"{path} is a directory, not a configuration file") from None
    except FileNotFoundError:
        raise ConfigError(f"no such configuration file: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from None
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    for override in overrides:
        _apply(override, values, schema)
    try:
        return schema.model_validate(values, context={"folder": path.absolute().parent})
    except ValidationError as error:
        lines = list(dict.fromkeys(_line(detail, schema) for detail in error.errors()))
    raise ConfigError(f"{path}: {lines[0]}" if len(lines) == 1 else "\n  ".join([f"{path}:", *lines]))


def _apply(override: str, values: dict[str, Any], schema: type[Schema]) -> None:
    """Put one `section.key=value` into the values of the file."""
    name, equals, text = override.partition("=")
    section, dot, entry = name.strip().partition(".")
    if not (equals and dot and section and entry):
        raise ConfigError(f"cannot read the override '{override}': write --set section.key=value")
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if text.strip()[:1] in tuple("[{\"'"):
            raise ConfigError(f"cannot read the value of the override '{override}' as TOML: {error}") from None
        parsed = {"value": text.strip()}
    if set(parsed) != {"value"}:
        raise ConfigError(f"the override '{override}' must hold one value")
    table = values.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{section} must be a table of keys ([{section}]), not {table!r}")
    kind = section_types(schema).get(section)
    for group in kind.alternatives if kind else ():
        if entry in group:
            for other in group:
                table.pop(other, None)
    table[entry] = parsed["value"]


def _line(detail: ErrorDetails, schema: type[Schema]) -> str:
    """One mistake as one line: which key, what is wrong, what would be right."""
    location, kind, value = detail["loc"], detail["type"], detail["input"]
    where = f"[{location[0]}]" if len(location) == 1 else _dotted(location)
    if kind == "extra_forbidden":
        return _unknown(location, schema)
    if kind == "missing":
        meaning = _field_description(location, schema)
        return f"{where} is missing" + (f" ({meaning})" if meaning else "")
    if kind == "value_error":
        message = str(detail["ctx"]["error"])
        separator = " " if message.startswith("must ") else ": "
        return where + separator + message if where else message
    if kind in ("model_type", "dict_type"):
        return f"{where} must be a table of keys, not {value!r}"
    expected = (
        detail["msg"].removeprefix("Input should ").replace("a valid integer", "an integer").replace("valid ", "")
    )
    return f"{where} must {expected}, not {value!r}"


def _unknown(location: tuple[int | str, ...], schema: type[Schema]) -> str:
    """The line for a key or section that the schema does not have, with the nearest one that it has."""
    sections = section_types(schema)
    name = str(location[-1])
    elsewhere = {entry: f"{section}.{entry}" for section, kind in sections.items() for entry in kind.model_fields}
    near = difflib.get_close_matches(name, elsewhere, n=1)
    other = f" (did you mean '{elsewhere[near[0]]}'?)" if near else ""
    if len(location) == 1:
        hint = did_you_mean(name, sections) or other or f" (sections: {', '.join(sections)})"
        return f"unknown section [{name}]{hint}"
    own = sections[str(location[0])].model_fields
    hint = did_you_mean(name, own) or other or f" (keys of [{location[0]}]: {', '.join(own)})"
    return f"unknown key {_dotted(location)}{hint}"


def _field_description(location: tuple[int | str, ...], schema: type[Schema]) -> str:
    section = section_types(schema).get(str(location[0]))
    if section is None or len(location) < 2:
        return ""
    field = section.model_fields.get(str(location[1]))
    return (field.description or "") if field else ""


def _dotted(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _resolve(value: Any, info: ValidationInfo) -> Path:
    """A path from the file's folder; `~` is the home folder."""
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(f"must be a path, not {value!r}")
    try:
        path = Path(os.path.normpath((info.context or {}).get("folder", Path.cwd()) / Path(value).expanduser()))
        path.exists()
    except (OSError, RuntimeError) as error:  # too long, no permission to look, no such user after ~
        raise ValueError(f"must be a path that can be used: {error}") from None
    return path


def _input_file(value: Any, info: ValidationInfo) -> Path:
    path = _resolve(value, info)
    if path.is_dir():
        raise ValueError(f"{path} is a directory, not a file")
    if not path.exists():
        raise ValueError(f"no such file: {path}{did_you_mean(path.name, _names(path.parent))}")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path} cannot be read (permissions)")
    return path


def _input_directory(value: Any, info: ValidationInfo) -> Path:
    path = _resolve(value, info)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file, not a directory")
    if not path.exists():
        raise ValueError(f"no such directory: {path}{did_you_mean(path.name, _names(path.parent))}")
    return path


def _input_dataset(value: Any, info: ValidationInfo) -> Path:
    path = _resolve(value, info)
    return path if path.is_file() else _input_directory(value, info)


def _output_directory(value: Any, info: ValidationInfo) -> Path:
    path = _resolve(value, info)
    nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    if not nearest.is_dir():
        raise ValueError(f"{nearest} is a file, not a directory")
    if not os.access(nearest, os.W_OK):
        raise ValueError(f"{nearest} cannot be written (permissions)")
    return path


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


InputFile = Annotated[Path, BeforeValidator(_input_file)]
"""A file that must exist."""

InputDirectory = Annotated[Path, BeforeValidator(_input_directory)]
"""A directory that must exist."""

InputDataset = Annotated[Path, BeforeValidator(_input_dataset)]
"""A directory or a file that must exist."""

OutputDirectory = Annotated[Path, BeforeValidator(_output_directory)]
"""A directory that is made when it does not exist."""
