"""Damaged files of every kind: a few of those that benchmarks/damaged_files.py reads by the thousand."""

import os
from unittest.mock import patch

import pytest
from damaged_files import GOOD, Kind, all_kinds, outcome, wholes
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with patch.dict(os.environ, LAB_HOME=str(tmp_path_factory.mktemp("home")), no_proxy="*"):
        yield os.environ["LAB_HOME"]


@pytest.fixture(scope="module")
def kinds(home, tmp_path_factory) -> list[tuple[str, Kind, list[str]]]:
    found = all_kinds(tmp_path_factory.mktemp("damaged") / "files")
    return [(name, kind, wholes(kind)) for name, kind in found.items()]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 999), st.integers(0, 2**32))
def test_whatever_is_in_a_file_is_read_or_the_error_names_it(home, kinds, number, seed):
    name, kind, whole = kinds[number % len(kinds)]
    with patch.dict(os.environ, LAB_HOME=home):
        found, said = outcome(kind, seed, whole)
    assert found in GOOD, (name, said)
