"""Server reflection under both of its names: clients try v1 first, and the package has v1alpha alone.

The messages of the two are the same but for their package, so one servicer answers both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from inference_server.api.grpc.handlers import Services

_V1ALPHA: Final = reflection_pb2.DESCRIPTOR.package
_V1: Final = "grpc.reflection.v1"
_SERVICE: Final = "ServerReflection"
SERVICE_NAMES: Final = (f"{_V1}.{_SERVICE}", f"{_V1ALPHA}.{_SERVICE}")


def add_reflection(service_names: Iterable[str], services: Services) -> None:
    """Adds reflection of these services and of itself."""
    _describe_v1()
    servicer = reflection.aio.ReflectionServicer((*service_names, *SERVICE_NAMES))
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, services)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    services.add_registered_method_handlers(SERVICE_NAMES[0], {"ServerReflectionInfo": handler})


def _describe_v1() -> None:
    """Adds the description of v1 to the pool that reflection reads, so that it can be described as well."""
    described = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(described)
    described.name, described.package = "grpc/reflection/v1/reflection.proto", _V1
    for message in described.message_type:
        for field in (field for field in message.field if field.type_name):
            field.type_name = field.type_name.replace(_V1ALPHA, _V1)
    for method in described.service[0].method:
        method.input_type = method.input_type.replace(_V1ALPHA, _V1)
        method.output_type = method.output_type.replace(_V1ALPHA, _V1)
    descriptor_pool.Default().AddSerializedFile(described.SerializeToString())
