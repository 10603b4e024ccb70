"""The bundle: a round trip, and an error for every defect."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.contract import bundle_files, names
from tandem.contract.bundle import Bundle, read_bundle, read_manifest, write_bundle
from tandem.contract.bundle_contents import BundleParts, GoldenQueries
from tandem.contract.bundle_files import BUNDLE_FILES, MODEL_CARD, BundleFile
from tandem.contract.errors import BundleCorrupt, BundleError, BundleIncompatible
from tandem.contract.items import Item, ItemTable, write_category_rows
from tandem.contract.manifest import Manifest
from tandem.contract.vocabulary import Vocabulary
from tests.support.hostile_bundles import IN_THE_FILES, IN_THE_MANIFEST

FILES = (
    "held_out_users.jsonl",
    "golden_queries.npz",
    "index.faiss",
    "category_rows.arrow",
    "item_keys.npy",
    "popularity_order.npy",
    "sorted_item_keys.npy",
    "sorted_item_rows.npy",
    "item_key_buckets.npy",
    "item_tower.onnx",
    "item_vectors.npy",
    "items.arrow",
    "top_items.npz",
    "user_keys.npy",
    "user_tower.onnx",
)
DERIVED = (
    "category_rows.arrow",
    "item_key_buckets.npy",
    "popularity_order.npy",
    "sorted_item_keys.npy",
    "sorted_item_rows.npy",
)
"""Files that are derived from other files of the bundle."""


@pytest.fixture
def bundle(tmp_path: Path, manifest: Manifest, parts: BundleParts) -> Bundle:
    return write_bundle(tmp_path / "bundle", manifest, parts)


def change_manifest(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def correct_checksum(directory: Path, name: str) -> None:
    """Corrects a file's checksum in the manifest, as if the defect had been there when the bundle was written."""
    content = (directory / name).read_bytes()
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    change_manifest(directory, lambda raw: raw["files"].update({name: entry}))


class TestTable:
    def test_it_contains_every_file_defined_in_its_module(self) -> None:
        defined = [value for value in vars(bundle_files).values() if isinstance(value, BundleFile)]
        assert list(BUNDLE_FILES) == defined
        assert len({file.name for file in BUNDLE_FILES}) == len(BUNDLE_FILES)

    def test_a_file_is_derived_from_earlier_files_that_every_bundle_has(self) -> None:
        assert sorted(file.name for file in BUNDLE_FILES if file.derived_from) == sorted(DERIVED)
        earlier: set[str] = set()
        for file in BUNDLE_FILES:
            assert earlier.issuperset(file.derived_from)
            earlier.add(file.name)


class TestRoundTrip:
    def test_manifest(self, bundle: Bundle, manifest: Manifest, parts: BundleParts) -> None:
        filled_in = {
            "item_vocabulary_hash": parts.item_vocabulary.content_hash,
            "user_vocabulary_hash": parts.user_vocabulary.content_hash if parts.user_vocabulary else "",
            "feature_schema_fingerprint": manifest.feature_schema.fingerprint,
            "files": bundle.manifest.files,
        }
        assert bundle.manifest == dataclasses.replace(manifest, **filled_in)
        assert read_manifest(bundle.directory) == bundle.manifest
        assert sorted(bundle.manifest.files) == sorted(FILES)

    def test_parts(self, bundle: Bundle, parts: BundleParts) -> None:
        np.testing.assert_array_equal(bundle.item_vectors, parts.item_vectors)
        assert bundle.item_vectors.dtype == np.float32
        assert bundle.items.item_ids(range(4)) == ["50", "172", "é", "181"]
        assert bundle.item_vocabulary.rows(["é"]).tolist() == [2]
        assert bundle.user_vocabulary is not None
        assert bundle.user_vocabulary.rows(["42", "x"]).tolist() == [1, -1]
        assert {name: rows.tolist() for name, rows in bundle.top_items.items()} == {
            names.SEGMENT_ALL: [2, 0, 1, 3],
            names.CATEGORY_SEGMENT + "Drama": [2, 0],
        }
        assert bundle.golden_queries.expected_rows.tolist() == [[0, 1], [3, 2]]
        assert bundle.golden_queries.inputs[names.HISTORY_VECTORS].shape == (2, 2, 3)
        (user,) = bundle.held_out_users
        assert (user.user_id, user.target_item_id) == ("196", "172")
        assert user.state.to_bytes() == parts.held_out_users[0].state.to_bytes()
        for name in ("user_tower", "item_tower", "index"):
            assert getattr(bundle, name).read_bytes() == getattr(parts, name).read_bytes()

    def test_arrays_cannot_be_written_to(self, bundle: Bundle) -> None:
        assert not bundle.item_vectors.flags.writeable

    def test_a_moved_bundle_is_the_same_bundle(self, bundle: Bundle, tmp_path: Path) -> None:
        moved = read_bundle(bundle.directory.rename(tmp_path / "elsewhere"))
        assert moved.manifest == bundle.manifest

    def test_a_model_card_is_hashed_like_every_file(
        self, tmp_path: Path, manifest: Manifest, parts: BundleParts
    ) -> None:
        bundle = write_bundle(tmp_path / "bundle", manifest, dataclasses.replace(parts, model_card="# A card\n"))
        assert (bundle.directory / MODEL_CARD.name).read_text() == "# A card\n"
        (bundle.directory / MODEL_CARD.name).write_text("# B card\n")
        with pytest.raises(BundleCorrupt, match=MODEL_CARD.name):
            read_bundle(bundle.directory)

    def test_without_user_ids(self, tmp_path: Path, manifest: Manifest, parts: BundleParts) -> None:
        schema = dataclasses.replace(manifest.feature_schema, user_ids=False)
        bundle = write_bundle(
            tmp_path / "bundle",
            dataclasses.replace(manifest, feature_schema=schema),
            dataclasses.replace(parts, user_vocabulary=None),
        )
        assert bundle.user_vocabulary is None
        assert "user_keys.npy" not in bundle.manifest.files


class TestWriting:
    def test_an_existing_directory_is_never_overwritten(
        self, bundle: Bundle, manifest: Manifest, parts: BundleParts
    ) -> None:
        with pytest.raises(FileExistsError, match="never overwritten"):
            write_bundle(bundle.directory, manifest, parts)
        read_bundle(bundle.directory)

    def test_parts_that_do_not_fit_leave_nothing_behind(
        self, tmp_path: Path, manifest: Manifest, parts: BundleParts
    ) -> None:
        folder = tmp_path / "bundles"
        with pytest.raises(BundleIncompatible, match="embedding_dim"):
            write_bundle(folder / "bundle", dataclasses.replace(manifest, embedding_dim=4), parts)
        assert list(folder.iterdir()) == []

    def test_a_missing_source_file_leaves_nothing_behind(
        self, tmp_path: Path, manifest: Manifest, parts: BundleParts
    ) -> None:
        folder = tmp_path / "bundles"
        with pytest.raises(FileNotFoundError):
            write_bundle(folder / "bundle", manifest, dataclasses.replace(parts, index=tmp_path / "nowhere"))
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize("model_version", ["", "a/b", "..", ".hidden", "a b", "x" * 129])
    def test_a_model_version_that_is_not_a_plain_name_is_refused(
        self, tmp_path: Path, manifest: Manifest, parts: BundleParts, model_version: str
    ) -> None:
        """The model version is part of store keys, in which "/" separates, and the name of a folder in caches."""
        with pytest.raises(BundleIncompatible, match="model_version"):
            write_bundle(tmp_path / "bundle", dataclasses.replace(manifest, model_version=model_version), parts)


class TestDamage:
    """A bundle that was damaged after it was written."""

    def test_no_directory(self, tmp_path: Path) -> None:
        with pytest.raises(BundleCorrupt, match=r"manifest\.json"):
            read_bundle(tmp_path / "nowhere")

    @pytest.mark.parametrize("name", ["manifest.json", *FILES])
    def test_missing_file(self, bundle: Bundle, name: str) -> None:
        (bundle.directory / name).unlink()
        with pytest.raises(BundleCorrupt, match=name):
            read_bundle(bundle.directory)

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("verify_checksums", [True, False])
    def test_truncated_file(self, bundle: Bundle, name: str, verify_checksums: bool) -> None:
        path = bundle.directory / name
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(BundleCorrupt, match=f"{name} has .* bytes"):
            read_bundle(bundle.directory, verify_checksums=verify_checksums)

    @pytest.mark.parametrize("name", FILES)
    def test_flipped_byte(self, bundle: Bundle, name: str) -> None:
        path = bundle.directory / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(BundleCorrupt, match=f"{name} has SHA-256"):
            read_bundle(bundle.directory)

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"format_version": 1'])
    def test_manifest_is_not_json(self, bundle: Bundle, content: bytes) -> None:
        (bundle.directory / "manifest.json").write_bytes(content)
        with pytest.raises(BundleCorrupt, match=r"manifest\.json"):
            read_bundle(bundle.directory)

    @pytest.mark.parametrize("name", [name for name in FILES if not name.endswith((".onnx", ".faiss"))])
    def test_unreadable_part_with_a_correct_checksum(self, bundle: Bundle, name: str) -> None:
        (bundle.directory / name).write_bytes(b"\xff not what it should be")
        correct_checksum(bundle.directory, name)
        with pytest.raises(BundleCorrupt, match=name.partition(".")[0]):
            read_bundle(bundle.directory)

    @pytest.mark.parametrize(
        "line", ['{"user_id": "196"}', "[]", '{"user_id": "1", "state": 3, "target_item_id": "2"}', "null"]
    )
    def test_unreadable_held_out_user(self, bundle: Bundle, line: str) -> None:
        (bundle.directory / "held_out_users.jsonl").write_text(line + "\n")
        correct_checksum(bundle.directory, "held_out_users.jsonl")
        with pytest.raises(BundleCorrupt, match="line 1"):
            read_bundle(bundle.directory)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_vectors_that_are_not_finite(self, bundle: Bundle, bad: float) -> None:
        vectors = np.array(bundle.item_vectors)
        vectors[1, 2] = bad
        np.save(bundle.directory / "item_vectors.npy", vectors)
        correct_checksum(bundle.directory, "item_vectors.npy")
        with pytest.raises(BundleCorrupt, match="NaN or infinite"):
            read_bundle(bundle.directory)

    def test_random_damage_is_always_a_bundle_error(self, bundle: Bundle, tmp_path: Path) -> None:
        """Whatever happens to a file, a reader that catches BundleError keeps serving."""
        rng = random.Random(1)
        for number in range(60):
            copy = tmp_path / f"copy-{number}"
            shutil.copytree(bundle.directory, copy)
            path = copy / rng.choice(["manifest.json", *FILES])
            content = bytearray(path.read_bytes())
            if rng.random() < 0.5:
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            else:
                del content[rng.randrange(len(content)) :]
            path.write_bytes(content)
            if path.name == "manifest.json":
                try:
                    read_bundle(copy)  # a changed metric or date is harmless
                except BundleError:
                    continue
            else:
                with pytest.raises(BundleError):
                    read_bundle(copy)


class TestMismatch:
    """A bundle whose files are intact but do not match the code or each other."""

    @pytest.mark.parametrize("version", [0, 8, "1", None])
    def test_another_format_version(self, bundle: Bundle, version: object) -> None:
        change_manifest(bundle.directory, lambda raw: raw.update(format_version=version))
        with pytest.raises(BundleIncompatible, match="format_version"):
            read_bundle(bundle.directory)

    def test_format_version_1_has_neither_blend_nor_ranker(self, bundle: Bundle) -> None:
        def as_version_1(raw: dict[str, Any]) -> None:
            raw["format_version"] = 1
            del raw["blend"], raw["ranker"]

        change_manifest(bundle.directory, as_version_1)
        manifest = read_bundle(bundle.directory).manifest
        assert (manifest.blend, manifest.ranker) == (None, None)

    @pytest.mark.parametrize("content", ["[]", "3", "null", "{}"])
    def test_manifest_is_not_a_manifest(self, bundle: Bundle, content: str) -> None:
        (bundle.directory / "manifest.json").write_text(content)
        with pytest.raises(BundleIncompatible, match="format_version"):
            read_bundle(bundle.directory)

    @pytest.mark.parametrize(
        "field",
        sorted(
            {field.name for field in dataclasses.fields(Manifest)}
            - {"format_version", "blend", "ranker", "catalogue_sequence", "min_rating", "event_weights"}
        ),
    )
    def test_missing_field(self, bundle: Bundle, field: str) -> None:
        change_manifest(bundle.directory, lambda raw: raw.pop(field))
        with pytest.raises(BundleIncompatible, match=r"manifest\.json|vocabulary"):
            read_bundle(bundle.directory)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("training_data", {}),
            ("training_data", []),
            ("feature_schema", {}),
            ("feature_schema", None),
            ("user_tower", {"inputs": []}),
            ("user_tower", []),
            ("item_tower", {"inputs": [], "outputs": []}),
            ("item_tower", {"inputs": [], "outputs": [{"name": "x", "dtype": "float32", "shape": []}]}),
            ("index", {"kind": "Flat"}),
            ("files", []),
            ("files", None),
            ("embedding_dim", "3"),
            ("similarity", "euclidean"),
            ("metrics", []),
        ],
    )
    def test_wrong_field(self, bundle: Bundle, field: str, value: object) -> None:
        change_manifest(bundle.directory, lambda raw: raw.update({field: value}))
        with pytest.raises(BundleIncompatible):
            read_bundle(bundle.directory)

    def test_unknown_field(self, bundle: Bundle) -> None:
        change_manifest(bundle.directory, lambda raw: raw.update(surprise=1))
        with pytest.raises(BundleIncompatible, match="surprise"):
            read_bundle(bundle.directory)

    @pytest.mark.parametrize("entry", [{}, {"sha256": "0" * 64}, 3, None])
    def test_a_file_entry_without_size_or_hash(self, bundle: Bundle, entry: object) -> None:
        change_manifest(bundle.directory, lambda raw: raw["files"].update({"index.faiss": entry}))
        with pytest.raises(BundleIncompatible, match=r"index\.faiss"):
            read_bundle(bundle.directory)

    @pytest.mark.parametrize("name", sorted({*FILES} - {*DERIVED}))
    def test_a_required_file_is_not_listed(self, bundle: Bundle, name: str) -> None:
        change_manifest(bundle.directory, lambda raw: raw["files"].pop(name))
        with pytest.raises(BundleIncompatible, match=f"does not list {name}"):
            read_bundle(bundle.directory)

    @pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "folder/file", ".."])
    def test_a_listed_path_outside_the_bundle(self, bundle: Bundle, name: str) -> None:
        outside = bundle.directory.parent / "outside"
        outside.write_bytes(b"secret")
        entry = {"sha256": hashlib.sha256(b"secret").hexdigest(), "bytes": 6}
        change_manifest(bundle.directory, lambda raw: raw["files"].update({name: entry}))
        with pytest.raises(BundleError, match=r"is not a file name|is missing"):
            read_bundle(bundle.directory)

    def test_another_dimension_in_the_manifest(self, bundle: Bundle) -> None:
        change_manifest(bundle.directory, lambda raw: raw.update(embedding_dim=4))
        with pytest.raises(BundleIncompatible, match="embedding_dim 4"):
            read_bundle(bundle.directory)

    @pytest.mark.parametrize(
        "vectors",
        [
            pytest.param(np.zeros((4, 5), np.float32), id="another dimension"),
            pytest.param(np.zeros((3, 3), np.float32), id="too few"),
            pytest.param(np.zeros((4, 3), np.float64), id="float64"),
            pytest.param(np.zeros(12, np.float32), id="flat"),
        ],
    )
    def test_item_vectors_of_another_shape_or_type(self, bundle: Bundle, vectors: np.ndarray) -> None:
        np.save(bundle.directory / "item_vectors.npy", vectors)
        correct_checksum(bundle.directory, "item_vectors.npy")
        with pytest.raises(BundleIncompatible, match=r"item_vectors\.npy"):
            read_bundle(bundle.directory)

    @pytest.mark.parametrize("tower", ["user_tower", "item_tower"])
    def test_a_tower_of_another_dimension(self, bundle: Bundle, tower: str) -> None:
        change_manifest(bundle.directory, lambda raw: raw[tower]["outputs"][0].update(shape=["batch", 7]))
        with pytest.raises(BundleIncompatible, match="towers put out vectors"):
            read_bundle(bundle.directory)

    @pytest.mark.parametrize("whose", ["item", "user"])
    def test_vocabulary_hash(self, bundle: Bundle, whose: str) -> None:
        change_manifest(bundle.directory, lambda raw: raw.update({f"{whose}_vocabulary_hash": "0" * 64}))
        with pytest.raises(BundleIncompatible, match=f"{whose}_vocabulary_hash"):
            read_bundle(bundle.directory)

    @pytest.mark.parametrize(
        "keys",
        [
            pytest.param(np.array([1, 2, 3, 4], np.uint64), id="other keys"),
            pytest.param(np.array([1, 2, 2, 4], np.uint64), id="repeated"),
            pytest.param(np.array([1, 2, 3], np.uint64), id="too few"),
            pytest.param(np.array([1, 2, 3, 4], np.int64), id="signed"),
            pytest.param(np.array([[1, 2], [3, 4]], np.uint64), id="a table"),
        ],
    )
    def test_item_keys(self, bundle: Bundle, keys: np.ndarray) -> None:
        np.save(bundle.directory / "item_keys.npy", keys)
        correct_checksum(bundle.directory, "item_keys.npy")
        with pytest.raises(BundleIncompatible, match=r"item_keys\.npy|vocabulary"):
            read_bundle(bundle.directory)

    def test_items_in_another_order_than_the_vocabulary(
        self, tmp_path: Path, manifest: Manifest, parts: BundleParts
    ) -> None:
        """Otherwise every row would be returned under another item's id."""
        swapped = ItemTable.from_items([Item(item_id, "", (), {}, 0) for item_id in ["172", "50", "é", "181"]])
        with pytest.raises(BundleIncompatible, match=r"items\.arrow"):
            write_bundle(tmp_path / "bundle", manifest, dataclasses.replace(parts, items=swapped))

    def test_feature_schema_fingerprint(self, bundle: Bundle) -> None:
        change_manifest(bundle.directory, lambda raw: raw["feature_schema"].update(history_length=99))
        with pytest.raises(BundleIncompatible, match="feature_schema_fingerprint"):
            read_bundle(bundle.directory)

    def test_no_items(self, tmp_path: Path, manifest: Manifest, parts: BundleParts) -> None:
        nothing = dataclasses.replace(
            parts,
            items=ItemTable.from_items([]),
            item_vocabulary=Vocabulary.from_ids([]),
            item_vectors=np.empty((0, 3), np.float32),
        )
        with pytest.raises(BundleIncompatible, match="no item"):
            write_bundle(tmp_path / "bundle", manifest, nothing)

    @pytest.mark.parametrize("rows", [[0, 4], [-1, 2], [0.0, 1.0], [[0, 1]]])
    def test_top_items_that_are_not_rows(
        self, tmp_path: Path, manifest: Manifest, parts: BundleParts, rows: list[Any]
    ) -> None:
        top_items = {**parts.top_items, "category=War": np.array(rows)}
        with pytest.raises(BundleIncompatible, match="category=War"):
            write_bundle(tmp_path / "bundle", manifest, dataclasses.replace(parts, top_items=top_items))

    @pytest.mark.parametrize("rows", [[[0, 4], [1, 2]], [[0, -1], [1, 2]], [0, 1]])
    def test_golden_answers_that_are_not_rows(
        self, tmp_path: Path, manifest: Manifest, parts: BundleParts, rows: list[Any]
    ) -> None:
        golden = GoldenQueries(parts.golden_queries.inputs, np.array(rows))
        with pytest.raises(BundleIncompatible, match="golden queries"):
            write_bundle(tmp_path / "bundle", manifest, dataclasses.replace(parts, golden_queries=golden))

    def test_golden_answers_are_missing(self, bundle: Bundle) -> None:
        np.savez(bundle.directory / "golden_queries.npz", other=np.zeros(1))
        correct_checksum(bundle.directory, "golden_queries.npz")
        with pytest.raises(BundleCorrupt, match="expected_rows"):
            read_bundle(bundle.directory)

    def test_the_segment_of_everyone_is_missing(self, tmp_path: Path, manifest: Manifest, parts: BundleParts) -> None:
        top_items = {names.CATEGORY_SEGMENT + "Drama": np.array([2, 0])}
        with pytest.raises(BundleIncompatible, match="'all'"):
            write_bundle(tmp_path / "bundle", manifest, dataclasses.replace(parts, top_items=top_items))

    def test_user_vocabulary_is_missing_though_the_schema_reads_ids(
        self, tmp_path: Path, manifest: Manifest, parts: BundleParts
    ) -> None:
        with pytest.raises(BundleIncompatible, match=r"user_keys\.npy"):
            write_bundle(tmp_path / "bundle", manifest, dataclasses.replace(parts, user_vocabulary=None))


class TestDerivedFiles:
    def test_a_bundle_without_them_is_the_same(self, bundle: Bundle) -> None:
        for name in DERIVED:
            (bundle.directory / name).unlink()
        change_manifest(bundle.directory, lambda raw: [raw["files"].pop(name) for name in DERIVED])
        without = read_bundle(bundle.directory)
        keys = bundle.item_vocabulary.keys
        assert without.item_vocabulary.rows_of_keys(keys).tolist() == list(range(len(keys)))
        assert bundle.item_vocabulary.rows_of_keys(keys).tolist() == list(range(len(keys)))
        assert without.rows_by_popularity.tolist() == bundle.rows_by_popularity.tolist()
        assert {name: rows.tolist() for name, rows in without.rows_by_category.items()} == {
            name: rows.tolist() for name, rows in bundle.rows_by_category.items()
        }

    @pytest.mark.parametrize("name", [name for name in DERIVED if name.endswith(".npy")])
    def test_a_file_that_contradicts_its_sources_is_refused(self, bundle: Bundle, name: str) -> None:
        path = bundle.directory / name
        values = np.load(path)
        values[:] = values[0]
        np.save(path, values)
        correct_checksum(bundle.directory, name)
        with pytest.raises(BundleIncompatible, match=name.replace(".", r"\.") + "|sorted_item_keys"):
            read_bundle(bundle.directory)

    @pytest.mark.parametrize("name", [name for name in DERIVED if name.endswith(".npy")])
    def test_a_file_of_another_length_is_refused(self, bundle: Bundle, name: str) -> None:
        path = bundle.directory / name
        np.save(path, np.load(path)[:-1])
        correct_checksum(bundle.directory, name)
        with pytest.raises(BundleIncompatible, match=name.replace(".", r"\.")):
            read_bundle(bundle.directory)

    def test_rows_of_other_categories_are_refused(self, bundle: Bundle) -> None:
        table = ItemTable.from_items(Item(f"other-{row}", "", ("other",), {}, 0) for row in range(len(bundle.items)))
        write_category_rows(bundle.directory / "category_rows.arrow", table.rows_by_category())
        correct_checksum(bundle.directory, "category_rows.arrow")
        with pytest.raises(BundleIncompatible, match=r"category_rows\.arrow"):
            read_bundle(bundle.directory)


@pytest.mark.parametrize(("spoil", "reason"), [*IN_THE_MANIFEST.items(), *IN_THE_FILES.items()])
def test_a_hostile_bundle_is_refused(bundle: Bundle, spoil: Callable[[Path], None], reason: str) -> None:
    spoil(bundle.directory)
    with pytest.raises(BundleError, match=re.escape(reason)):
        read_bundle(bundle.directory)
