"""The messages of TensorBoard's event files, built from our own schema.

The ``.proto`` sources beside this file carry TensorBoard's field numbers under the package name ``torchboard``, so that
torchboard, tensorboard, tensorboardX and TensorFlow can live in one process: the name is not on the wire, and the
messages sit in a descriptor pool of their own. They are compiled to one descriptor set, ``torchboard.binpb``, by

    python -m grpc_tools.protoc -I. --include_imports \\
        --descriptor_set_out=torchboard/proto/torchboard.binpb torchboard/proto/*.proto

which a test repeats and compares.
"""

from __future__ import annotations

import pkgutil

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

DESCRIPTOR_SET = "torchboard.binpb"


def _load() -> dict[str, type]:
    """Every top-level message of the descriptor set, by its short name."""
    data = pkgutil.get_data(__name__, DESCRIPTOR_SET)
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(data).file
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(descriptor)
        for file in files
        for name, descriptor in pool.FindFileByName(file.name).message_types_by_name.items()
    }


_messages = _load()

AttrValue = _messages["AttrValue"]
AudioPluginData = _messages["AudioPluginData"]
Event = _messages["Event"]
GraphDef = _messages["GraphDef"]
HParamsPluginData = _messages["HParamsPluginData"]
HistogramProto = _messages["HistogramProto"]
Layout = _messages["Layout"]
MeshPluginData = _messages["MeshPluginData"]
NodeDef = _messages["NodeDef"]
PrCurvePluginData = _messages["PrCurvePluginData"]
ProjectorConfig = _messages["ProjectorConfig"]
RunMetadata = _messages["RunMetadata"]
SessionLog = _messages["SessionLog"]
Summary = _messages["Summary"]
SummaryMetadata = _messages["SummaryMetadata"]
TensorProto = _messages["TensorProto"]
TensorShapeProto = _messages["TensorShapeProto"]
XSpace = _messages["XSpace"]

DataClass = SummaryMetadata.DESCRIPTOR.fields_by_name["data_class"].enum_type.values_by_name
"""Number of a data class by its name: ``DataClass["DATA_CLASS_SCALAR"].number``."""

DataType = TensorProto.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_name
"""Number of an element type by its name: ``DataType["DT_FLOAT"].number``."""
