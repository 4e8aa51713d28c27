"""Errors of independent checks are told together."""

import pytest

from drafthouse.errors import ConfigError, Faults, ModelError, RequestError


def test_one_error_stays_what_it_is_and_several_are_a_line_each() -> None:
    faults = Faults()
    faults.end()
    with faults.gather("target.path: "):
        raise ModelError("no weights\nno tokenizer")
    with pytest.raises(ModelError, match="^target.path: no weights\ntarget.path: no tokenizer$"):
        faults.end()
    with faults.gather():
        raise ConfigError("server.http_port: taken")
    with pytest.raises(ConfigError, match="^target.path: no weights\ntarget.path: no tokenizer\nserver.http_port: taken$"):
        faults.end()


def test_other_errors_pass_through() -> None:
    with pytest.raises(RequestError), Faults().gather():
        raise RequestError("not a fault of a file")
