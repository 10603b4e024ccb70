"""API keys: the file, the check, the reload, and the command that makes a line."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from inference_server.core.errors import SettingsError, Unauthenticated
from inference_server.security.api_keys import ApiKeys, CallerLimits, key_line
from inference_server.security.callers import ALL_RIGHTS, Caller, Right
from inference_server.security.files import Security
from inference_server.security.reloading import keep_current
from inference_server.telemetry.statistics import Statistics
from tests.support.serving import wait_until

SHOP, MAIL = "the-key-of-the-shop", "the-key-of-the-mailer"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text(f"# callers\n\n{key_line('shop', SHOP)}\n  {key_line('mail', MAIL)}  \n")
    return file


def test_a_known_key_gives_the_callers_name(path: Path) -> None:
    keys = ApiKeys.load(path)
    assert (keys.check(SHOP).name, keys.check(MAIL).name) == ("shop", "mail")
    assert keys.num_refused == 0


WRONG = [None, "", " ", SHOP[:-1], SHOP + " ", SHOP.upper(), "shop", hashlib.sha256(SHOP.encode()).hexdigest()]


@pytest.mark.parametrize("presented", [*WRONG, "\udcff", "ключ", "x" * 100_000])
def test_everything_else_is_refused_in_the_same_words(path: Path, presented: str | None) -> None:
    keys = ApiKeys.load(path)
    with pytest.raises(Unauthenticated, match=r"^missing or wrong credentials$"):
        keys.check(presented)
    assert keys.num_refused == 1


@pytest.mark.parametrize("presented", [SHOP, MAIL, "wrong", None])
def test_every_key_is_compared_whatever_was_presented(
    path: Path, presented: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ApiKeys.load(path)
    compared = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return original(a, b)

    original = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    with contextlib.suppress(Unauthenticated):
        keys.check(presented)
    digest = hashlib.sha256((presented or "").encode()).digest()
    assert compared == [(digest, hashlib.sha256(key.encode()).digest()) for key in (SHOP, MAIL)]


def test_the_digest_of_nothing_lets_nobody_in(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"nobody:{hashlib.sha256(b'').hexdigest()}\n")
    for presented in (None, ""):
        with pytest.raises(Unauthenticated):
            ApiKeys.load(file).check(presented)


def test_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# none yet\n")
    with pytest.raises(Unauthenticated):
        ApiKeys.load(file).check(SHOP)


def test_a_name_may_have_an_old_key_and_a_new_one(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{key_line('shop', SHOP)}\n{key_line('shop', MAIL)}\n")
    keys = ApiKeys.load(file)
    assert keys.check(SHOP) == keys.check(MAIL) == Caller(name="shop")


BAD_LINES = [
    "shop",
    f"shop:{SHOP}",
    f"shop:{'0' * 63}",
    f"shop:{'A' * 64}",
    f"shop:{'0' * 64} # comment",
    f":{'0' * 64}",
    f"the shop:{'0' * 64}",
    key_line("again", SHOP),
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_named_by_its_number_and_not_repeated(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(SettingsError, match=rf"^TANDEM_API_KEYS_FILE: {path}: line 5 ") as caught:
        ApiKeys.load(path)
    assert line not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_file_that_is_no_text_are_settings_errors(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^TANDEM_API_KEYS_FILE: .*/none: No such file"):
        ApiKeys.load(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"^TANDEM_API_KEYS_FILE: .*/binary: not a text file"):
        ApiKeys.load(tmp_path / "binary")


def test_a_changed_file_is_taken_once(path: Path) -> None:
    keys = ApiKeys.load(path)
    assert not keys.reload_if_changed()
    path.write_text(key_line("mail", MAIL))
    assert keys.reload_if_changed()
    assert not keys.reload_if_changed()
    assert keys.check(MAIL).name == "mail"
    with pytest.raises(Unauthenticated):
        keys.check(SHOP)


def write(path: Path, content: str) -> None:
    path.write_text(content)


def spoil(path: Path, state: str) -> None:
    content = path.read_text()
    path.unlink()
    if state == "UTF-16":
        path.write_text(content, encoding="utf-16")
    elif state == "a folder":
        path.mkdir()


def mend(path: Path, content: str) -> None:
    if path.is_dir():
        path.rmdir()
    path.write_text(content)


async def test_a_key_that_the_file_does_not_name_is_not_valid_whatever_else_the_file_holds(path: Path) -> None:
    security, statistics = Security.load(tls=None, api_keys_file=path), Statistics()
    keys = security.api_keys
    assert keys is not None
    with structlog.testing.capture_logs() as logs:
        watching = asyncio.create_task(security.keep_current(statistics, poll_seconds=0.01))
        write(path, f"{key_line('mail', MAIL)}\nbad {SHOP}\n{key_line('again', MAIL)}\n")
        await wait_until(lambda: statistics.files_refused["api_keys"] == 1, "the lines are refused")
        assert keys.check(MAIL).name == "mail"
        with pytest.raises(Unauthenticated):
            keys.check(SHOP)
        write(path, key_line("mail", MAIL))
        await wait_until(lambda: statistics.files_reloaded["api_keys"] == 1, "the good file is taken")
        write(path, "nonsense")
        await wait_until(lambda: statistics.files_refused["api_keys"] == 2, "the file is refused")
        with pytest.raises(Unauthenticated):
            keys.check(MAIL)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert [line["event"] for line in logs] == ["files_refused", "files_reloaded", "files_refused"], "one line a change"
    assert logs[0]["reason"] == (
        f"TANDEM_API_KEYS_FILE: {path}: line 2 is not name:sha256[:rights] [users=PREFIX] [concurrent=N] [rate=N], "
        "with the digest in lower-case hexadecimal digits; line 3 repeats the key of mail; "
        "the keys of the other lines are valid"
    )


@pytest.mark.parametrize("state", ["removed", "UTF-16", "a folder"])
async def test_the_keys_of_a_file_that_cannot_be_read_end_after_a_grace(path: Path, state: str) -> None:
    keys, statistics = ApiKeys.load(path, grace_seconds=0.3), Statistics()
    watching = asyncio.create_task(keep_current([keys], statistics, poll_seconds=0.01))
    spoil(path, state)
    await wait_until(lambda: statistics.files_refused["api_keys"] == 1, "the file is refused")
    assert keys.check(SHOP).name == "shop"
    await wait_until(lambda: statistics.files_refused["api_keys"] == 2, "the grace ends, which is said once")
    with pytest.raises(Unauthenticated):
        keys.check(SHOP)
    mend(path, key_line("shop", SHOP))
    await wait_until(lambda: statistics.files_reloaded["api_keys"] == 1, "the good file is taken")
    assert keys.check(SHOP).name == "shop"
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


def test_a_worker_that_starts_again_takes_the_lines_that_can_be_read(path: Path, tmp_path: Path) -> None:
    with path.open("a") as file:
        file.write("half a li")
    keys = ApiKeys.load(path, strict=False)
    assert keys.check(SHOP).name == "shop"
    missing = ApiKeys.load(tmp_path / "none", strict=False)
    with pytest.raises(Unauthenticated):
        missing.check(SHOP)


def test_a_line_gives_rights_users_and_limits(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    line = key_line("shop", SHOP, rights=[Right.READ, Right.RECORD], user_prefix="a:b-", max_concurrent=3, max_rate=2.5)
    assert line.split(" ", 1) == [f"{key_line('shop', SHOP)}:read,record", "users=a:b- concurrent=3 rate=2.5"]
    file.write_text(f"{line}\n{key_line('mail', MAIL)}\n")
    keys = ApiKeys.load(file, limits=CallerLimits(max_concurrent=7, max_rate=9))
    assert keys.check(SHOP) == Caller(
        name="shop",
        rights=frozenset({Right.READ, Right.RECORD}),
        user_prefix="a:b-",
        max_concurrent=3,
        max_rate=2.5,
    )
    assert keys.check(MAIL) == Caller(name="mail", rights=ALL_RIGHTS, max_concurrent=7, max_rate=9)


@pytest.mark.parametrize(
    "rest",
    [
        *(
            ":",
            ":all",
            ":read,",
            ":READ",
            ":read:record",
            " read",
            " users=",
            " users",
            " rate=0",
            " rate=-1",
            " rate=x",
        ),
        *(
            " concurrent=1.5",
            " concurrent=1 concurrent=2",
            " tenant=a",
            " rate=nan",
            " rate=1e9",
            " concurrent=9999999999",
        ),
    ],
)
def test_a_line_with_anything_else_is_refused(tmp_path: Path, rest: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{key_line('shop', SHOP)}{rest}\n")
    with pytest.raises(SettingsError, match=r"line 1 (is not name|names a right|has a )") as caught:
        ApiKeys.load(file)
    assert "\n" not in str(caught.value)


def hash_key(*arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "inference_server", "hash-key", *arguments],
        input=key,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.process
def test_hash_key_prints_the_line_of_a_key(tmp_path: Path) -> None:
    result = hash_key("shop", key=f"{SHOP}\n")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{key_line('shop', SHOP)}\n", "")
    (tmp_path / "keys").write_text(result.stdout)
    assert ApiKeys.load(tmp_path / "keys").check(SHOP).name == "shop"


@pytest.mark.process
def test_hash_key_generates_a_key_and_shows_it_once(tmp_path: Path) -> None:
    result = hash_key("shop", "--generate")
    assert result.returncode == 0
    (tmp_path / "keys").write_text(result.stdout)
    key = result.stderr.removeprefix("key: ").strip()
    assert len(key) >= 43
    assert key not in result.stdout
    assert ApiKeys.load(tmp_path / "keys").check(key).name == "shop"


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "key"), [("shop", "short"), ("shop", ""), ("the shop", SHOP), ("shop", f" {SHOP}"), ("shop", "ключ" * 9)]
)
def test_hash_key_refuses_what_cannot_be_used(name: str, key: str) -> None:
    result = hash_key(name, key=key)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
