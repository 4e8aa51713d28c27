"""What an error is to a gRPC client: a status code, a sentence, and details that a program can read (google.rpc.Status).

Promises: the same classes, codes and words as over HTTP (`deployments.api.openai.errors`). Code, sentence and details fit into the
metadata that clients take.
"""

import math
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any as AnyDetail
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status as RichStatus
from ray.serve.grpc_util import RayServegRPCContext

from deployments.api.openai.errors import describe_error
from drafthouse.errors import DrafthouseError, LimitError, OverloadError
from drafthouse.wire.settings import retry_metadata

CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED, 403: grpc.StatusCode.PERMISSION_DENIED, 404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED, 429: grpc.StatusCode.RESOURCE_EXHAUSTED, 500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}  # fmt: skip
"""By HTTP status; another one is the request's own fault."""

DOMAIN = "drafthouse"
DETAILS_METADATA = "grpc-status-details-bin"

MAX_MESSAGE_BYTES = 1000
"""gRPC clients take 8 KiB of metadata, in which a byte may take three; the details repeat the sentence, in base64."""

MAX_FIELD_BYTES = 200


class NotReadError(DrafthouseError):
    """The client has taken nothing for too long."""


@dataclass(frozen=True, slots=True)
class Status:
    """`reason`: the code of HTTP's error, in capitals. `field`: the path of the field at fault, empty where no field is. `resource`: whose
    limit the client has reached, empty where it has reached none."""

    code: grpc.StatusCode
    message: str
    reason: str
    field: str = ""
    resource: str = ""
    retry_after_s: float | None = None

    def put(self, context: RayServegRPCContext) -> None:
        rich = self.rich()
        context.set_code(self.code)
        context.set_details(rich.message)
        again = [] if self.retry_after_s is None else retry_metadata(self.retry_after_s)
        context.set_trailing_metadata([*context.trailing_metadata(), *again, (DETAILS_METADATA, rich.SerializeToString())])

    def rich(self) -> RichStatus:
        message = _cut(self.message, MAX_MESSAGE_BYTES)
        about = {"resource": self.resource} if self.resource else {}
        details: list[Message] = [ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=about)]
        if self.field:
            field = _cut(self.field, MAX_FIELD_BYTES)
            details.append(BadRequest(field_violations=[BadRequest.FieldViolation(field=field, description=message, reason=self.reason)]))
        if self.retry_after_s is not None:
            fraction, seconds = math.modf(self.retry_after_s)
            details.append(RetryInfo(retry_delay=Duration(seconds=int(seconds), nanos=int(fraction * 1e9))))
        number: int = self.code.value[0]
        return RichStatus(code=number, message=message, details=[_any(detail) for detail in details])


def status_of(error: Exception) -> Status:
    """What is unforeseen says nothing of its inside to the client, and is logged."""
    if isinstance(error, NotReadError):
        return Status(grpc.StatusCode.DEADLINE_EXCEEDED, str(error), "NOT_READ")
    http_status, body = describe_error(error)
    fault = body["error"]
    code = CODES.get(http_status, grpc.StatusCode.INVALID_ARGUMENT)
    message, reason = fault["message"], fault["code"].upper()
    if not isinstance(error, OverloadError):
        return Status(code, message, reason, fault["param"] or "")
    resource = error.resource if isinstance(error, LimitError) else ""
    return Status(code, f"{message}; try again in {error.retry_after_s:.2f} s", reason, "", resource, error.retry_after_s)


def _any(detail: Message) -> AnyDetail:
    packed = AnyDetail()
    packed.Pack(detail)
    return packed


def _cut(text: str, most_bytes: int) -> str:
    return text.encode()[:most_bytes].decode(errors="ignore")
