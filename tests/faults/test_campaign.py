"""Bad input of every kind through the command line on 1 to 4 ranks: one message that names what is wrong, a non-zero exit code
on every rank, no traceback, an end within seconds, and nothing left behind that looks like a result.

The cases are declared in `tests.faults.cases`; `python -m tests.faults.table` writes them as a table to README.md beside this
file.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.campaign import Outcome, run_alone, run_together
from tests.faults.cases import CASES
from tests.faults.inputs import make_inputs
from tests.faults.table import HERE, table


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "inputs"
    make_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def outcome(
    request: pytest.FixtureRequest, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Outcome]:
    """What came of a case; the chosen ones that share processes run when the first of them is asked for."""
    found: dict[str, Outcome] = {}
    chosen = {item.callspec.params["tried"] for item in request.session.items if "outcome" in item.fixturenames}
    place = tmp_path_factory.mktemp("cases")

    def get(tried: str) -> Outcome:
        case = CASES[tried]
        if case.alone:
            folder = place / re.sub(r"\W+", "_", tried)
            shutil.copytree(inputs, folder)
            return run_alone(case, folder)
        if tried not in found:
            alike = [one for one in CASES.values() if one.tried in chosen and one.ranks == case.ranks and not one.alone]
            found.update(run_together(alike, inputs, place))
        return found[tried]

    return get


@pytest.mark.parametrize("tried", list(CASES))
def test_one_message_and_nothing_half_done(outcome: Callable[[str], Outcome], tried: str) -> None:
    case, came = CASES[tried], outcome(tried)
    assert not came.hung, came.text
    assert set(came.codes) == {case.code}, (came.codes, came.text)
    text = " ".join(came.text.replace("│", " ").split())  # usage errors come in a box, broken into lines
    assert text.count("deeph-mpi: error") + text.count("─ Error ─") == 1, came.text
    assert "Traceback" not in text, came.text
    for part in case.says:
        assert part in text, came.text
    assert set(came.files) <= set(case.leaves), came.files
    assert "planted" not in came.files


def test_the_table_is_that_of_the_declarations() -> None:
    assert (HERE / "README.md").read_text() == table(), "run: python -m tests.faults.table"
