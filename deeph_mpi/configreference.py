"""The reference of all configuration keys, from their schema: a commented TOML file, or Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo

from deeph_mpi.configfile import Schema, Section, section_types

__all__ = ["markdown", "reference"]

_INTRODUCTION = """# Configuration

Every key of the files that `deeph-mpi infer`, `solve` and `train` read, made from the program's own schema by

    deeph-mpi config --markdown > examples/CONFIGURATION.md

Files are TOML. Relative paths count from the folder of the file; `--set section.key=value` overrides a key. Energies are in eV,
lengths in Å, k-points fractional. A key without a default may be left out, unless it says *must be given*."""

_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def reference(schema: type[Schema]) -> str:
    """Every key of a schema as a commented TOML file: meaning, unit, default."""
    lines = [f"# {schema.__doc__ or ''}"]
    for section, kind in section_types(schema).items():
        lines += ["", f"[{section}]", *(f"# one of: {', '.join(group)}" for group in kind.alternatives)]
        for name, field in kind.model_fields.items():
            unit = _unit(field)
            comment = f"# {field.description}" + (f" [{unit}]" if unit else "")
            if field.is_required():
                lines.append(f"{name} = …  {comment} (must be given)")
            elif field.default is None:
                lines.append(f"# {name} = …  {comment}")
            else:
                lines.append(f"{name} = {_default(field)}  {comment}")
    return "\n".join(lines)


def markdown(schemas: Mapping[str, type[Schema]]) -> str:
    """Every key of the schemas of several commands as tables; a section that commands share appears once.

    Args:
        schemas: by the name of the command.
    """
    users: dict[tuple[str, type[Section]], list[str]] = {}
    for command, schema in schemas.items():
        for name, kind in section_types(schema).items():
            users.setdefault((name, kind), []).append(command)
    lines = [_INTRODUCTION, ""]
    lines += [schema.__doc__ or "" for schema in schemas.values()]
    lines[2:] = [f"- {line}" for line in lines[2:]]
    for (name, kind), commands in users.items():
        lines += ["", f"## [{name}] of {', '.join(commands)}", "", kind.__doc__ or ""]
        for group in kind.alternatives:
            lines.append("At most one of " + ", ".join(f"`{key}`" for key in group) + " may be given.")
        lines += ["", "| key | values | default | unit | meaning |", "|---|---|---|---|---|"]
        shapes = kind.model_json_schema()["properties"]
        for key, field in kind.model_fields.items():
            default = "*must be given*" if field.is_required() else ""
            if not field.is_required() and field.default is not None:
                default = f"`{_default(field)}`"
            cells = (f"`{key}`", _values(shapes[key]), default, _unit(field), field.description or "")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _unit(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def _default(field: FieldInfo) -> str:
    return json.dumps(field.default, ensure_ascii=False)


def _values(shape: Mapping[str, Any]) -> str:
    """What a key takes, in words, from its JSON schema."""
    if "anyOf" in shape:
        return " or ".join(_values(one) for one in shape["anyOf"] if one.get("type") != "null")
    if "const" in shape or "enum" in shape:
        return ", ".join(f'`"{value}"`' for value in shape.get("enum", [shape.get("const")]))
    if shape["type"] == "array":
        count, least = shape.get("maxItems"), shape.get("minItems")
        of = _values(shape["items"])
        return f"[{count} × {of}]" if count is not None and count == least else f"list of {of}"
    if shape["type"] == "object":
        return f"table of {_values(shape['additionalProperties'])}"
    name = "path" if shape.get("format") == "path" else {"boolean": "`true`, `false`"}.get(shape["type"], shape["type"])
    limits = [f"{sign} {shape[limit]:g}" for limit, sign in _LIMITS.items() if limit in shape]
    return " ".join([name, ", ".join(limits)]).rstrip()
