"""A champion, new events and items, and a warm start from the champion, against a real registry."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from tandem.contract.bundle import read_bundle
from tandem.contract.bundle_files import MODEL_CARD
from tandem.contract.deleted_users import DeletedUsers, user_sha256
from tandem.contract.streams import AppliedItemChange, ItemChange
from tandem.ops.deleted_users_file import add_deleted_users
from tandem.ops.onnx_session import OnnxSession
from tests.support.archive import event, write_events, write_item_changes
from tests.support.checkerboard import write_checkerboard
from tests.support.registries import new_registry
from tests.trainer.bundle_ranks import bundle_ranks
from trainer.commands.cli import main
from trainer.config.train_config import TrainConfig, load_train_config
from trainer.core.errors import DataError, RegistryError
from trainer.core.settings import Settings
from trainer.data.config import DataConfig, load_data_config
from trainer.dataset.dataset import leave_last_out, load_dataset
from trainer.pipeline.train_run import RunOptions, RunResult, train_and_register
from trainer.registry.registry import WARM_START_TAG, WEIGHTS, Registry
from trainer.training.previous_model import PreviousModel
from trainer.training.warm_start import find_warm_start

pytestmark = pytest.mark.slow

SMALL = {
    "towers.embedding_dim": "16",
    "towers.num_layers": "1",
    "fit.max_epochs": "20",
    "fit.batch_size": "16",
    "text.encoder": "none",
    "warm_start.min_validation_users": "10",
    "warm_start.max_epochs": "3",
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    folder = tmp_path_factory.mktemp("warm")
    return Settings(data_dir=folder, registry_uri=new_registry(folder))


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return load_train_config(None, SMALL)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataConfig:
    """The checkerboard, with new users, events and items, and a deleted item."""
    folder = tmp_path_factory.mktemp("board")
    data = load_data_config(str(write_checkerboard(folder)), {})
    events, changes = [], []
    for user in range(40):
        # Odd users and odd items are black; item-24 and item-25 are new.
        events.append(event(f"e{user}", f"user-{user}", f"item-{24 + user % 2}", 1_800_000_000 + user))
        events.append(event(f"f{user}", f"new-{user}", f"item-{user % 2 + 2}", 1_800_000_100 + user))
        events.append(event(f"g{user}", f"new-{user}", f"item-{user % 2 + 4}", 1_800_000_200 + user))
        events.append(event(f"h{user}", f"new-{user}", f"item-{24 + user % 2}", 1_800_000_300 + user))
    for sequence, (item_id, colour) in enumerate((("item-24", "white"), ("item-25", "black")), start=1):
        change = ItemChange(item_id=item_id, changed_at=sequence, title=f"A {colour} square", categories=(colour,))
        changes.append(AppliedItemChange(sequence=sequence, slot=sequence, change=change))
    deleted = ItemChange(item_id="item-3", changed_at=3, deleted=True)
    changes.append(AppliedItemChange(sequence=3, slot=3, change=deleted))
    write_events(folder / "events", {"2026-01-01": events})
    write_item_changes(folder / "item-changes", {"2026-01-01": changes})
    return data


def _merged(data: DataConfig) -> DataConfig:
    folder = Path(data.interactions.path).parent
    return data.model_copy(update={"events": str(folder / "events"), "item_changes": str(folder / "item-changes")})


@pytest.fixture(scope="module")
def champion(settings, config, data) -> RunResult:
    return train_and_register(data, config, settings, RunOptions(warm_start="champion"))


@pytest.fixture(scope="module")
def grown(champion, settings, config, data) -> RunResult:
    return train_and_register(_merged(data), config, settings, RunOptions(warm_start="champion"))


def test_the_first_model_is_trained_in_full(champion) -> None:
    assert champion.start.previous is None
    assert champion.start.why_not == "there is no model yet"


def test_rows_stay_and_new_rows_come_after_them(champion, grown, settings, tmp_path) -> None:
    registry = Registry(settings)
    old = read_bundle(registry.download(champion.version, tmp_path / "old"))
    new = read_bundle(registry.download(grown.version, tmp_path / "new"))
    rows = range(len(old.items))
    assert new.items.item_ids(rows) == old.items.item_ids(rows)
    assert new.items.item_ids(range(len(rows), len(new.items))) == ["item-24", "item-25"]
    assert new.items.item_ids(new.items.unavailable_rows) == ["item-3"]
    assert new.manifest.catalogue_sequence == 3
    # A few epochs at a low rate hardly move an item.
    cosines = (new.item_vectors[: len(rows)] * old.item_vectors).sum(axis=1)
    assert np.median(cosines) > 0.9
    colours = new.item_vectors @ new.item_vectors.T
    assert colours[24, :24:2].mean() > 0


def test_it_is_at_least_as_good_as_the_champion(champion, grown, settings, tmp_path) -> None:
    dataset = load_dataset(grown.prepared.directory)
    registry = Registry(settings)

    def recall(result: RunResult, name: str) -> float:
        bundle = read_bundle(registry.download(result.version, tmp_path / name))
        ranks = bundle_ranks(dataset, leave_last_out(dataset, skip=0), bundle, OnnxSession(bundle.user_tower))
        return float((ranks < 10).mean())

    assert recall(grown, "new") >= recall(champion, "old")


def test_the_version_that_it_continued_is_recorded(champion, grown, settings, tmp_path) -> None:
    assert grown.start.version == champion.version
    client = MlflowClient(settings.registry_uri, settings.registry_uri)
    assert client.get_run(grown.version.run_id).data.tags[WARM_START_TAG] == champion.version.number
    assert client.get_run(champion.version.run_id).data.tags[WARM_START_TAG] == ""
    card = (Registry(settings).download(grown.version, tmp_path) / MODEL_CARD.name).read_text()
    assert f"| trained from | version {champion.version.number} ({champion.version.model_version}) |" in card
    assert "| last change of the catalogue | 3 |" in card


def test_validation_asks_only_for_new_choices(champion, grown, settings, config, tmp_path) -> None:
    weights = Registry(settings).download_artifacts(champion.version, WEIGHTS, tmp_path)
    previous = PreviousModel.load(weights)
    learned = dict(zip(previous.user_ids, previous.num_learned_events.tolist(), strict=True))
    assert set(learned.values()) == {11}  # all but the last of twelve
    dataset = load_dataset(grown.prepared.directory)
    start = find_warm_start(Registry(settings), champion.version.number, dataset, config)
    assert start.previous is not None
    lengths = dict(zip(dataset.user_ids, dataset.lengths.tolist(), strict=True))
    asked = {user for user, length in lengths.items() if length - 2 >= max(1, learned.get(user, 0))}
    assert asked == {f"user-{n}" for n in range(40)} | {f"new-{n}" for n in range(40)}


def test_without_new_choices_or_with_another_shape_there_is_a_full_training(champion, settings, config, data) -> None:
    registry = Registry(settings)
    dataset = load_dataset(champion.prepared.directory)
    start = find_warm_start(registry, "1", dataset, config)
    assert start.previous is None
    assert start.why_not.startswith("version 1: only 0 users have a new choice to validate on")
    wider = load_train_config(None, {**SMALL, "towers.embedding_dim": "32"})
    start = find_warm_start(registry, "1", dataset, wider)
    assert start.why_not == "version 1: it was trained with towers.embedding_dim = 16, this configuration has 32"
    other = load_train_config(None, {**SMALL, "text.encoder": "minilm"})
    assert "text.encoder" in find_warm_start(registry, "1", dataset, other).why_not
    with pytest.raises(RegistryError, match="no version '99'"):
        find_warm_start(registry, "99", dataset, config)


def test_weights_are_read_back_unchanged(champion, settings, tmp_path) -> None:
    folder = Registry(settings).download_artifacts(champion.version, WEIGHTS, tmp_path)
    previous = PreviousModel.load(folder)
    previous.save(tmp_path / "again")
    again = PreviousModel.load(tmp_path / "again")
    assert again.schema == previous.schema
    assert again.catalogue.categories == previous.catalogue.categories
    assert all((again.weights[name] == tensor).all() for name, tensor in previous.weights.items())
    (tmp_path / "again" / "weights.pt").write_bytes(b"half")
    with pytest.raises(DataError, match="holds no weights that training can continue"):
        PreviousModel.load(tmp_path / "again")


def test_the_command_line_prints_the_start_of_the_training(champion, settings, data, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TANDEM_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("TANDEM_REGISTRY_URI", settings.registry_uri)
    monkeypatch.setenv("TANDEM_LOG_LEVEL", "error")
    folder = Path(data.interactions.path).parent
    overrides = [argument for key, value in SMALL.items() for argument in ("--set", f"{key}={value}")]
    command = ["train", "--dataset", str(folder / "checkerboard.toml"), "--events", str(folder / "events"), *overrides]
    command += ["--warm-start", "1", "--no-promote", "--baselines", "popularity", "--set", "warm_start.max_epochs=1"]
    assert main(command) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (answer["warm_started_from"], answer["full_training_because"]) == ("1", "")


def test_a_deleted_user_is_in_no_file_of_the_next_model(grown, settings, config, data, tmp_path) -> None:
    registry = Registry(settings)

    def users_of(result: RunResult) -> set[str]:
        folder = tmp_path / result.version.number
        held_out = read_bundle(registry.download(result.version, folder)).held_out_users
        previous = PreviousModel.load(registry.download_artifacts(result.version, WEIGHTS, folder))
        return {*(user.user_id for user in held_out), *previous.user_ids}

    assert "user-3" in users_of(grown)
    add_deleted_users(settings.data_dir, DeletedUsers({user_sha256("user-3"): 1_900_000_000_000_000}))
    quick = load_train_config(None, {**SMALL, "fit.max_epochs": "1", "warm_start.max_epochs": "1"})
    options = RunOptions(warm_start="champion", promote=False, baselines="popularity")
    result = train_and_register(_merged(data), quick, settings, options)
    assert result.prepared.num_users == grown.prepared.num_users - 1
    assert "user-3" not in users_of(result)
