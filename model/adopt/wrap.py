"""Pre- and postprocessing go into the graph: the published network becomes one of our format."""

from onnx import ModelProto, TensorProto, compose, helper

from model.adopt.arrays import Recording, Symbol
from model.adopt.family import Decode, Preprocessing
from model.adopt.network import Published
from model.artefact import DetectorMetadata, PoseMetadata

_NETWORK, _OURS = "network/", "adopted/"
#: Names and ranks of the outputs of our format, by their number.
_DETECTOR = {"boxes": 3, "scores": 2}
_POSE: dict[int, dict[str, int]] = {1: {"heatmaps": 4}, 2: {"x": 3, "y": 3}}


def wrap(
    published: Published,
    preprocessing: Preprocessing,
    decode: Decode,
    metadata: PoseMetadata | DetectorMetadata,
) -> ModelProto:
    """The published network between its preprocessing and its decoding, with our metadata."""
    model = compose.add_prefix(published.model, _NETWORK)
    graph = model.graph
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    n = batch.dim_param or batch.dim_value
    recording = Recording(_OURS)
    planes = preprocessing(Symbol(recording, "image"))
    planes.apply("Identity", output=f"{_NETWORK}{published.input}")
    before = len(recording.nodes)
    decoded = decode([Symbol(recording, f"{_NETWORK}{name}") for name in published.outputs])
    names = _DETECTOR if isinstance(metadata, DetectorMetadata) else _POSE[len(decoded)]
    for array, name in zip(decoded, names, strict=True):
        array.apply("Identity", output=name)
    nodes = [*recording.nodes[:before], *graph.node, *recording.nodes[before:]]
    wrapped = helper.make_graph(
        nodes,
        metadata.name,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [n, *published.size, 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [n, *[None] * (rank - 1)])
            for name, rank in names.items()
        ],
        [*graph.initializer, *recording.constants],
        sparse_initializer=graph.sparse_initializer,
    )
    adopted = helper.make_model(
        wrapped,
        functions=model.functions,
        ir_version=max(model.ir_version, 7),
        opset_imports=model.opset_import,
    )
    helper.set_model_props(adopted, metadata.entries())
    return adopted
