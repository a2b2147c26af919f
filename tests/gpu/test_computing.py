"""Right tokens in any company, and failures that stay alone: both engines on a GPU, in float16."""

import pytest
import torch

from tests.workers.engine.computing import *  # noqa: F403  # the tests are run here

if not torch.cuda.is_available():
    pytest.skip("no GPU here", allow_module_level=True)
