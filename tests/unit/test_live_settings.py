"""Settings that change while the application runs: what may, what is refused, and that wrong ones change nothing."""

import json
import logging
import pathlib
from typing import Any

import pytest
import yaml

from deployments.app import build_app, first_size
from drafthouse.config.config_file import load_config
from drafthouse.config.live import LIVE, LiveSettings, names, over
from drafthouse.config.serving import ServingConfig
from drafthouse.errors import ConfigError

ARGS = ServingConfig.model_validate({"gateway": {"limits": {"streams": 3, "proxy_hops": 1}}, "tree": {"max_nodes": 64}})
KEY = "sha256:" + "0" * 64


def test_what_is_said_replaces_a_key_of_args_whole_and_leaves_the_others() -> None:
    config = over(ARGS, {"gateway": {"limits": {"requests_per_minute": 9}, "keep_alive_s": 4}})
    assert config.gateway.limits.requests_per_minute == 9
    assert (config.gateway.limits.streams, config.gateway.limits.proxy_hops) == (None, 0)
    assert (config.gateway.keep_alive_s, config.gateway.patience_s, config.tree) == (4, ARGS.gateway.patience_s, ARGS.tree)


def test_nothing_said_is_args() -> None:
    for args in (ARGS, ServingConfig.model_validate({"draft": None})):
        assert over(args, {}) == args


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"gateway": {"limits": {"streams": 0}}}, "gateway.limits.streams: must be greater than or equal to 1"),
        ({"gateway": {"limit": {}}}, "gateway.limit: no such key; while running these can change: gateway.body_timeout_s"),
        ({"gateway": {"limits": {"stream": 1}}}, "gateway.limits.stream: no such key; did you mean streams"),
        ({"verifier": {"replicas": 2}}, "verifier.replicas: cannot change while running; write it under args"),
        ({"target": {"path": "x"}}, "target.path: cannot change while running"),
        ({"tree": {"max_nodes": "many"}, "verifier": {"max_queue": -1}}, "verifier.max_queue: must be greater than or equal to 0"),
        ({"gateways": {"x": 1}}, "gateways.x: no such key; while running these can change: gateway.body_timeout_s"),
        ({"verifier": {"batch_table": [[4, 1], [2, 1]]}}, "verifier: batch_table: numbers of sequences must rise"),
        ({"gateway": 3}, "user_config: must be sections of keys"),
        ([], "user_config: must be sections of keys"),
        ({"security": {"api_keys": {"hashes": [KEY]}}}, "security: api_keys without data_plane"),
        ({"autoscaling": {"verifier": {"min": 3, "max": 2}}}, "autoscaling.verifier: min 3 is more than max 2"),
    ],
)
def test_a_fault_names_the_key(said: Any, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        over(ARGS, said)
    assert any(found.startswith(line) for found in str(caught.value).splitlines()), str(caught.value)


def test_bounds_of_a_pool_need_not_hold_the_size_that_it_began_with() -> None:
    assert over(ARGS, {"autoscaling": {"verifier": {"min": 2, "max": 4}}}).autoscaling.verifier is not None
    without = ServingConfig.model_validate({"drafter": {"replicas": 0}})
    with pytest.raises(ConfigError, match="drafter.replicas: 0 at the start"):
        over(without, {"autoscaling": {"drafter": {"max": 4}}})


def test_every_live_key_is_a_key_of_the_configuration() -> None:
    for section, keys in LIVE.items():
        assert keys <= set(type(getattr(ARGS, section)).model_fields), section


class _Applied:
    def __init__(self) -> None:
        self.configs: list[ServingConfig] = []

    def __call__(self, config: ServingConfig) -> None:
        if config.tree.max_depth == 13:
            raise ConfigError("security.api_keys.file: cannot be read here")
        self.configs.append(config)


def test_wrong_settings_leave_the_last_ones_and_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    applied = _Applied()
    settings = LiveSettings(ARGS, applied)
    settings.follow('{"tree": {"max_nodes": 7}}')
    digest = settings.digest
    for wrong in ('{"tree": {"max_nodes": 0}}', '{"tree": {"max_depth": 13}}', '{"later": {"key": 1}}'):
        with caplog.at_level(logging.ERROR):
            settings.follow(wrong)
            settings.follow(wrong)
        assert (settings.config.tree.max_nodes, settings.digest) == (7, digest)
        assert settings.fault
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 3
    settings.follow("")
    assert (settings.config, settings.digest, settings.fault) == (ARGS, "", "")
    assert [config.tree.max_nodes for config in applied.configs] == [7, 64]


def test_what_could_not_be_done_is_tried_again_since_a_file_may_come_later() -> None:
    missing, applied = ["the file"], list[int]()

    def apply(config: ServingConfig) -> None:
        if missing:
            raise ConfigError("no such file")
        applied.append(config.verifier.max_queue)

    settings = LiveSettings(ServingConfig(), apply)
    said = json.dumps({"verifier": {"max_queue": 7}})
    settings.follow(said)
    assert (settings.fault, applied) == ("no such file", [])
    missing.clear()
    settings.follow(said)
    settings.follow(said)
    assert (settings.fault, applied) == ("", [7])


def test_settings_that_stay_are_applied_once() -> None:
    applied = _Applied()
    settings = LiveSettings(ARGS, applied)
    for _ in range(3):
        settings.follow('{"tree": {"max_nodes": 7}}')
    assert len(applied.configs) == 1


def test_keys_are_shown_without_values() -> None:
    settings = LiveSettings(ARGS.model_copy(update={"security": ARGS.security.model_copy(update={"open_data_plane": True})}), _Applied())
    settings.reconfigure({"security": {"api_keys": {"hashes": [KEY]}}, "tree": {"width": 2, "max_nodes": 9}})
    assert names(settings.said) == ["security.api_keys", "tree.max_nodes", "tree.width"]
    assert KEY not in settings.digest


def test_a_file_of_serve_may_say_them_beside_args(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "config.yaml"

    def written(settings: object) -> pathlib.Path:
        entries = [{"name": "Gateway", "num_replicas": 2}, {"name": "ControllerReplica", "user_config": settings}]
        file.write_text(yaml.safe_dump({"applications": [{"args": {"tree": {"width": 3}}, "deployments": entries}]}))
        return file

    config = load_config(written({"tree": {"max_nodes": 5}}))
    assert (config.tree.max_nodes, config.tree.width) == (5, 3)
    with pytest.raises(ConfigError, match=r"config.yaml: user_config of ControllerReplica: tree.max_nodes: must be"):
        load_config(written({"tree": {"max_nodes": 0}}))


def test_only_the_controller_has_a_user_config_so_that_no_pool_is_set_back() -> None:
    """Serve gives a deployment whose own options change its first size again."""
    found = {"Gateway": build_app(ServingConfig())._bound_deployment}
    for argument in found["Gateway"].init_args:
        if hasattr(argument, "_bound_deployment"):
            found[argument._bound_deployment.name] = argument._bound_deployment
    configs = {name: deployment._deployment_config.user_config for name, deployment in found.items()}
    assert configs == {"Gateway": None, "VerifierReplica": None, "DrafterReplica": None, "ControllerReplica": {}}


@pytest.mark.parametrize(
    ("present", "size"),
    [({}, 2), ({"verifier": (5, False)}, 5), ({"verifier": (9, False)}, 6), ({"verifier": (0, False)}, 2), ({"drafter": (5, False)}, 2)],
)
def test_a_scaled_pool_starts_again_with_the_size_that_it_has(present: dict[str, tuple[int, bool]], size: int) -> None:
    args = ServingConfig.model_validate({"verifier": {"replicas": 2}, "autoscaling": {"verifier": {"min": 2, "max": 6}}})
    assert first_size(args, "verifier", present) == size
    assert first_size(ServingConfig(), "verifier", present) == 1  # its bounds have been taken out of args


def test_a_pool_whose_bounds_stand_in_user_config_keeps_its_size_too() -> None:
    assert first_size(ServingConfig(), "verifier", {"verifier": (4, True)}) == 4
    assert first_size(ServingConfig(), "drafter", {"drafter": (0, True)}) == 1
