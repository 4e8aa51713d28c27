"""What all tests share: one torch thread, since tests run beside each other and their models are tiny."""

import torch

torch.set_num_threads(1)
