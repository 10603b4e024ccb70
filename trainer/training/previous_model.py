"""State of a trained model for the next training: weights, their rows, and the events that they have learned from.

An artifact of the run, not a part of the bundle: servers do not need it.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tandem.contract import names
from tandem.contract.deleted_users import DeletedUsers
from tandem.contract.features import FeatureSchema, encode_index
from tandem.contract.vocabulary import Vocabulary
from trainer.config.train_config import TextConfig, TowersConfig, TrainConfig
from trainer.core.errors import DataError
from trainer.core.written_files import written_file
from trainer.dataset.dataset import Catalogue
from trainer.dataset.parquet import read_table, write_columns
from trainer.features.encoded import Encoded

_WEIGHTS_FILE: Final = "weights.pt"
_ITEMS_FILE: Final = "items.parquet"
_USERS_FILE: Final = "users.parquet"
_ABOUT_FILE: Final = "about.json"
_NUM_LEARNED: Final = "num_learned_events"
_USER_IDS: Final = "user_tower.user_embedding.weight"
_NOBODY: Final = "deleted user of row "


@dataclass(frozen=True, kw_only=True)
class PreviousModel:
    """A model that training can continue."""

    towers: TowersConfig
    text: TextConfig
    schema: FeatureSchema
    catalogue: Catalogue
    """Items in the order of the model's rows."""
    user_ids: Sequence[str]
    """Users in the order of the model's rows."""
    num_learned_events: npt.NDArray[np.int64]
    """(users,) int64, the number of each user's first events that the model has learned from."""
    weights: Mapping[str, Tensor]
    """State of the `TwoTowerModel`, on the CPU."""

    @classmethod
    def of(
        cls, model: torch.nn.Module, encoded: Encoded, config: TrainConfig, num_learned_events: npt.NDArray[np.int64]
    ) -> PreviousModel:
        """A model that was trained on the first `num_learned_events[u]` events of each user of `encoded`."""
        return cls(
            towers=config.towers,
            text=config.text,
            schema=encoded.schema,
            catalogue=encoded.dataset.catalogue,
            user_ids=encoded.dataset.user_ids,
            num_learned_events=num_learned_events,
            weights={name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()},
        )

    def forgetting(self, deleted: DeletedUsers) -> PreviousModel:
        """The model without deleted users: their rows stay, because no row may move, but are nobody's, and are zero."""
        rows = [row for row, user_id in enumerate(self.user_ids) if deleted.deleted_at(user_id) is not None]
        if not rows:
            return self
        user_ids, num_learned_events = list(self.user_ids), self.num_learned_events.copy()
        num_learned_events[rows] = 0
        for row in rows:
            user_ids[row] = f"{_NOBODY}{row}"
        weights = dict(self.weights)
        if _USER_IDS in weights:
            weights[_USER_IDS] = weights[_USER_IDS].clone()
            weights[_USER_IDS][encode_index(np.array(rows))] = 0
        return replace(self, user_ids=user_ids, num_learned_events=num_learned_events, weights=weights)

    def save(self, directory: Path) -> None:
        """Writes all fields into a folder."""
        directory.mkdir(parents=True, exist_ok=True)
        with written_file(directory / _WEIGHTS_FILE, RuntimeError):
            torch.save(dict(self.weights), directory / _WEIGHTS_FILE)
        catalogue = self.catalogue
        write_columns(
            {
                names.ITEM_ID: catalogue.item_ids,
                names.TITLE: catalogue.titles,
                names.DESCRIPTION: catalogue.descriptions,
                names.CATEGORIES: [json.dumps(list(categories)) for categories in catalogue.categories],
                names.ATTRIBUTES: [json.dumps(dict(attributes)) for attributes in catalogue.attributes],
                names.AVAILABLE: catalogue.available,
            },
            directory / _ITEMS_FILE,
        )
        write_columns({names.USER_ID: self.user_ids, _NUM_LEARNED: self.num_learned_events}, directory / _USERS_FILE)
        about = {
            "towers": self.towers.model_dump(mode="json"),
            "text": self.text.model_dump(mode="json"),
            "schema": asdict(self.schema),
        }
        (directory / _ABOUT_FILE).write_text(json.dumps(about, indent=2))

    @classmethod
    def load(cls, directory: Path) -> PreviousModel:
        """Reads what `save` wrote. Raises DataError if it is damaged or of another version of this program."""
        try:
            about: dict[str, Any] = json.loads((directory / _ABOUT_FILE).read_text())
            users = read_table(directory / _USERS_FILE)
            return cls(
                towers=TowersConfig.model_validate(about["towers"]),
                text=TextConfig.model_validate(about["text"]),
                schema=FeatureSchema.from_dict(about["schema"]),
                catalogue=_catalogue(read_table(directory / _ITEMS_FILE)),
                user_ids=users.column(names.USER_ID).to_pylist(),
                num_learned_events=users.column(_NUM_LEARNED).to_numpy(),
                weights=torch.load(directory / _WEIGHTS_FILE, map_location="cpu", weights_only=True),
            )
        except (
            *(DataError, OSError, EOFError, pickle.UnpicklingError),
            *(RuntimeError, LookupError, TypeError, ValueError),
        ) as error:
            raise DataError(f"{directory}: holds no weights that training can continue: {error}") from error


def _catalogue(table: Any) -> Catalogue:
    item_ids = table.column(names.ITEM_ID).to_pylist()
    return Catalogue(
        item_ids=item_ids,
        titles=table.column(names.TITLE).to_pylist(),
        descriptions=table.column(names.DESCRIPTION).to_pylist(),
        categories=[json.loads(text) for text in table.column(names.CATEGORIES).to_pylist()],
        attributes=[json.loads(text) for text in table.column(names.ATTRIBUTES).to_pylist()],
        vocabulary=Vocabulary.from_ids(item_ids),
        available=np.asarray(table.column(names.AVAILABLE).to_numpy(), dtype=np.bool_),
    )
