"""Section `security` of the configuration: who may call the API, and who may join the data plane.

Promises: what stands here is no secret. Secrets are in the files named, and a key put here by mistake is
refused without being repeated.
"""

import pathlib
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

HASH_PATTERN = r"^sha256:[0-9a-f]{64}$"


def _absolute(path: pathlib.Path) -> pathlib.Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path: replicas run in folders of their own")
    return path


SecretFile = Annotated[pathlib.Path, AfterValidator(_absolute)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ApiKeysConfig(_Section):
    file: SecretFile | None = Field(None, description="one hash a line; read again when it changes")
    hashes: tuple[Annotated[str, StringConstraints(pattern=HASH_PATTERN)], ...] = Field((), description="what `drafthouse hash-key` prints")
    operators: tuple[Annotated[str, StringConstraints(pattern=HASH_PATTERN)], ...] = Field(
        (), description="those of them that see pids and addresses in /v1/cluster"
    )

    @model_validator(mode="after")
    def _one_source(self) -> "ApiKeysConfig":
        if (self.file is None) == (not self.hashes):
            raise ValueError("either file or hashes must be given, and not both")
        return self


class DataPlaneConfig(_Section):
    """Mutual TLS and a token between gateways, verifiers and drafters. All PEM; read again when they change."""

    certificate: SecretFile = Field(description="the replica's chain, with the DNS name drafthouse-data-plane")
    key: SecretFile = Field(description="its private key")
    authority: SecretFile = Field(description="whose certificates are accepted; one or several")
    token_file: SecretFile = Field(description="one token a line: the first is sent, all are accepted")


class SecurityConfig(_Section):
    api_keys: ApiKeysConfig | None = Field(None, description="without it the API is open")
    data_plane: DataPlaneConfig | None = Field(None, description="without it the data plane is plaintext, open to whoever reaches it")
    open_data_plane: bool = Field(False, description="serve with API keys although whoever reaches a verifier's port needs none")

    @model_validator(mode="after")
    def _keys_are_not_bypassed(self) -> "SecurityConfig":
        if self.api_keys is not None and self.data_plane is None and not self.open_data_plane:
            raise ValueError(
                "api_keys without data_plane: whoever reaches a verifier's port needs no key. Give security.data_plane, or set "
                "security.open_data_plane: true where a network policy or a firewall keeps others away from it"
            )
        if self.data_plane is not None and self.open_data_plane:
            raise ValueError("open_data_plane: true and data_plane exclude each other: take one out")
        return self
