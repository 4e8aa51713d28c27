"""Authorities and replicas' certificates made on the spot, and the files that a configuration names."""

import datetime
import pathlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from drafthouse.config.security import DataPlaneConfig
from drafthouse.wire.tls_identity import PEER_NAME

TOKEN = "token-of-twenty-characters-and-more"
DAY = datetime.timedelta(days=1)


@dataclass
class Leaf:
    certificate: bytes
    key: bytes
    authority: bytes

    def write(self, folder: pathlib.Path, token: str = TOKEN) -> DataPlaneConfig:
        """Files in `folder`, laid out as the Kubernetes secret is."""
        folder.mkdir(exist_ok=True)
        named = {"tls.crt": self.certificate, "tls.key": self.key, "ca.crt": self.authority, "token": token.encode() + b"\n"}
        for name, content in named.items():
            (folder / name).write_bytes(content)
        certificate, key, authority, token_file = (folder / name for name in named)
        return DataPlaneConfig(certificate=certificate, key=key, authority=authority, token_file=token_file)


class Authority:
    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = self._signed(self._name, self._key, 365 * DAY, constraints).public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str = PEER_NAME, lifetime: datetime.timedelta = 30 * DAY) -> Leaf:
        """A negative lifetime gives a certificate that has run out."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "replica")])
        certificate = self._signed(subject, key, lifetime, x509.SubjectAlternativeName([x509.DNSName(name)]))
        plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return Leaf(
            certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(serialization.Encoding.PEM, *plain), self.certificate
        )

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: datetime.timedelta, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - 60 * DAY).not_valid_after(now + lifetime)
        return builder.add_extension(extension, critical=False).sign(self._key, hashes.SHA256())
