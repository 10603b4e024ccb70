"""The reference page of metrics agrees with the declarations, and other pages name only declared metrics."""

from __future__ import annotations

import re

from deploy.packaging.metrics_page import PAGE, all_metrics, metrics_page
from tests.docs.test_docs import PAGES, ROOT

METRICS = [metric for metrics in all_metrics().values() for metric in metrics]


def test_the_metrics_page_is_what_the_declarations_say() -> None:
    assert (ROOT / PAGE).read_text() == metrics_page()


def test_no_two_metrics_have_one_name() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) > 50
    assert sorted(set(names)) == sorted(names)


def test_pages_name_metrics_that_are_declared() -> None:
    declared = {metric.exposed_name for metric in METRICS}
    # The changelog also names former metrics.
    pages = [page for page in PAGES if page.name != "CHANGELOG.md" and "contributing" not in page.parts]
    named = {name for page in pages for name in re.findall(r"`(tandem_[a-z_]+)(?:\{[^`]*\})?`", page.read_text())}
    assert sorted(named - declared) == []
