"""A small but real bundle: ONNX towers, FAISS IVF index, item table, golden queries, held-out users.

The user tower is the L2-normalised mean of the history's item vectors, so a test knows the right answer: a user who
read an item is nearest to that item's neighbours.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tandem.contract import names
from tandem.contract.bundle import Bundle, write_bundle
from tandem.contract.bundle_contents import BundleParts, Content, GoldenQueries
from tandem.contract.features import FeatureSchema, UserFeature, encode_users
from tandem.contract.held_out_users import HeldOutUser
from tandem.contract.item_item import ItemItem
from tandem.contract.items import Item, ItemTable
from tandem.contract.manifest import (
    BlendSpec,
    Calibration,
    IndexSpec,
    ItemItemSpec,
    Manifest,
    TensorSpec,
    TowerSpec,
    TrainingData,
)
from tandem.contract.store import UserState
from tandem.contract.vocabulary import Vocabulary, id_keys
from tandem.ops.onnx_session import OnnxSession

HISTORY_LENGTH = 8
CATEGORIES = ("drama", "comedy", "western", "noir")
"""Item i has the category i % 4; every tenth item also has "rare"."""
RARE = "rare"
CONTENT_DIM = 8
_CONTENT_NEIGHBOURS = 10
_ITEM_ITEM_NEIGHBOURS = 12
_GOLDEN_K = 10
_TOP_ITEMS = 20
_LARGE = 100_000
_OUT = names.RANKER_SCORE
_LAYER_DIM = 1_024


@dataclass(frozen=True, kw_only=True)
class TinySpec:
    """Parameters of a tiny bundle."""

    model_version: str = "tiny-1"
    num_items: int = 200
    dim: int = 16
    seed: int = 0
    item_prefix: str = "item"
    """Item i has the id "<item_prefix>-<i>"."""
    item_vectors: npt.NDArray[np.float32] | None = None
    """(num_items, dim) float32, normalised to length 1; None: random vectors."""
    num_lists: int = 8
    nprobe: int = 3
    quantiser: str = "Flat"
    """How the index stores vectors: "Flat" or "SQ8"."""
    user_features: tuple[UserFeature, ...] = ()
    user_ids: tuple[str, ...] = ()
    """Users whose ids the user tower reads: it adds a vector of the user to the history's sum. Empty: no ids."""
    nan_users: bool = False
    """Whether the tower makes NaN for the users of `user_ids`; golden queries are of others."""
    content_weight: float | None = None
    """Weight of content in the blend; None: no content. Content vectors are random, of CONTENT_DIM dimensions."""
    item_item_weight: float = 0.0
    """Weight of the item-item source in the blend; 0: no such source. Its neighbours and their weights are random."""
    item_item_decay_events: float = 3.0
    sequential_weight: float = 0.0
    """Weight of the sequential source in the blend, with the same decay; 0: no such source. Its weights are random."""
    whole_history: bool = False
    """Whether both sources read whole histories."""
    by_score: bool = False
    """Whether both sources propose the items with their highest scores."""
    history_length: int = HISTORY_LENGTH
    """Number of newest events that the user tower reads."""
    tower_layers: int = 0
    """Layers of 1,024 x 1,024 that only slow the user tower down, by some tenths of a millisecond each."""
    attributes: Callable[[int], dict[str, str]] = lambda row: {}  # noqa: ARG005
    """Attributes of item i."""
    unavailable: tuple[int, ...] = ()
    """Rows of items that must not be recommended."""
    catalogue_sequence: int = 0
    """Sequence number of the last catalogue change that the bundle has merged."""
    ranker: Callable[[], onnx.ModelProto] | None = None
    """Makes the bundle's ONNX ranker; None: no ranker."""
    metrics: dict[str, float] = field(default_factory=lambda: {"test/ndcg@10": 0.5})

    def item_id(self, row: int) -> str:
        return f"{self.item_prefix}-{row}"


def build_tiny_bundle(directory: Path, spec: TinySpec | None = None) -> Bundle:
    """Builds a bundle in the new folder `directory`."""
    spec = spec or TinySpec()
    rng = np.random.default_rng(spec.seed)
    vectors = spec.item_vectors
    if vectors is None:
        vectors = rng.standard_normal((spec.num_items, spec.dim), dtype=np.float32)
    vectors = np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)
    item_ids = [spec.item_id(row) for row in range(spec.num_items)]
    vocabulary = Vocabulary.from_ids(item_ids)
    popularity = rng.permutation(spec.num_items) + 1
    items = ItemTable.from_items(
        Item(
            item_id=item_ids[row],
            title=f"Title {item_ids[row]}",
            categories=_categories(row),
            attributes=spec.attributes(row),
            popularity=int(popularity[row]),
            available=row not in spec.unavailable,
        )
        for row in range(spec.num_items)
    )
    schema = FeatureSchema(
        history_length=spec.history_length,
        user_features=spec.user_features,
        item_categories=(*CATEGORIES, RARE),
        max_item_categories=2,
        user_ids=bool(spec.user_ids),
    )
    states = [_random_state(rng, vocabulary) for _ in range(32)]
    inputs = encode_users(states, schema=schema, item_vocabulary=vocabulary, item_vectors=vectors)
    with tempfile.TemporaryDirectory() as scratch:
        user_tower, item_tower, index_file = (Path(scratch, name) for name in ("user.onnx", "item.onnx", "index"))
        onnx.save(_user_tower(spec), str(user_tower))
        onnx.save(_item_tower(vectors), str(item_tower))
        ranker_file = None
        if spec.ranker is not None:
            ranker_file = Path(scratch, "ranker.onnx")
            onnx.save(spec.ranker(), str(ranker_file))
        index = _index(vectors, spec)
        faiss.write_index(index, str(index_file))
        queries = OnnxSession(user_tower)(inputs)
        return write_bundle(
            directory,
            _manifest(spec, schema, recall=_recall(index, vectors, queries, spec)),
            BundleParts(
                user_tower=user_tower,
                item_tower=item_tower,
                index=index_file,
                item_vectors=vectors,
                items=items,
                item_vocabulary=vocabulary,
                top_items=_top_items(popularity),
                golden_queries=GoldenQueries(inputs, _exact(vectors, queries, _GOLDEN_K)),
                held_out_users=tuple(HeldOutUser(f"held-out-{i}", states[i], item_ids[i]) for i in range(3)),
                user_vocabulary=Vocabulary.from_ids(spec.user_ids) if spec.user_ids else None,
                content=_content(rng, spec) if spec.content_weight is not None else None,
                item_item=_item_item(spec, 1) if spec.item_item_weight else None,
                sequential=_item_item(spec, 2) if spec.sequential_weight else None,
                ranker=ranker_file,
            ),
        )


def state_of(item_ids: list[str], *, revision: int = 1, features: dict[str, str] | None = None) -> UserState:
    """The state of a user who clicked the items, given oldest first."""
    keys = id_keys(item_ids)
    times = np.arange(1, len(keys) + 1, dtype=np.int64) * 1_000_000
    codes = np.full(len(keys), names.EVENT_CODES["click"], dtype=np.uint8)
    return UserState.from_events(keys, codes, times, features=features or {}, revision=revision)


def mean_vector(bundle: Bundle, item_ids: list[str]) -> npt.NDArray[np.float32]:
    """The user tower's vector for a user who clicked the items: (dim,) float32."""
    rows = bundle.item_vocabulary.rows(item_ids)[-HISTORY_LENGTH:]
    total = bundle.item_vectors[rows].sum(axis=0)
    vector: npt.NDArray[np.float32] = (total / np.linalg.norm(total)).astype(np.float32)
    return vector


def difference_ranker() -> onnx.ModelProto:
    """A ranker whose score is content minus collaborative, an order that no other part of the server produces."""
    return _pair_ranker(
        [helper.make_node("Sub", [names.RANKER_CONTENT_SCORE, names.RANKER_COLLABORATIVE_SCORE], [_OUT])]
    )


def nan_ranker() -> onnx.ModelProto:
    """A valid ranker whose scores are all NaN."""
    nodes = [
        helper.make_node("Sub", [names.RANKER_CONTENT_SCORE, names.RANKER_COLLABORATIVE_SCORE], ["difference"]),
        helper.make_node("Mul", ["difference", "nan"], [_OUT]),
    ]
    return _pair_ranker(nodes, {"nan": np.array(np.nan, np.float32)})


def vector_ranker() -> onnx.ModelProto:
    """A ranker that reads all inputs except the two scores: popularity + item index + product of the vectors."""
    flat = [
        helper.make_tensor_value_info(names.RANKER_POPULARITY, TensorProto.FLOAT, ("pairs",)),
        helper.make_tensor_value_info(names.RANKER_ITEM_INDEX, TensorProto.INT64, ("pairs",)),
    ]
    vectors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ("pairs", "dim"))
        for name in (names.RANKER_USER_VECTOR, names.RANKER_ITEM_VECTOR)
    ]
    nodes = [
        helper.make_node("Mul", [names.RANKER_USER_VECTOR, names.RANKER_ITEM_VECTOR], ["products"]),
        helper.make_node("ReduceSum", ["products", "last"], ["similarity"], keepdims=0),
        helper.make_node("Cast", [names.RANKER_ITEM_INDEX], ["index"], to=TensorProto.FLOAT),
        helper.make_node("Add", [names.RANKER_POPULARITY, "index"], ["item_score"]),
        helper.make_node("Add", ["item_score", "similarity"], [_OUT]),
    ]
    output = helper.make_tensor_value_info(_OUT, TensorProto.FLOAT, ("pairs",))
    return _model(nodes, [*flat, *vectors], output, {"last": np.array([1], np.int64)})


def strange_ranker() -> onnx.ModelProto:
    """A ranker that reads a tensor that the contract does not define."""
    inputs = [helper.make_tensor_value_info("weather", TensorProto.FLOAT, ("pairs",))]
    output = helper.make_tensor_value_info(_OUT, TensorProto.FLOAT, ("pairs",))
    return _model([helper.make_node("Identity", ["weather"], [_OUT])], inputs, output, {})


def _pair_ranker(
    nodes: list[onnx.NodeProto], constants: dict[str, npt.NDArray[np.generic]] | None = None
) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ("pairs",))
        for name in (names.RANKER_CONTENT_SCORE, names.RANKER_COLLABORATIVE_SCORE)
    ]
    output = helper.make_tensor_value_info(_OUT, TensorProto.FLOAT, ("pairs",))
    return _model(nodes, inputs, output, constants or {})


def _ranker_spec(model: onnx.ModelProto) -> TowerSpec:
    return TowerSpec(tuple(map(_tensor_spec, model.graph.input)), tuple(map(_tensor_spec, model.graph.output)))


def _tensor_spec(tensor: onnx.ValueInfoProto) -> TensorSpec:
    kind = tensor.type.tensor_type
    dtype = "float32" if kind.elem_type == TensorProto.FLOAT else "int64"
    return TensorSpec(tensor.name, dtype, tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim))


def _categories(row: int) -> tuple[str, ...]:
    own = CATEGORIES[row % len(CATEGORIES)]
    return (own, RARE) if row % 10 == 0 else (own,)


def _random_state(rng: np.random.Generator, vocabulary: Vocabulary) -> UserState:
    keys = vocabulary.keys[rng.choice(len(vocabulary), size=int(rng.integers(1, HISTORY_LENGTH + 3)), replace=False)]
    codes = np.full(len(keys), names.EVENT_CODES["click"], dtype=np.uint8)
    return UserState.from_events(keys, codes, np.arange(1, len(keys) + 1, dtype=np.int64), features={})


def _content(rng: np.random.Generator, spec: TinySpec) -> Content:
    vectors = rng.standard_normal((spec.num_items, CONTENT_DIM), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarities = vectors @ vectors.T
    np.fill_diagonal(similarities, -np.inf)
    neighbours = np.argsort(-similarities, axis=1, kind="stable")[:, :_CONTENT_NEIGHBOURS]
    return Content(vectors.astype(np.float16), neighbours.astype(np.int32))


def _item_item(spec: TinySpec, seed: int) -> ItemItem:
    rng = np.random.default_rng(spec.seed + seed)
    shape = (spec.num_items, _ITEM_ITEM_NEIGHBOURS)
    steps = rng.permuted(np.tile(np.arange(1, spec.num_items), (spec.num_items, 1)), axis=1)[:, : shape[1]]
    rows = (np.arange(spec.num_items)[:, None] + steps) % spec.num_items  # never the item itself
    return ItemItem(rows.astype(np.int32), -np.sort(-rng.random(shape), axis=1).astype(np.float16))


def _blend(spec: TinySpec) -> BlendSpec | None:
    if spec.content_weight is None and not spec.item_item_weight and not spec.sequential_weight:
        return None
    plain = Calibration(0.0, 1.0)
    flags = {"whole_history": spec.whole_history, "by_score": spec.by_score}
    decay_events = spec.item_item_decay_events
    return BlendSpec(
        spec.content_weight or 0.0,
        plain,
        None if spec.content_weight is None else plain,
        ItemItemSpec(spec.item_item_weight, decay_events, plain, **flags) if spec.item_item_weight else None,
        ItemItemSpec(spec.sequential_weight, decay_events, plain, **flags) if spec.sequential_weight else None,
    )


def _user_tower(spec: TinySpec) -> onnx.ModelProto:
    history = ("batch", spec.history_length)
    inputs = [
        helper.make_tensor_value_info(names.HISTORY_VECTORS, TensorProto.FLOAT, (*history, spec.dim)),
        helper.make_tensor_value_info(names.HISTORY_EVENT_CODES, TensorProto.INT64, history),
        helper.make_tensor_value_info(names.HISTORY_AGES, TensorProto.FLOAT, history),
    ]
    if spec.user_features:
        shape = ("batch", len(spec.user_features))
        inputs.append(helper.make_tensor_value_info(names.USER_FEATURE_CODES, TensorProto.INT64, shape))
    constants = {"zero": np.array(0, np.int64), "last": np.array([2], np.int64), "time": np.array([1], np.int64)}
    nodes = [
        helper.make_node("Greater", [names.HISTORY_EVENT_CODES, "zero"], ["present"]),
        helper.make_node("Cast", ["present"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["weights_3d"]),
        helper.make_node("Mul", [names.HISTORY_VECTORS, "weights_3d"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "time"], ["history"], keepdims=0),
        helper.make_node("ReduceL2", ["total", "time"], ["length"], keepdims=1),
        helper.make_node("Max", ["length", "epsilon"], ["safe_length"]),
        helper.make_node("Div", ["total", "safe_length"], [names.USER_VECTOR]),
    ]
    constants["epsilon"] = np.array(1e-12, np.float32)
    if spec.user_ids:
        inputs.append(helper.make_tensor_value_info(names.USER_INDEX, TensorProto.INT64, ("batch",)))
        own = np.random.default_rng(spec.seed + 1).standard_normal((len(spec.user_ids) + 1, spec.dim), dtype=np.float32)
        if spec.nan_users:
            own[:] = np.nan
        own[0] = 0.0  # out of vocabulary
        constants["users"] = own
        total = [
            helper.make_node("Gather", ["users", names.USER_INDEX], ["own"], axis=0),
            helper.make_node("Add", ["history", "own"], ["total"]),
        ]
    else:
        total = [helper.make_node("Identity", ["history"], ["total"])]
    nodes[5:5] = total
    if spec.tower_layers:
        nodes = _slowed(nodes, spec, constants)
    output = helper.make_tensor_value_info(names.USER_VECTOR, TensorProto.FLOAT, ("batch", spec.dim))
    return _model(nodes, inputs, output, constants)


def _slowed(nodes: list[onnx.NodeProto], spec: TinySpec, constants: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """The same tower with further layers, whose result is multiplied by zero."""
    constants |= {
        "widen": np.full((spec.dim, _LAYER_DIM), 1e-6, np.float32),
        "layer": np.full((_LAYER_DIM, _LAYER_DIM), 1e-6, np.float32),
        "nothing": np.array(0, np.float32),
    }
    layers = [
        helper.make_node("MatMul", [f"layer_{layer}", "layer"], [f"layer_{layer + 1}"])
        for layer in range(spec.tower_layers)
    ]
    work = [
        helper.make_node("MatMul", ["total", "widen"], ["layer_0"]),
        *layers,
        helper.make_node("ReduceSum", [f"layer_{spec.tower_layers}", "time"], ["layers"], keepdims=1),
        helper.make_node("Mul", ["layers", "nothing"], ["no_layers"]),
        helper.make_node("Add", ["total", "no_layers"], ["slow_total"]),
    ]
    ends = next(index for index, node in enumerate(nodes) if "total" in node.output) + 1
    later = [
        helper.make_node(node.op_type, ["slow_total" if name == "total" else name for name in node.input], node.output)
        for node in nodes[ends:]
    ]
    for node, slow in zip(nodes[ends:], later, strict=True):
        slow.attribute.extend(node.attribute)
    return [*nodes[:ends], *work, *later]


def _item_tower(vectors: npt.NDArray[np.float32]) -> onnx.ModelProto:
    table = np.concatenate([np.zeros((1, vectors.shape[1]), np.float32), vectors])  # row 0: out of vocabulary
    nodes = [helper.make_node("Gather", ["table", names.ITEM_INDEX], [names.ITEM_VECTOR], axis=0)]
    inputs = [helper.make_tensor_value_info(names.ITEM_INDEX, TensorProto.INT64, ("batch",))]
    output = helper.make_tensor_value_info(names.ITEM_VECTOR, TensorProto.FLOAT, ("batch", vectors.shape[1]))
    return _model(nodes, inputs, output, {"table": table})


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    output: onnx.ValueInfoProto,
    constants: dict[str, npt.NDArray[np.generic]],
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def _index(vectors: npt.NDArray[np.float32], spec: TinySpec) -> faiss.IndexIVF:
    index = faiss.index_factory(spec.dim, f"IVF{spec.num_lists},{spec.quantiser}", faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # no warning: a tiny catalogue is intended here
    if spec.num_items > _LARGE:
        index.cp.max_points_per_centroid, index.cp.niter = 40, 5  # many lists are needed, not good ones
    index.train(vectors)
    index.add(vectors)
    return index


def _exact(vectors: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k].astype(np.int64)


def _recall(
    index: faiss.IndexIVF, vectors: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], spec: TinySpec
) -> float:
    k = min(100, spec.num_items)
    exact = _exact(vectors, queries, k)
    _, found = index.search(queries, k, params=faiss.SearchParametersIVF(nprobe=spec.nprobe))
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(exact, found, strict=True)]))


def _top_items(popularity: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    order = np.argsort(-popularity, kind="stable")
    segments = {names.SEGMENT_ALL: order[:_TOP_ITEMS]}
    for category in CATEGORIES:
        rows = [row for row in order if category in _categories(int(row))]
        segments[names.CATEGORY_SEGMENT + category] = np.array(rows[:_TOP_ITEMS], dtype=np.int64)
    return segments


def _manifest(spec: TinySpec, schema: FeatureSchema, *, recall: float) -> Manifest:
    history: tuple[str | int, ...] = ("batch", spec.history_length)
    inputs = [
        TensorSpec(names.HISTORY_VECTORS, "float32", (*history, spec.dim)),
        TensorSpec(names.HISTORY_EVENT_CODES, "int64", history),
        TensorSpec(names.HISTORY_AGES, "float32", history),
    ]
    if spec.user_features:
        inputs.append(TensorSpec(names.USER_FEATURE_CODES, "int64", ("batch", len(spec.user_features))))
    if spec.user_ids:
        inputs.append(TensorSpec(names.USER_INDEX, "int64", ("batch",)))
    return Manifest(
        model_version=spec.model_version,
        created_at="2026-01-01T00:00:00Z",
        training_data=TrainingData("tiny", "0" * 64, 32, spec.num_items, 32 * HISTORY_LENGTH),
        feature_schema=schema,
        user_tower=TowerSpec(tuple(inputs), (TensorSpec(names.USER_VECTOR, "float32", ("batch", spec.dim)),)),
        item_tower=TowerSpec(
            (TensorSpec(names.ITEM_INDEX, "int64", ("batch",)),),
            (TensorSpec(names.ITEM_VECTOR, "float32", ("batch", spec.dim)),),
        ),
        embedding_dim=spec.dim,
        similarity="cosine",
        index=IndexSpec(f"IVF{spec.num_lists},{spec.quantiser}", spec.nprobe, recall),
        metrics=spec.metrics,
        blend=_blend(spec),
        ranker=None if spec.ranker is None else _ranker_spec(spec.ranker()),
        onnx_max_abs_difference=0.0,
        catalogue_sequence=spec.catalogue_sequence,
    )
