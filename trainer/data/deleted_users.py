"""Leaves deleted users out of a data set: what they did up to their deletion, and their features, which have no time.

The register (`tandem.contract.deleted_users`) tells no ids, so the ids of the data are hashed and looked up.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import ibis
import numpy as np

from tandem.contract import names
from tandem.contract.deleted_users import DeletedUsers, user_sha256
from trainer.core.errors import DataError
from trainer.data import report as kinds
from trainer.data.clean import INTERACTIONS_FILE, USERS_FILE, StagedData
from trainer.data.duckdb_engine import DuckDBEngine, duckdb_function, quoted
from trainer.data.engine import count_rows
from trainer.data.raw import DEFECT
from trainer.data.report import BadLine, FileReport
from trainer.data.stage import Staged, occurring
from trainer.dataset.parquet import read_table

_DIGEST: Final = "user_sha256"
_DELETED_AT: Final = "deleted_at"
_WORD: Final = re.compile(r"[^\s,;|\t\"']+")
_sha256 = duckdb_function("sha256", ("string",), "string")


def without_deleted_users(reader: DuckDBEngine, staged: StagedData, deleted: DeletedUsers) -> StagedData:
    """The staged files, in which rows of deleted users count as dropped."""
    if not deleted:
        return staged
    users = ", ".join(f"({quoted(digest)}, {moment}::BIGINT)" for digest, moment in deleted.times.items())
    name = reader.next_name("deleted_users")
    register = reader.view(name, f"SELECT * FROM (VALUES {users}) AS register({_DIGEST}, {_DELETED_AT})")
    files = {"interactions": staged.interactions, "events": staged.events, "users": staged.users}
    changed: dict[str, Any] = {
        role: _without(reader, file, register, deleted, has_times=role != "users")
        for role, file in files.items()
        if file is not None
    }
    return replace(staged, **changed)


def refuse_deleted_users(directory: Path, deleted: DeletedUsers) -> None:
    """Raises DataError if a folder of prepared data holds what a user did before the deletion."""
    if not deleted:
        return
    users = deleted.among(read_table(directory / USERS_FILE, columns=[names.USER_ID]).column(names.USER_ID).to_pylist())
    if not users:
        return
    rows = read_table(directory / INTERACTIONS_FILE, columns=[names.USER_ID, names.TIMESTAMP])
    encoded = rows.column(names.USER_ID).combine_chunks().dictionary_encode()
    moments = np.array([users.get(user_id, -1) for user_id in encoded.dictionary.to_pylist()], dtype=np.int64)
    is_left_out = rows.column(names.TIMESTAMP).to_numpy() <= moments[np.asarray(encoded.indices)]
    num_users = len(np.unique(np.asarray(encoded.indices)[is_left_out]))
    if num_users:
        raise DataError(
            f"{directory}: holds {num_users} users who were deleted after it was prepared; prepare the data again: "
            "python -m trainer prepare"
        )


def _without(reader: DuckDBEngine, file: Staged, register: Any, deleted: DeletedUsers, *, has_times: bool) -> Staged:
    rows = reader.read(file.path)
    columns = rows.columns
    joined = rows.left_join(register, _sha256(rows[names.USER_ID]) == register[_DIGEST])
    is_left_out = joined[_DELETED_AT].notnull()
    if has_times:
        is_left_out &= joined[names.TIMESTAMP] <= joined[_DELETED_AT]
    defect = ibis.cases((joined[DEFECT].isnull() & is_left_out, kinds.DELETED_USER), else_=joined[DEFECT])
    path = file.path.with_name(f"{file.path.stem}_without_deleted.parquet")
    written = reader.write(joined.mutate(defect.name(DEFECT)).select(*columns), path)
    num_dropped = count_rows(reader, written.filter(written[DEFECT] == kinds.DELETED_USER))
    report = replace(
        _without_texts(file.report, deleted),
        rows_kept=file.report.rows_kept - num_dropped,
        dropped={**file.report.dropped, **occurring({kinds.DELETED_USER: num_dropped})},
    )
    return replace(file, path=path, num_good=file.num_good - num_dropped, report=report)


def _without_texts(report: FileReport, deleted: DeletedUsers) -> FileReport:
    """The report, in which no bad line that names a deleted user has a text."""

    def shown(line: BadLine) -> BadLine:
        is_named = any(user_sha256(word) in deleted.times for word in _WORD.findall(line.text))
        return replace(line, text="(of a deleted user)") if is_named else line

    return replace(report, bad_lines=tuple(map(shown, report.bad_lines)))
