"""Certificates, keys, authorities and tokens that do not fit: each fault names the key and the file, before anybody is served."""

import datetime
import pathlib

import pytest

from drafthouse.errors import ConfigError
from drafthouse.wire.transport import load_transport
from tests.unit.certificates import Authority

OURS, FOREIGN = Authority("ours"), Authority("foreign")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda: {"key": OURS.issue().key}, "certificate and key: .*tls.crt and .*tls.key: key values mismatch"),
        (lambda: {"key": b"nothing\n"}, "certificate and key: "),
        (lambda: {"certificate": b""}, "certificate and key: "),
        (lambda: {"authority": b"nothing\n"}, "authority: .*ca.crt: no certificate or crl found"),
        (lambda: {"authority": FOREIGN.certificate}, "certificate: .*tls.crt: .*unable to get local issuer"),
        (lambda: vars(OURS.issue(name="some-host")), "certificate: .*tls.crt: .*drafthouse-data-plane.*mismatch"),
        (lambda: vars(OURS.issue(lifetime=-datetime.timedelta(days=1))), "certificate: .*tls.crt: .*expired"),
        (lambda: {"token": b"\n"}, "token_file: .*token: a key or token has 20 characters"),
        (lambda: {"token": b"short"}, "token_file: .*token: a key or token has 20 characters"),
        (lambda: {"token": b"\xff"}, "token_file: .*token: not UTF-8"),
        (lambda: {"token": None}, "token_file: .*token: No such file"),
    ],
)
def test_bad_files_are_named_at_start(tmp_path: pathlib.Path, spoil, named: str) -> None:
    files = OURS.issue().write(tmp_path)
    paths = {"certificate": files.certificate, "key": files.key, "authority": files.authority, "token": files.token_file}
    for name, content in spoil().items():
        paths[name].unlink() if content is None else paths[name].write_bytes(content)
    with pytest.raises(ConfigError, match=rf"(?s)security\.data_plane\.{named}"):
        load_transport(files)
