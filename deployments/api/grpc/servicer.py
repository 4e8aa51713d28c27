"""How Serve's gRPC servers take requests for the gateway: as bytes, so that the gateway itself says what is wrong with them.

The generated servicer parses a request before anything of ours runs, and what it cannot parse ends as UNKNOWN with the name of a Python
class and two stack traces in the log. Proxies and Serve's controller import this module: it knows nothing of gateways.
"""

from typing import Any

import grpc

from protos import inference_pb2


def add_inference_to_server(servicer: Any, server: Any) -> None:
    """For `grpc_servicer_functions` of Serve's configuration; Serve puts its own handlers in the place of the servicer's."""
    service = inference_pb2.DESCRIPTOR.services_by_name["Inference"]
    handlers = {
        method.name: (grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler)(
            getattr(servicer, method.name)
        )
        for method in service.methods
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
