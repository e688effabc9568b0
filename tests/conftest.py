"""What all tests share: a report of the largest errors seen, and the marks."""

import os
import random

import hypothesis
import numerics
import pytest

# No deadline: on a busy machine or under a sanitizer any example may be slow. The same examples each time.
hypothesis.settings.register_profile("textok", deadline=None, derandomize=True)
hypothesis.settings.load_profile("textok")


def pytest_addoption(parser):
    parser.addoption("--cases", type=int, metavar="N", help="N cases of each test on each row of kernels, for slow emulators")


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "measured: asserts a time or the process's memory, neither of which means anything under a sanitizer"
    )
    config.addinivalue_line(
        "markers", "long: whole programs, minutes on the reference row or under a sanitizer, of what shorter tests run too"
    )
    config.addinivalue_line(
        "markers", "large: takes gigabytes or a minute; runs where TEXTOK_TEST_LARGE is set, as .ci/run does"
    )


def some_cases(items, count):
    """`count` of each test on each row of kernels, always the same, and the others."""
    groups = {}
    for item in items:
        row = item.callspec.params.get("kernels") if hasattr(item, "callspec") else None
        groups.setdefault((item.path, item.originalname, row), []).append(item)
    draw = random.Random(0)
    drawn = {item for group in groups.values() for item in draw.sample(group, min(count, len(group)))}
    return [item for item in items if item in drawn], [item for item in items if item not in drawn]


def pytest_collection_modifyitems(config, items):
    if count := config.getoption("--cases"):
        items[:], others = some_cases(items, count)
        config.hook.pytest_deselected(items=others)
    if not os.environ.get("TEXTOK_TEST_LARGE"):
        for item in items:
            if item.get_closest_marker("large"):
                item.add_marker(pytest.mark.skip(reason="takes gigabytes: set TEXTOK_TEST_LARGE=1"))


def pytest_sessionfinish(session):
    """Of a process among several: its errors, to the one that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["largest_seen"] = {
            name: float(numerics.largest_seen[value])
            for name, value in vars(numerics).items()
            if isinstance(value, numerics.Tolerance) and value in numerics.largest_seen
        }


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    for name, seen in getattr(node, "workeroutput", {}).get("largest_seen", {}).items():
        tolerance = getattr(numerics, name)
        numerics.largest_seen[tolerance] = max(seen, numerics.largest_seen.get(tolerance, 0.0))


def pytest_terminal_summary(terminalreporter):
    """One line a tolerance: how near the tests came to it."""
    names = {tolerance: name for name, tolerance in vars(numerics).items() if isinstance(tolerance, numerics.Tolerance)}
    if numerics.largest_seen:
        terminalreporter.section("largest relative errors")
    for tolerance, error in numerics.largest_seen.items():
        terminalreporter.write_line(f"{names.get(tolerance, 'unnamed'):24} {error:.2e} of {tolerance.limit:.1e}")
