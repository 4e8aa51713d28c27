"""What all tests share: one torch thread, since their models are tiny, and no deadlines, since machines are noisy."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("drafthouse", deadline=None)
settings.load_profile("drafthouse")
