"""The explicit flag without which nothing starts that draws acceptance instead of comparing it.

Promises: a config alone never does it; whoever deploys says so in the environment, for which
`drafthouse serve --allow-synthetic-acceptance` stands.
"""

from collections.abc import Mapping

from drafthouse.config import ServingConfig
from drafthouse.errors import ConfigError

ALLOW_SYNTHETIC = "DRAFTHOUSE_ALLOW_SYNTHETIC_ACCEPTANCE"


def check_synthetic(config: ServingConfig, environment: Mapping[str, str]) -> None:
    """Raises ConfigError where the config asks for synthetic acceptance and the environment does not allow it."""
    if config.verifier.synthetic_acceptance is not None and environment.get(ALLOW_SYNTHETIC) != "1":
        raise ConfigError(
            "verifier.synthetic_acceptance: texts would not be the target's; this is for tests of policy only, and starts only with "
            f"`drafthouse serve --allow-synthetic-acceptance`, or with {ALLOW_SYNTHETIC}=1 in the environment of `serve deploy`"
        )
