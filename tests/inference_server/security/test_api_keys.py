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
from inference_server.security.api_keys import ApiKeys, key_line
from inference_server.security.files import Security
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
    assert (keys.check(SHOP), keys.check(MAIL)) == ("shop", "mail")
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
    assert keys.check(SHOP) == keys.check(MAIL) == "shop"


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
    assert keys.check(MAIL) == "mail"
    with pytest.raises(Unauthenticated):
        keys.check(SHOP)


async def test_bad_and_removed_files_are_refused_counted_and_the_old_keys_go_on(path: Path) -> None:
    security, statistics = Security.load(tls=None, api_keys_file=path), Statistics()
    keys = security.api_keys
    assert keys is not None

    def change(content: str) -> None:
        path.write_text(content)

    with structlog.testing.capture_logs() as logs:
        watching = asyncio.create_task(security.keep_current(statistics, poll_seconds=0.01))
        for number, break_it in enumerate((lambda: change("nonsense"), path.unlink), start=1):
            break_it()
            await wait_until(lambda n=number: statistics.files_refused["api_keys"] == n, "the file is refused")
            assert keys.check(SHOP) == "shop"
        change(key_line("mail", MAIL))
        await wait_until(lambda: statistics.files_reloaded["api_keys"] == 1, "the good file is taken")
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert keys.check(MAIL) == "mail"
    assert [line["event"] for line in logs] == ["files_refused", "files_refused", "files_reloaded"], "one line a change"
    assert "line 1" in logs[0]["reason"]


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
    assert ApiKeys.load(tmp_path / "keys").check(SHOP) == "shop"


@pytest.mark.process
def test_hash_key_generates_a_key_and_shows_it_once(tmp_path: Path) -> None:
    result = hash_key("shop", "--generate")
    assert result.returncode == 0
    (tmp_path / "keys").write_text(result.stdout)
    key = result.stderr.removeprefix("key: ").strip()
    assert len(key) >= 43
    assert key not in result.stdout
    assert ApiKeys.load(tmp_path / "keys").check(key) == "shop"


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "key"), [("shop", "short"), ("shop", ""), ("the shop", SHOP), ("shop", f" {SHOP}"), ("shop", "ключ" * 9)]
)
def test_hash_key_refuses_what_cannot_be_used(name: str, key: str) -> None:
    result = hash_key(name, key=key)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
