"""Spark on this machine, used through Ibis, with `TANDEM_ENGINE=spark`. Needs the extra `spark` and Java 17 or newer.

This is the only module that imports pyspark, and only if Spark is selected.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import ibis

from trainer.core.errors import ConfigError, DataError

_LOG_SETTINGS: Final = """rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = spark %p %c{1}: %m%n
"""


class SparkEngine:
    """A Spark session with a work folder. A context manager. Implements `engine.Engine`.

    Raises ConfigError when pyspark or Java is absent.
    """

    def __init__(self, work_dir: Path) -> None:
        self.work_dir = work_dir.resolve()  # the JVM's settings need an absolute path
        self._session = _session(self.work_dir)
        self._connection = ibis.pyspark.connect(self._session)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.stop()

    def read(self, path: Path) -> Any:
        """A Parquet file, or a folder of them, as an Ibis table."""
        # Spark takes these characters for a pattern.
        return self._connection.read_parquet(re.sub(r"[*?{}\[\]\\]", r"\\\g<0>", str(path)))

    def rows(self, expression: Any) -> list[dict[str, Any]]:
        """The rows of a small Ibis table. Raises DataError when its source cannot be read."""
        from pyspark.errors import PySparkException

        try:
            return [row.asDict() for row in self._session.sql(self._connection.compile(expression)).collect()]
        except PySparkException as error:
            raise DataError(_first_line(error)) from error

    def write(self, expression: Any, path: Path) -> Any:
        """Writes an Ibis table into a folder of Parquet parts, in order. Raises DataError."""
        from pyspark.errors import PySparkException

        try:
            self._connection.to_parquet(expression, path)
        except PySparkException as error:
            raise DataError(_first_line(error)) from error
        return self.read(path)


def _session(work_dir: Path) -> Any:
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ConfigError(
            "TANDEM_ENGINE=spark needs pyspark, which is not installed: pip install 'tandem-recommender[spark]'"
        ) from error
    java_home = os.environ.get("JAVA_HOME")
    java = "java" if java_home is None else str(Path(java_home, "bin", "java"))
    if shutil.which(java) is None:
        raise ConfigError(
            "TANDEM_ENGINE=spark needs Java 17 or newer, but there is no `java`: install it (Debian: "
            "openjdk-17-jre-headless), or set JAVA_HOME to its folder"
        )
    # This logger would write every raised error again, with the JVM's stack trace.
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    log_settings = work_dir / "log4j2.properties"
    log_settings.write_text(_LOG_SETTINGS)
    options = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",  # the host name of the machine may not resolve
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={log_settings.as_uri()}",
        "spark.log.level": "ERROR",
        "spark.local.dir": str(work_dir / "spill"),
        "spark.sql.warehouse.dir": str(work_dir / "warehouse"),
        "spark.sql.shuffle.partitions": "1",  # more partitions gain nothing on one core
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    builder = SparkSession.builder.master("local[1]").appName("tandem")
    for key, value in options.items():
        builder = builder.config(key, value)
    try:
        return builder.getOrCreate()
    except PySparkException as error:
        raise ConfigError(
            f"TANDEM_ENGINE=spark: Spark does not start; it needs Java 17 or newer, and `{java} -version` prints the "
            f"version: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]
