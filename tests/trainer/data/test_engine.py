"""Every engine writes the same bytes, and the error for a missing engine says what to install."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.data.conftest import csv_text, jsonl_text
from trainer.core.errors import ConfigError
from trainer.data.config import DataConfig, load_data_config
from trainer.data.prepare import PreparedData, prepare

CONFIG = """
name = "generated"
format = "table"
min_rating = 2
k_core = 3
max_bad_share = 0.2
event_weights = { purchase = 7.5 }
[interactions]
path = "rows.csv"
user = "u"
item = "i"
rating = "r"
timestamp = "t"
position = "p"
event_type = "e"
weight = "w"
[items]
path = "items.jsonl"
id = "id"
title = "title"
categories = "tags"
attributes = { maker = "by" }
[users]
path = "users.csv"
id = "id"
features = { age = "years", place = "town" }
"""
needs_java = pytest.mark.skipif(
    shutil.which("java") is None and "JAVA_HOME" not in os.environ, reason="Spark needs Java (openjdk-17-jre-headless)"
)


@pytest.fixture
def generated(write) -> DataConfig:
    """Bad lines, duplicates, equal times, non-ASCII ids, missing items and users, users and items to drop."""
    generator = np.random.default_rng(5)
    rows = []
    for number in range(700):
        user, item = int(generator.geometric(0.04)), int(generator.geometric(0.06))
        rows.append(
            {
                "u": f"ü{user}" if user % 3 else f"U{user}",
                "i": f"東{item}" if item % 4 else f"😀{item}",
                "r": round(float(generator.uniform(1, 5)), 2) if number % 50 else "none",
                "t": int(generator.integers(1_000, 1_040)),
                "p": int(generator.integers(3)),
                "e": ["click", "purchase", "rating"][number % 3],
                "w": number % 7 + 0.5,
            }
        )
    write("rows.csv", csv_text(rows))
    items = [
        {
            "id": f"東{item}" if item % 4 else f"😀{item}",
            "title": f"<b>Title</b> &amp; {item}",
            "tags": ["a", "ß"][: item % 3],
        }
        | ({"by": "Me"} if item % 2 else {})
        for item in (*range(1, 60, 2), 1, 4)
    ]
    write("items.jsonl", jsonl_text(items))
    users = [{"id": f"ü{user}", "years": user if user % 2 else None, "town": f"Köln {user}"} for user in range(1, 40)]
    write("users.csv", csv_text([*users, users[0]]))
    return load_data_config(str(write("data.toml", CONFIG)), {})


def assert_same(config: DataConfig, tmp_path: Path) -> PreparedData:
    by_duckdb = prepare(config, tmp_path / "duckdb", engine="duckdb")
    # Spark would take the name for a pattern.
    by_spark = prepare(config, tmp_path / "u=1 [x]{a,b}*?" / "spark", engine="spark")
    for name in ("interactions.parquet", "items.parquet", "users.parquet"):
        assert (by_spark.directory / name).read_bytes() == (by_duckdb.directory / name).read_bytes(), name
    assert by_spark.report == by_duckdb.report
    assert by_spark.fingerprint == by_duckdb.fingerprint
    assert by_spark.directory.name == by_duckdb.directory.name
    return by_spark


@pytest.mark.process
@needs_java
def test_spark_prepares_the_bytes_that_duckdb_does(generated: DataConfig, tmp_path: Path):
    prepared = assert_same(generated, tmp_path)
    dropped = prepared.report.file("interactions").dropped
    assert set(dropped) == {
        "unparsable_rating",
        "below_min_rating",
        "duplicate",
        "merged",
        "user_below_k_core",
        "item_below_k_core",
    }
    assert prepared.report.file("users").dropped.keys() == {"duplicate", "user_without_interactions"}
    assert prepared.report.file("interactions").noted.keys() == {"item_without_metadata"}


@pytest.mark.process
@needs_java
def test_spark_prepares_the_bytes_that_duckdb_does_of_gift_cards(shared_data: Path, tmp_path: Path):
    folder = shared_data / "amazon-giftcards-2018"
    files = {"reviews": str(folder / "Gift_Cards_5.json.gz"), "meta": str(folder / "meta_Gift_Cards.json.gz")}
    prepared = assert_same(load_data_config("amazon", files), tmp_path)
    assert (prepared.num_users, prepared.num_items, prepared.num_interactions) == (456, 1_547, 2_900)


def test_spark_without_java_is_a_clear_error(generated: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ConfigError, match=r"needs Java 17 or newer, .*openjdk-17-jre-headless"):
        prepare(generated, tmp_path / "cache", engine="spark")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="JAVA_HOME"):
        prepare(generated, tmp_path / "cache", engine="spark")


@pytest.mark.process
def test_a_java_that_does_not_start_is_a_clear_error(tmp_path: Path):
    """In a separate process, because this process may have a JVM from other tests."""
    java = tmp_path / "java home" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    program = "from pathlib import Path; from trainer.data.spark_engine import SparkEngine; SparkEngine(Path('.'))"
    environment = {**os.environ, "JAVA_HOME": str(java.parent.parent), "PYTHONPATH": os.pathsep.join(sys.path)}
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert re.search(r"ConfigError: .*it needs Java 17 or newer, and `.*bin/java -version`", finished.stderr)


def test_spark_without_pyspark_is_a_clear_error(generated: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)  # Python marks a module that cannot be imported in this way
    with pytest.raises(ConfigError, match=r"pip install 'tandem-recommender\[spark\]'"):
        prepare(generated, tmp_path / "cache", engine="spark")
