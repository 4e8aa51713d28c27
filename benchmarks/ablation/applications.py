"""Several Drafthouse applications on one Ray cluster, a pair of pools each: `python -m benchmarks.ablation.applications FILE`.

FILE is YAML: a serving config by application name. Each application has its own controller, gateway, verifier and drafters and
answers below `/<name>`; all share Ray, Serve's controller and its proxy. An application without requests costs its heartbeats.

Promises: as `drafthouse serve`: what was started is gone at SIGTERM, an error is one message with exit status 1. What drafters
learn of acceptance and latencies are kept beside FILE, not in the user's cache; what is only costly to make comes out of that.
"""

import os
import pathlib
import signal
import sys
import time
from types import FrameType
from typing import Any

import yaml

from deployments.cli.local_cluster import DeployError, LocalCluster, root_cause
from drafthouse.config.cache_files import cache_folder
from drafthouse.config.serving import ServingConfig
from drafthouse.errors import DrafthouseError

DEPLOY_TIMEOUT_S = 420.0
POLL_S = 0.5

SHARED_CACHES = ("gguf", "native", "digests")
"""Nothing is learned in them."""


def deploy(configs: dict[str, ServingConfig]) -> None:
    """Returns when all run. Raises DeployError with the cause, ConfigError or ModelError from the checks before."""
    from ray import serve  # only after the cluster's start, which sets what Ray reads when it is imported

    from deployments.app import build_app

    targets = [serve.RunTarget(build_app(config), name=name, route_prefix=f"/{name}") for name, config in configs.items()]
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    deadline = time.monotonic() + DEPLOY_TIMEOUT_S
    while time.monotonic() < deadline:
        applications = serve.status().applications
        for name, application in applications.items():
            if application.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                causes = [root_cause(d.message) for d in application.deployments.values() if "Error" in d.message]
                raise DeployError(f"{name}: " + "; ".join(causes or [root_cause(application.message)]))
        if len(applications) == len(configs) and all(a.status == "RUNNING" for a in applications.values()):
            return
        time.sleep(POLL_S)
    raise DeployError(f"the applications do not run after {DEPLOY_TIMEOUT_S:.0f} s")


def use_cache(folder: pathlib.Path) -> None:
    """In place of the user's cache, but for `SHARED_CACHES`."""
    folder.mkdir()
    for name in SHARED_CACHES:
        shared = cache_folder(name).absolute()
        shared.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(shared, target_is_directory=True)
    os.environ["DRAFTHOUSE_CACHE"] = str(folder)


def main() -> None:
    file = pathlib.Path(sys.argv[1])
    configs = {name: ServingConfig.model_validate(data) for name, data in yaml.safe_load(file.read_text(encoding="utf-8")).items()}
    use_cache(file.parent / "cache")
    cluster = LocalCluster(next(iter(configs.values())))
    try:
        cluster.start()
        on_stop(_interrupt)  # after Ray's start, which sets handlers of its own
        deploy(configs)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        pass
    except DrafthouseError as error:
        print(f"error: {error}", flush=True)
        sys.exit(1)
    finally:
        on_stop(signal.SIG_IGN)  # a second signal must not cut the shutdown short
        cluster.close()


def on_stop(handler: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
