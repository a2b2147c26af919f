"""What a test needs of the machine that pip does not bring."""

import os
from typing import NoReturn

import pytest


def lacking(what: str, mend: str) -> NoReturn:
    """Skip a test with one line; in CI, which installs these things, fail it."""
    if os.environ.get("SWITCHYARD_CI"):
        pytest.fail(f"{what} is missing: {mend}")
    pytest.skip(f"{what} is missing: {mend}")
