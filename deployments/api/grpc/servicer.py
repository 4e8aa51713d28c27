"""How Serve's gRPC servers take requests for the gateway: as bytes, so that the gateway itself says what is wrong with them.

The generated servicer parses a request before anything of ours runs, and what it cannot parse ends as UNKNOWN with the name of a Python
class and two stack traces in the log. Proxies and Serve's controller import this module: it knows nothing of gateways.

`grpc.health.v1` has Check alone. A Watch would hold one of Serve's places for as long as a client likes, without a key; clients take
UNIMPLEMENTED for a server that is not to be watched.
"""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_health.v1 import health_pb2

from protos import inference_pb2


def add_inference_to_server(servicer: Any, server: Any) -> None:
    """For `grpc_servicer_functions` of Serve's configuration; Serve puts its own handlers in the place of the servicer's."""
    inference = inference_pb2.DESCRIPTOR.services_by_name["Inference"]
    health = health_pb2.DESCRIPTOR.services_by_name["Health"]
    _add(inference, inference.methods, servicer, server)
    _add(health, [health.methods_by_name["Check"]], servicer, server)


def _add(service: ServiceDescriptor, methods: Iterable[MethodDescriptor], servicer: Any, server: Any) -> None:
    handlers = {
        method.name: (grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler)(
            getattr(servicer, method.name)
        )
        for method in methods
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
