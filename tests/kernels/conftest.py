"""The rows that the tests of kernels run on: what this CPU can run of those compiled in, so that a new row needs no line
here."""

import pytest

import textok
from textok._core import Kernels


def loaded(row):
    """The row, or None where the system refuses what it needs (tiles ask for a permission)."""
    try:
        return Kernels(row)
    except ValueError:
        return None


ROWS = {row: kernels for row in textok.cpu_info()["rows"] if (kernels := loaded(row))}


def rows_with_slots_of(*dtypes):
    """Those that bring a slot of one of these dtypes themselves; on the others that slot is an earlier row's."""
    return [
        row
        for row, kernels in ROWS.items()
        if any(origin == row and slot.endswith(dtypes) for slot, origin in kernels.slots().items())
    ]


def pytest_generate_tests(metafunc):
    """A test with an argument `kernels` runs on each row that brings slots of its module's DTYPES."""
    if "kernels" in metafunc.fixturenames:
        metafunc.parametrize("kernels", rows_with_slots_of(*metafunc.module.DTYPES), indirect=True)


@pytest.fixture
def kernels(request):
    return ROWS[request.param]


@pytest.fixture
def all_rows():
    """{name: Kernels} of every row."""
    return ROWS
