"""The registered sources and rankers, which are the names that a policy may use. Policies themselves define none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, create_model

from inference_server.policy.policy import StrictConfig

MAX_CANDIDATES: Final = 1000
AUTO: Final = "auto"
NO_RANKER: Final = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceChoice:
    """A source whose number of candidates a policy may set."""

    name: str
    num_candidates: int
    """The default number of candidates."""
    min_candidates: int = 0
    """0: a policy may turn the source off."""


class Choices:
    """The registered names, and the model that validates a policy's keys for them."""

    def __init__(self, sources: Sequence[SourceChoice], rankers: Sequence[str]) -> None:
        """`sources` in the order of merging, `rankers` in the order in which `auto` prefers them."""
        counts: dict[str, Any] = {
            source.name: (Annotated[int, Field(ge=source.min_candidates, le=MAX_CANDIDATES)], source.num_candidates)
            for source in sources
        }
        sources_model = create_model("Sources", __base__=StrictConfig, **counts)
        ranker_names = Literal[(AUTO, *rankers, NO_RANKER)]  # type: ignore[valid-type]
        self.model: type[BaseModel] = create_model(
            "Choices", __base__=StrictConfig, sources=(sources_model, sources_model()), ranker=(ranker_names, AUTO)
        )
        """Fields `sources` and `ranker`, with the registered defaults."""

    def split(self, policy: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """(the keys of a policy that `model` validates, its other keys)."""
        named = {key: value for key, value in policy.items() if key in self.model.model_fields}
        return named, {key: value for key, value in policy.items() if key not in named}
