"""A loaded model of the tests' own size."""

import pytest
import torch
from helpers import MODEL

from safeeraser import model as models


@pytest.fixture(scope="session")
def vlm():
    loaded = models.VLM.load(str(MODEL), torch.float32)
    loaded.model.eval()
    return loaded
