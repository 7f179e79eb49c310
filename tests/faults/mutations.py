"""Damage to files, as strategies of hypothesis: to bytes, to words and lines of text, to the datasets of an HDF5 file."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st

__all__ = ["Damage", "bytes_damaged", "hdf5_damaged", "integers_damaged", "text_damaged", "values_damaged"]

WORDS = (
    b"", b"nan", b"inf", b"-1", b"0", b"1e400", b"1e9", b"-3.5", b"999999999999999999999999", b"\x00", b"\xff\xfe", b"[", b"]",
    b"{", b"&", b"#", b'"', b"x", b"H", b"true", b"\xc3\xa9", b"%s", b"3,4",
)  # fmt: skip

NUMBERS = (0, 1, -1, 2, 7, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62, -(2**63))
REALS = (0.0, -0.0, 1.0, -1e30, 1e300, np.inf, -np.inf, np.nan, 1e-320)

LARGEST = 4  # steps of damage to one file


@dataclass(frozen=True)
class Damage:
    """One step: `make` takes what is there and returns what is left; `words` say what it does, for hypothesis."""

    words: str
    make: Callable[[Any], Any]

    def __repr__(self) -> str:
        return self.words


def _all(steps: list[Damage]) -> Damage:
    def make(content: Any) -> Any:
        for step in steps:
            content = step.make(content)
        return content

    return Damage(", ".join(step.words for step in steps), make)


def _several(step: st.SearchStrategy[Damage]) -> st.SearchStrategy[Damage]:
    return st.lists(step, min_size=1, max_size=LARGEST).map(_all)


def bytes_damaged(size: int) -> st.SearchStrategy[Damage]:
    """Damage to a file of `size` bytes: bits turned over, bytes overwritten, inserted, removed, the end cut off.

    Every other place lies in the first 2 kB, where binary formats describe themselves.
    """
    last = max(size - 1, 0)
    place = st.one_of(st.integers(0, min(last, 2047)), st.integers(0, last))
    payload = st.one_of(
        st.binary(min_size=1, max_size=9), st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\0" * 200, b"A" * 3])
    )

    def flip(at: int, bit: int) -> Damage:
        return Damage(
            f"bit {bit} of byte {at}",
            lambda data: _put(data, at, bytes([data[at] ^ 1 << bit])) if at < len(data) else data,
        )

    return _several(
        st.one_of(
            st.builds(flip, place, st.integers(0, 7)),
            st.builds(
                lambda at, new: Damage(f"{new!r} over byte {at}", lambda data: _put(data, at, new)), place, payload
            ),
            st.builds(
                lambda at, new: Damage(f"{new!r} before byte {at}", lambda data: data[:at] + new + data[at:]),
                place,
                payload,
            ),
            st.builds(
                lambda at, n: Damage(f"{n} bytes less at {at}", lambda data: data[:at] + data[at + n :]),
                place,
                st.integers(1, 64),
            ),
            st.builds(lambda at: Damage(f"cut at {at}", lambda data: data[:at]), place),
        )
    )


def integers_damaged(size: int) -> st.SearchStrategy[Damage]:
    """Damage to a file of 32-bit integers and other things: one of them replaced, or any damage to its bytes."""

    def replaced(place: int, value: int) -> Damage:
        return Damage(
            f"integer {place} = {value}", lambda data: _put(data, 4 * place, value.to_bytes(4, "little", signed=True))
        )

    place = st.one_of(st.integers(0, min(size // 4 - 1, 511)), st.integers(0, size // 4 - 1))
    values = st.sampled_from([number for number in (*NUMBERS, 3, 13, 100, 10**6) if abs(number) < 2**31])
    return st.one_of(_several(st.builds(replaced, place, values)), bytes_damaged(size))


def text_damaged(text: bytes) -> st.SearchStrategy[Damage]:
    """Damage to a text: a word replaced, a line removed, doubled or moved, the end cut off, or any damage to its bytes."""
    words, lines = len(re.findall(rb"\S+", text)), len(text.splitlines())

    def replaced(index: int, word: bytes) -> Damage:
        def make(data: bytes) -> bytes:
            found = list(re.finditer(rb"\S+", data))
            if index >= len(found):
                return data
            return data[: found[index].start()] + word + data[found[index].end() :]

        return Damage(f"word {index} → {word!r}", make)

    def moved(line: int, times: int, to: int) -> Damage:
        def make(data: bytes) -> bytes:
            rows = data.splitlines(keepends=True)
            if line < len(rows):
                row = rows.pop(line)
                rows[to:to] = [row] * times
            return b"".join(rows)

        return Damage(f"line {line} {times} times at {to}", make)

    line = st.integers(0, max(lines - 1, 0))
    step = st.one_of(
        st.builds(replaced, st.integers(0, max(words - 1, 0)), st.sampled_from(WORDS)),
        st.builds(moved, line, st.integers(0, 2), line),
    )
    return st.one_of(_several(step), bytes_damaged(len(text)))


def hdf5_damaged(path: Path) -> st.SearchStrategy[Damage]:
    """Damage that keeps an HDF5 file readable: values, lengths, types and names of its datasets. `make` takes an open file."""
    names: list[str] = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)

    def value(name: str, at: int, integer: int, real: float) -> Damage:
        def change(array: np.ndarray) -> np.ndarray:
            if array.size and array.dtype.kind in "iufcb":
                new = integer if array.dtype.kind in "iub" else real
                with np.errstate(all="ignore"):
                    array.flat[at % array.size] = np.array(new).astype(array.dtype)
            return array

        return Damage(f"{name}[{at}] = {integer} or {real}", _rewriting(name, change))

    def reshaped(name: str, how: str) -> Damage:
        return Damage(f"{name}: {how}", _rewriting(name, _SHAPES[how]))

    def retyped(name: str, kind: str) -> Damage:
        def change(array: np.ndarray) -> np.ndarray:
            with np.errstate(all="ignore"), suppress(ValueError):  # a word that is no number
                return array.astype(kind)
            return array

        return Damage(f"{name} as {kind}", _rewriting(name, change))

    name = st.sampled_from(names)
    return _several(
        st.one_of(
            st.builds(value, name, st.integers(0, 2**16), st.sampled_from(NUMBERS), st.sampled_from(REALS)),
            st.builds(reshaped, name, st.sampled_from(sorted(_SHAPES))),
            st.builds(retyped, name, st.sampled_from(["f4", "f8", "c16", "i4", "i8", "u1", ">f8", ">i8", "S8", "?"])),
            st.builds(lambda name: Damage(f"no {name}", _removing(name, group=False)), name),
            st.builds(lambda name: Damage(f"{name} a group", _removing(name, group=True)), name),
        )
    )


_SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "first half": lambda array: array[: len(array) // 2] if array.ndim else array,
    "twice": lambda array: np.concatenate([array, array]) if array.ndim else array,
    "one less": lambda array: array[:-1] if array.ndim else array,
    "empty": lambda array: array[:0] if array.ndim else array,
    "flat": lambda array: array.ravel(),
    "in a column": lambda array: array[..., None],
    "reversed": lambda array: array[::-1].copy() if array.ndim else array,
    "a number": lambda array: np.array(array.flat[0] if array.size else 0),
}


def _rewriting(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], h5py.File]:
    def make(file: h5py.File) -> h5py.File:
        if isinstance(file.get(name), h5py.Dataset) and isinstance(array := file[name][()], np.ndarray):
            new = change(array)
            del file[name]
            file[name] = new
        return file

    return make


def _removing(name: str, *, group: bool) -> Callable[[h5py.File], h5py.File]:
    def make(file: h5py.File) -> h5py.File:
        if name in file:
            del file[name]
            if group:
                file.create_group(name)
        return file

    return make


ODD: tuple[Any, ...] = (
    None, True, 0, -1, 7, 10**6, 2**70, 0.5, float("nan"), float("inf"), "", "x", "float16", "load", [], [1], {}, {"x": 1},
    b"x",
)  # fmt: skip


def values_damaged(content: Any, odd: tuple[Any, ...] = ODD) -> st.SearchStrategy[Damage]:
    """Damage to nested dictionaries and lists: a value replaced by an odd one, or left out. `make` returns a changed copy."""
    places = _places(content, ())

    def put(place: tuple[Any, ...], value: Any) -> Damage:
        return Damage(f"{place} = {value!r}", lambda whole: _with(whole, place, value, remove=False))

    def leave_out(place: tuple[Any, ...]) -> Damage:
        return Damage(f"no {place}", lambda whole: _with(whole, place, None, remove=True))

    where = st.sampled_from(places)
    return _several(st.one_of(st.builds(put, where, st.sampled_from(odd)), st.builds(leave_out, where)))


def _places(content: Any, here: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place for key, value in inside for place in [(*here, key), *_places(value, (*here, key))]]


def _with(whole: Any, place: tuple[Any, ...], value: Any, *, remove: bool) -> Any:
    key, *rest = place
    if not (isinstance(whole, dict) and key in whole) and not (
        isinstance(whole, list) and isinstance(key, int) and key < len(whole)
    ):
        return whole
    copy: Any = dict(whole) if isinstance(whole, dict) else list(whole)
    if rest:
        copy[key] = _with(copy[key], tuple(rest), value, remove=remove)
    elif remove:
        del copy[key]
    else:
        copy[key] = value
    return copy


def _put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]
