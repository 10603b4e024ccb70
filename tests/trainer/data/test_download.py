"""Downloads from a real local server that breaks connections, changes its file, or refuses."""

import hashlib
import random
import socket
from functools import partial
from pathlib import Path

import pytest

from tests.trainer.data.serving_files import ServedFile, serve
from trainer.core.errors import DownloadError
from trainer.data import download as downloading

pytestmark = pytest.mark.process

CONTENT = random.Random(1).randbytes(3_000_000)
download = partial(downloading.download, retry_wait_seconds=0.01)


def test_a_whole_file(tmp_path: Path, capfd):
    with serve(ServedFile(CONTENT)) as served:
        path = download(served.url, tmp_path, sha256=hashlib.sha256(CONTENT).hexdigest())
        assert path.read_bytes() == CONTENT
        assert path.name.endswith("-reviews one.json.gz")
        assert "3.00M/3.00M" in capfd.readouterr().err, "the progress bar"
        assert list(tmp_path.iterdir()) == [path], "no part is left"
        assert download(served.url, tmp_path) == path
    assert len(served.requests) == 1, "a second call needs no network"


@pytest.mark.parametrize(
    "version", [{"etag": '"v1"'}, {"etag": "", "last_modified": "Mon, 02 Jan 2023 00:00:00 GMT"}], ids=["etag", "date"]
)
def test_a_cut_connection_is_resumed(tmp_path: Path, version):
    with serve(ServedFile(CONTENT, cut_after=[1_000_000, 500_000], **version)) as served:
        assert download(served.url, tmp_path).read_bytes() == CONTENT
    assert [request.get("Range") for request in served.requests] == [None, "bytes=1000000-", "bytes=1500000-"]
    assert served.sent_bytes == len(CONTENT), "no byte was sent twice"


def test_a_later_call_resumes_an_unfinished_download(tmp_path: Path):
    with serve(ServedFile(CONTENT, cut_after=[1_000_000, 0, 0, 0, 0])) as served:
        with pytest.raises(DownloadError, match="given up after 5 attempts"):
            download(served.url, tmp_path)
        assert download(served.url, tmp_path).read_bytes() == CONTENT
    assert served.requests[-1]["Range"] == "bytes=1000000-"
    assert served.sent_bytes == len(CONTENT)


def test_a_server_without_ranges_starts_again(tmp_path: Path):
    with serve(ServedFile(CONTENT, ranges=False, cut_after=[1_000_000])) as served:
        assert download(served.url, tmp_path).read_bytes() == CONTENT
    assert served.sent_bytes == len(CONTENT) + 1_000_000


@pytest.mark.parametrize("etag", ["", 'W/"v1"'], ids=["none", "weak"])
def test_a_file_without_a_strong_version_starts_again(tmp_path: Path, etag: str):
    with serve(ServedFile(CONTENT, etag=etag, cut_after=[1_000_000])) as served:
        assert download(served.url, tmp_path).read_bytes() == CONTENT
    assert "Range" not in served.requests[1]


@pytest.mark.parametrize("size", [3_000_000, 2_000_000, 500_000])
def test_a_file_that_changed_between_attempts_is_not_pieced_together(tmp_path: Path, size: int):
    other = random.Random(2).randbytes(size)
    with serve(ServedFile(CONTENT, cut_after=[1_000_000], change_to=other)) as served:
        assert download(served.url, tmp_path).read_bytes() == other


def test_a_part_longer_than_the_file_starts_again(tmp_path: Path):
    with serve(ServedFile(CONTENT, cut_after=[2_000_000, 0, 0, 0, 0])) as served:
        with pytest.raises(DownloadError):
            download(served.url, tmp_path)
        served.content = CONTENT[:1_000_000]  # truncated under the same ETag
        assert download(served.url, tmp_path).read_bytes() == CONTENT[:1_000_000]


def test_a_wrong_checksum(tmp_path: Path):
    with serve(ServedFile(CONTENT)) as served:
        with pytest.raises(DownloadError, match=f"has SHA-256 {hashlib.sha256(CONTENT).hexdigest()}"):
            download(served.url, tmp_path, sha256="0" * 64)
        assert not list(tmp_path.iterdir()), "a damaged file is not kept"
    assert len(served.requests) == 1


def test_a_cached_file_with_another_checksum_is_fetched_again(tmp_path: Path):
    with serve(ServedFile(b"old")) as served:
        path = download(served.url, tmp_path)
        served.content = b"new"
        assert download(served.url, tmp_path) == path
        assert path.read_bytes() == b"old"
        assert download(served.url, tmp_path, sha256=hashlib.sha256(b"new").hexdigest()).read_bytes() == b"new"


def test_not_found_is_not_retried(tmp_path: Path):
    with serve(ServedFile(CONTENT, statuses=[404])) as served, pytest.raises(DownloadError, match="HTTP 404 Not Found"):
        download(served.url, tmp_path)
    assert len(served.requests) == 1


def test_a_busy_server_is_retried(tmp_path: Path):
    with serve(ServedFile(CONTENT, statuses=[503, 429])) as served:
        assert download(served.url, tmp_path).read_bytes() == CONTENT


def test_no_server(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/x"
        with pytest.raises(DownloadError, match="given up after 5 attempts"):
            download(url, tmp_path)
