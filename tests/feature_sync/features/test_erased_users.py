"""A user who is deleted leaves the sources and Feast's online store, and materialising brings nobody back."""

from __future__ import annotations

import json

import pytest

from feature_sync.personal_data.feature_places import FeatureKeys, FeatureSources
from feature_sync.personal_data.place import Subject
from feature_sync.store.connection import StoreConnection
from tandem.contract import names
from tandem.contract.store import user_state_key
from tests.feature_sync.features.conftest import NOW, World

pytestmark = pytest.mark.process


def test_a_user_leaves_and_does_not_come_back(settled: World) -> None:
    settled.click("zoe", "item-1")
    settled.materialise()
    zoe, ann = Subject("zoe", NOW), Subject("ann", NOW)
    with StoreConnection(settled.settings.store_url) as store:
        sources, keys = FeatureSources(settled.settings.data_dir), FeatureKeys(settled.settings, store)
        of_ann = len(sources.find(ann))
        # A profile and counts, each in the source and among the observed rows.
        assert {row["file"] for row in sources.find(zoe)} == {
            f"{folder}{view}.parquet"
            for folder in ("", "observed/")
            for view in (names.USER_PROFILE_VIEW, names.USER_COUNTS_VIEW)
        }
        (online,) = keys.find(zoe)
        assert online[names.USER_COUNTS_VIEW]["num_click"] == 1
        json.dumps([*sources.find(zoe), online])

        settled.client.delete(user_state_key("zoe"))
        assert (sources.erase(zoe), keys.erase(zoe)) == (4, 1)
        settled.materialise()
        assert (sources.find(zoe), keys.find(zoe)) == ([], [])
        assert (sources.erase(zoe), keys.erase(zoe)) == (0, 0)
        assert len(sources.find(ann)) == of_ann
        assert len(keys.find(ann)) == 1
    settled.assert_equal()
