"""Impressions: what was shown to whom, by which arm, model and policy; one for each answer.

The server packs impressions into the stream IMPRESSIONS, feature_sync keeps them as Parquet files (`impression_table`),
and the trainer and the reports read those. An impression is identified by its request id, which the server makes.

They are packed by hand, like all that programs of different releases read: numbers as arrays, texts as one JSON list,
because the server packs an impression for every answer and JSON takes five times as long for numbers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tandem.contract.errors import StreamEntryError

_FORMAT: Final = 2
_FORMAT_WITHOUT_LATENCY: Final = 1
# format, items, first position, candidates, timestamp, latency; then float32 scores, float32 propensities, int32 ranks,
# the texts as JSON
_HEADER: Final = struct.Struct("<BxxxIiiqI")
_HEADERS: Final = {_FORMAT_WITHOUT_LATENCY: struct.Struct("<BxxxIiiq"), _FORMAT: _HEADER}
_MAX_LATENCY_US: Final = (1 << 32) - 1
_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


class ShownArm(NamedTuple):
    """The arm of one experiment that a user was in when the answer was made."""

    experiment: str
    arm: str
    exposed: bool
    """Whether the arm itself answered: False when control stood in for it, which is no exposure."""


# Not frozen: one is made for every answer, and a frozen one takes three times as long to make.
@dataclass(kw_only=True, slots=True)
class Impression:
    """One answer as it was sent; nobody changes it.

    The sequences at the end are parallel, in the order of the answer; `ranks` is empty if nothing was explored.
    """

    request_id: str
    """Names the answer, and identifies the impression: one that is recorded twice counts once."""
    timestamp: int
    """When the answer was sent, microseconds since 1970."""
    user_id: str
    """Empty: an anonymous visitor."""
    scenario: str
    placement: str = ""
    """Where the items were shown: `placement` of the request's context; empty if it names none."""
    context: Mapping[str, str] = field(default_factory=dict)
    """The request's context as a whole."""
    model_version: str
    variant: str
    """Registry alias under which the model was served; empty without a registry."""
    policy_fingerprint: str = ""
    """Fingerprint of the policy file that chose the items; empty without one."""
    answer_source: str
    """How the answer was made: `ranked`, `retrieved`, `cached` or `popular`."""
    degraded_reasons: Sequence[str] = ()
    """Why the answer is degraded; empty if it is not."""
    assignments: Sequence[ShownArm] = ()
    """The experiments that the user was in; empty if in none."""
    first_position: int = 0
    """Position of the first item: 0, or more on a later page."""
    item_ids: Sequence[str]
    sources: Sequence[str]
    """Candidate source of each item."""
    scores: Sequence[float]
    """float32 once packed."""
    propensities: Sequence[float]
    """Probability with which the policy showed each item at its position, given the items before it, 0 to 1; float32
    once packed."""
    num_candidates: int = 0
    """Number of candidates that exploration drew from; 0 if the policy did not explore."""
    ranks: Sequence[int] = ()
    """Place of each item among those candidates before exploration, 0 for the best; empty if the policy did not
    explore. From both follows how likely the policy shows an item at a position whatever it shows before
    (`exploration.position_probabilities`), which the judgement of another policy needs."""
    latency_us: int | None = None
    """Microseconds from the admission of the request until its answer was made, without network and serialisation; 1 to
    2^32 - 1 once packed. None: not known."""

    def to_bytes(self) -> bytes:
        """Packs the impression. Raises ValueError if the parallel sequences differ in length."""
        num_items = len(self.item_ids)
        if not len(self.sources) == len(self.scores) == len(self.propensities) == num_items:
            raise ValueError(
                f"{num_items} items have {len(self.sources)} sources, {len(self.scores)} scores and "
                f"{len(self.propensities)} propensities"
            )
        num_ranks = num_items if self.num_candidates else 0
        if len(self.ranks) != num_ranks:
            raise ValueError(f"{num_items} items from {self.num_candidates} candidates have {len(self.ranks)} ranks")
        latency_us = 0 if self.latency_us is None else min(max(self.latency_us, 1), _MAX_LATENCY_US)
        # In the order of _TEXTS.
        texts = (
            *(self.request_id, self.user_id, self.scenario, self.placement, dict(self.context)),
            *(self.model_version, self.variant, self.policy_fingerprint, self.answer_source),
            *(tuple(self.degraded_reasons), tuple(self.assignments), tuple(self.item_ids), tuple(self.sources)),
        )
        return b"".join(
            (
                _HEADER.pack(_FORMAT, num_items, self.first_position, self.num_candidates, self.timestamp, latency_us),
                struct.pack(f"<{2 * num_items}f{num_ranks}i", *self.scores, *self.propensities, *self.ranks),
                _ENCODE(texts).encode(),
            )
        )

    @classmethod
    def from_bytes(cls, entry: bytes) -> Impression:
        """Reads a packed impression. Raises StreamEntryError."""
        header = _HEADERS.get(entry[0]) if entry else None
        if header is None or len(entry) < header.size:
            found = f"format {entry[0]}" if entry else "an empty entry"
            raise StreamEntryError(f"impression: {found} is not format {_FORMAT_WITHOUT_LATENCY} or {_FORMAT}")
        _, num_items, first_position, num_candidates, timestamp, *latency_us = header.unpack_from(entry)
        num_ranks = num_items if num_candidates else 0
        ends_at = header.size + 8 * num_items + 4 * num_ranks
        if len(entry) < ends_at:
            raise StreamEntryError(f"impression: {len(entry)} bytes, {num_items} items take {ends_at}")
        numbers = struct.unpack_from(f"<{2 * num_items}f{num_ranks}i", entry, header.size)
        try:
            texts = json.loads(entry[ends_at:])
        except ValueError as error:
            raise StreamEntryError(f"impression: its texts are no JSON: {error}") from error
        impression = cls(
            timestamp=timestamp,
            first_position=first_position,
            scores=numbers[:num_items],
            propensities=numbers[num_items : 2 * num_items],
            num_candidates=num_candidates,
            ranks=numbers[2 * num_items :],
            latency_us=(latency_us or [0])[0] or None,
            **_parsed(texts),
        )
        if not len(impression.item_ids) == len(impression.sources) == num_items:
            raise StreamEntryError(f"impression: {num_items} items, its texts name another number")
        return impression

    def to_dict(self) -> dict[str, object]:
        """The impression for JSON: the fields by name, and each item with its position, source, score and propensity;
        the candidates and ranks only if the policy explored, the latency only if it is known."""
        columns = zip(self.item_ids, self.sources, self.scores, self.propensities, strict=True)
        timed = {} if self.latency_us is None else {"latency_us": self.latency_us}
        explored = {"num_candidates": self.num_candidates, "ranks": list(self.ranks)} if self.num_candidates else {}
        return {
            "request_id": self.request_id,
            "timestamp": self.timestamp,
            "user_id": self.user_id,
            "scenario": self.scenario,
            "placement": self.placement,
            "context": dict(self.context),
            "model_version": self.model_version,
            "variant": self.variant,
            "policy_fingerprint": self.policy_fingerprint,
            "answer_source": self.answer_source,
            "degraded_reasons": list(self.degraded_reasons),
            "assignments": [arm._asdict() for arm in self.assignments],
            **timed,
            **explored,
            "items": [
                {"item_id": item_id, "position": position, "source": source, "score": score, "propensity": propensity}
                for position, (item_id, source, score, propensity) in enumerate(columns, start=self.first_position)
            ],
        }


_TEXTS: Final = (
    *("request_id", "user_id", "scenario", "placement", "context", "model_version", "variant"),
    *("policy_fingerprint", "answer_source", "degraded_reasons", "assignments", "item_ids", "sources"),
)
"""The fields that are packed as JSON, in their order."""


def _parsed(texts: list[Any]) -> dict[str, Any]:
    """The fields that are packed as JSON, by name. Raises StreamEntryError."""
    try:
        fields = dict(zip(_TEXTS, texts, strict=True))
        lists = {name: tuple(map(_text, fields.pop(name))) for name in ("degraded_reasons", "item_ids", "sources")}
        context = {_text(key): _text(value) for key, value in fields.pop("context").items()}
        arms = tuple(
            ShownArm(_text(name), _text(arm), _flag(exposed)) for name, arm, exposed in fields.pop("assignments")
        )
        ids = {name: _text(value) for name, value in fields.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise StreamEntryError(f"impression: a field has the wrong type: {error}") from error
    return {**ids, **lists, "context": context, "assignments": arms}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is no flag")
    return value
