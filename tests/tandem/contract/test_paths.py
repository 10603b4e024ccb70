from __future__ import annotations

from pathlib import Path

import pytest

from tandem.contract.errors import BundleIncompatible
from tandem.contract.paths import path_within

NAMES_OF_OTHERS = [
    *("", ".", "..", "../victim", "../../victim", "/etc", "a/b", "a\\b", "C:\\victim", "C:victim", "a\0b"),
    *(".staging-1", ".download-x", "-rf", "~", "a b", "a\n", "ä", "a" * 129, "%2e%2e", "$HOME"),
]


@pytest.mark.parametrize("name", NAMES_OF_OTHERS)
def test_a_name_that_is_not_plain_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleIncompatible, match="is not a plain name"):
        path_within(tmp_path, name, "version")


@pytest.mark.parametrize("name", ["1", "20261130-060626-772-595395ff", "user_tower.onnx", "a" * 128, "a..b"])
def test_a_plain_name_is_an_entry_of_its_folder(tmp_path: Path, name: str) -> None:
    assert path_within(tmp_path, name, "version").parent == tmp_path


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "1").symlink_to("/")
    with pytest.raises(BundleIncompatible, match="symbolic link"):
        path_within(tmp_path, "1", "version")
