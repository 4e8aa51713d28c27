"""Lines keep their level and their fields, on standard error and in Serve's logger."""

import io
import json
import logging

import pytest

from drafthouse.telemetry.log_lines import SERVE_LOGGER, log_event, set_up_logs


class _Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def logs():
    """(root of loggers, its stream, what Serve's logger got)."""
    root, stream, kept = logging.getLogger("a-replica"), io.StringIO(), _Kept()
    serve = logging.getLogger(SERVE_LOGGER)
    level = serve.level
    serve.addHandler(kept)
    serve.setLevel(logging.INFO)
    root.propagate = False
    set_up_logs(stream, root)
    yield root, stream, kept
    serve.removeHandler(kept)
    serve.setLevel(level)
    root.handlers.clear()


def _lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_error_of_any_module_is_an_error_in_both_places(logs):
    root, stream, kept = logs
    try:
        raise ValueError("two\nlines")
    except ValueError:
        root.getChild("verifier.step_loop").exception("a step failed")
    (line,) = _lines(stream)
    assert (line["levelname"], line["message"]) == ("ERROR", "a step failed")
    assert "ValueError: two\nlines" in line["exc_text"]
    assert [(record.levelname, record.getMessage()) for record in kept.records] == [("ERROR", "a step failed")]


def test_information_is_logged_of_our_packages_and_not_of_libraries(logs):
    root, stream, kept = logs
    for name in ("drafter.server", "grpc", "httpx"):
        root.getChild(name).info("%s says", name)
    assert [line["message"] for line in _lines(stream)] == ["drafter.server says"] == [record.getMessage() for record in kept.records]


def test_an_event_has_its_fields_and_leaves_out_what_is_not_known(logs):
    root, stream, kept = logs
    log_event(root.getChild("controller"), logging.WARNING, "lost", "100 % of it is lost", peer="v1", key=None)
    (line,) = _lines(stream)
    assert line["fields"] == {"event": "lost", "peer": "v1"} == kept.records[0].fields
    assert (line["message"], line["filename"]) == ("100 % of it is lost", "test_log_lines.py")


def test_the_id_that_serve_knows_is_in_the_line(logs):
    root, stream, _ = logs
    named = logging.Filter()
    named.filter = lambda record: setattr(record, "request_id", "from the client") or True
    logging.getLogger(SERVE_LOGGER).handlers[-1].addFilter(named)
    root.getChild("deployments").info("hello")
    assert _lines(stream)[0]["request_id"] == "from the client"


def test_a_second_call_changes_nothing(logs):
    root, stream, _ = logs
    set_up_logs(stream, root)
    root.getChild("drafthouse").info("once")
    assert len(_lines(stream)) == 1


def test_every_deployment_logs_json_without_a_line_for_each_heartbeat():
    from ray.serve.schema import LoggingConfig

    from deployments.app import build_app
    from drafthouse.config.serving import ServingConfig
    from drafthouse.telemetry.log_lines import SERVE_LOGGING

    def deployments(app):
        bound = app._bound_deployment
        found = {bound.name: bound}
        for argument in bound.init_args:
            if hasattr(argument, "_bound_deployment"):
                found |= deployments(argument)
        return found

    assert LoggingConfig(**SERVE_LOGGING).enable_access_log is False
    found = deployments(build_app(ServingConfig()))
    assert set(found) == {"Gateway", "ControllerReplica", "VerifierReplica", "DrafterReplica"}
    for deployment in found.values():
        assert {name: deployment.logging_config[name] for name in SERVE_LOGGING} == SERVE_LOGGING
