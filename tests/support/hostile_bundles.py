"""Bundles that somebody made to harm whoever opens them: they come from a registry that others may write to."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.support.checksums import correct_checksums

_MEBIBYTES = 256


def deep_manifest(directory: Path) -> None:
    (directory / "manifest.json").write_text("[" * 200_000)


def long_file_name(directory: Path) -> None:
    _change(directory, lambda manifest: manifest["files"].update({"a" * 5000: {"sha256": "0", "bytes": 1}}))


def file_name_with_nul(directory: Path) -> None:
    _change(directory, lambda manifest: manifest["files"].update({"a\0b": {"sha256": "0", "bytes": 1}}))


def file_in_another_folder(directory: Path) -> None:
    _change(directory, lambda manifest: manifest["files"].update({"../x": {"sha256": "0", "bytes": 1}}))


def negative_nprobe(directory: Path) -> None:
    _change(directory, lambda manifest: manifest["index"].update(nprobe=-5))


def huge_nprobe(directory: Path) -> None:
    _change(directory, lambda manifest: manifest["index"].update(nprobe=10**30))


def endless_history(directory: Path) -> None:
    _change(directory, lambda manifest: manifest["feature_schema"].update(history_length=10**12))


def schema_of_numbers(directory: Path) -> None:
    _change(directory, lambda manifest: manifest["feature_schema"].update(user_features=7))


def towers_of_text(directory: Path) -> None:
    _change(directory, lambda manifest: manifest.update(user_tower="x"))


def zip_bomb(directory: Path) -> None:
    """A few kilobytes on disk, zeros without end in memory."""
    shape = (_MEBIBYTES << 17,)
    with (
        zipfile.ZipFile(directory / "top_items.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("all.npy", "w", force_zip64=True) as entry,
    ):
        np.lib.format.write_array_header_1_0(entry, {"descr": "<i8", "fortran_order": False, "shape": shape})
        for _ in range(_MEBIBYTES >> 4):
            entry.write(bytes(1 << 24))
    correct_checksums(directory)


def object_array(directory: Path) -> None:
    np.savez(directory / "top_items.npz", all=np.array([{"a": 1}], dtype=object))
    correct_checksums(directory)


def array_of_terabytes(directory: Path) -> None:
    """A header that promises more than the file holds."""
    with zipfile.ZipFile(directory / "top_items.npz", "w") as archive, archive.open("all.npy", "w") as entry:
        np.lib.format.write_array_header_1_0(entry, {"descr": "<i8", "fortran_order": False, "shape": (1 << 40,)})
    correct_checksums(directory)


def tower_with_external_data(directory: Path) -> None:
    path = directory / "user_tower.onnx"
    tower = onnx.load(str(path))
    tensor = tower.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")
    path.write_bytes(tower.SerializeToString())
    correct_checksums(directory)


def tower_that_fills_memory(directory: Path, name: str = "item_tower.onnx") -> None:
    """A tower that makes 8 GiB of zeros on its way."""
    path = directory / name
    tower = onnx.load(str(path))
    graph = tower.graph
    graph.initializer.append(helper.make_tensor("hostile_shape", TensorProto.INT64, [1], [1 << 31]))
    graph.node.insert(0, helper.make_node("ConstantOfShape", ["hostile_shape"], ["hostile_zeros"]))
    graph.node.insert(1, helper.make_node("ReduceSum", ["hostile_zeros"], ["hostile_zero"], keepdims=0))
    output = graph.output[0].name
    for node in graph.node:
        node.output[:] = [f"{name}_before" if name == output else name for name in node.output]
    graph.node.append(helper.make_node("Add", [f"{output}_before", "hostile_zero"], [output]))
    path.write_bytes(tower.SerializeToString())
    correct_checksums(directory)


def _change(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


IN_THE_MANIFEST: dict[Callable[[Path], None], str] = {
    deep_manifest: "manifest.json is not JSON",
    long_file_name: "is not a file name",
    file_name_with_nul: "is not a file name",
    file_in_another_folder: "is not a file name",
    negative_nprobe: "index.nprobe is not a whole number",
    huge_nprobe: "index.nprobe is not a whole number",
    endless_history: "feature_schema.history_length is not a whole number",
    schema_of_numbers: "wrong or missing field",
    towers_of_text: "wrong or missing field",
}
"""For each hostile manifest, a part of the reason for which it is refused."""

IN_THE_FILES: dict[Callable[[Path], None], str] = {
    zip_bomb: "top_items.npz is unreadable: all.npy is compressed",
    object_array: "top_items.npz is unreadable: Object arrays cannot be loaded",
    array_of_terabytes: "top_items.npz is unreadable",
}
"""As above, for files that reading the bundle opens."""
