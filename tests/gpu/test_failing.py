"""Both engines on a GPU whose device errs."""

import pytest
import torch

from tests.workers.engine.failing import *  # noqa: F403  # the tests are run here

if not torch.cuda.is_available():
    pytest.skip("no GPU here", allow_module_level=True)
