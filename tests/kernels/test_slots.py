"""Every slot of the dispatch table can be called from Python, and a test here calls it: none ships untested."""

from pathlib import Path

import pytest

from textok._core import Kernels

CALLS = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))


@pytest.mark.parametrize("slot", Kernels("ref").slots())
def test_each_slot_has_a_method_and_a_test(slot):
    method = (
        slot if hasattr(Kernels, slot) else slot.rpartition("_")[0]
    )  # patchify_u8 and patchify_f32: one method, by its argument's dtype
    assert hasattr(Kernels, method) and f".{method}(" in CALLS


def test_rows_are_named_best_last(all_rows):
    """A row's slots come from itself or one before it, and the reference fills all."""
    names = list(all_rows)
    assert names[0] == "ref" and set(all_rows["ref"].slots().values()) == {"ref"}
    for i, (name, kernels) in enumerate(all_rows.items()):
        origins = set(kernels.slots().values())
        assert name in origins and origins <= set(names[: i + 1])
