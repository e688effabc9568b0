"""The coefficients in csrc/kernels/<row>/polynomials.h are what polynomials.py makes."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

KERNELS = Path(__file__).resolve().parents[2] / "csrc" / "kernels"
NUMBER = re.compile(r"-?0x1\.[0-9a-f]+p[+-]\d+(?=f)")


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("polynomials", KERNELS / "polynomials.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("row", ("avx2", "avx512"))
def test_headers_are_generated(generator, row):
    """Word for word, and the numbers but for what another LAPACK may round otherwise."""
    stored, made = (KERNELS / row / "polynomials.h").read_text(), generator.header(row)
    assert NUMBER.sub("", stored) == NUMBER.sub("", made)
    numbers = [np.array([float.fromhex(number) for number in NUMBER.findall(text)]) for text in (stored, made)]
    np.testing.assert_allclose(*numbers, rtol=1e-5, atol=1e-9)
