"""What all tests share: one torch thread, as their models are tiny, no limits on time, as machines are noisy, and a cache of their own."""

import os
import tempfile

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile("drafthouse", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("drafthouse")

_cache = tempfile.TemporaryDirectory(prefix="drafthouse-cache-")
os.environ["DRAFTHOUSE_CACHE"] = _cache.name
"""The user's cache is neither read nor written; the processes of test clusters share this one."""
