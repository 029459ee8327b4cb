"""Recipes: typed settings, where each value came from, and what is wrong with the ones that are not.

A setting is documented here, where it is declared; `--help`, `--dry-run` and the manual print that text.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from groundrec.core.errors import ConfigError

__all__ = [
    "CoOccurrence",
    "Data",
    "Evaluate",
    "Fuse",
    "Model",
    "Neighbours",
    "Prepare",
    "Recipe",
    "Recommend",
    "Scratch",
    "Section",
    "Sequential",
    "Train",
    "load_recipe",
    "settings",
]


class Section(BaseModel):
    """A group of settings. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """Where the raw interactions come from."""

    source: str = Field(
        default="movielens-100k", description="Name of a data source: `groundrec list sources` shows them."
    )
    path: Path | None = Field(
        default=None,
        description="File or folder of the raw data; not needed for a named source that downloads itself.",
    )
    items: Path | None = Field(
        default=None,
        description="Table of item titles, for the `table` source when titles are not in the interactions.",
    )
    columns: dict[str, str] = Field(
        default={}, description='Your column names for the `table` source, e.g. {item = "asin"}.'
    )


class Prepare(Section):
    """How raw interactions become train, validation and test queries."""

    protocol: str = Field(
        default="global-time",
        description="`global-time` splits by one point in time for everyone (leaks nothing); `leave-one-out` keeps each user's last two moments and warns what that leaks.",
    )
    k_core: int = Field(
        default=5,
        ge=0,
        description="Keep only users and items with at least this many interactions, repeated until stable; 0 keeps all.",
    )
    min_rating: float | None = Field(default=None, description="Drop interactions rated lower than this.")
    valid_share: float = Field(
        default=0.1, gt=0, lt=1, description="Share of interactions, by time, used for validation (`global-time`)."
    )
    test_share: float = Field(
        default=0.1, gt=0, lt=1, description="Share of interactions, the latest, used for testing (`global-time`)."
    )
    max_history: int = Field(default=200, ge=1, description="Most recent items kept as a query's history.")
    bad_rows: Literal["fail", "quarantine"] = Field(
        default="fail",
        description="What to do with rows that cannot be used: stop at the first, or set them aside in `quarantine.parquet` and count them.",
    )

    def model_post_init(self, _: Any) -> None:
        """Check that something is left to train on."""
        if self.valid_share + self.test_share >= 1:
            raise ConfigError(
                "prepare.valid_share and prepare.test_share leave nothing to train on",
                value=f"{self.valid_share} + {self.test_share}",
                accepted="a sum below 1",
                next_step="--set prepare.test_share=0.1",
            )


class Scratch(Section):
    """The small decoder trained from random weights when `model.base_model = \"scratch\"`."""

    vocabulary: int = Field(
        default=4096, ge=300, description="Size of the byte-level BPE vocabulary learned from the titles."
    )
    hidden: int = Field(default=128, ge=8, description="Width of the network.")
    layers: int = Field(default=2, ge=1, description="Number of transformer layers.")
    heads: int = Field(default=4, ge=1, description="Attention heads per layer.")
    feed_forward: int = Field(
        default=2, ge=1, description="Width of the feed-forward layers, as a multiple of `hidden`."
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Dropout inside attention while training.")


class Model(Section):
    """The language model and the words it is shown."""

    base_model: str = Field(
        default="scratch", description="`scratch`, or the folder of any transformers causal language model."
    )
    template: str = Field(
        default="list", description="Prompt template: `list`, `bigrec`, `d3`, or the path of your own TOML file."
    )
    scratch: Scratch = Scratch()


class Train(Section):
    """Fine-tuning of the language model."""

    method: Literal["full", "lora"] = Field(
        default="full", description="Train every weight, or low-rank adapters (LoRA)."
    )
    epochs: float = Field(default=3, gt=0, description="Passes over the training examples.")
    learning_rate: float = Field(default=1e-4, gt=0, description="Peak learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="How the learning rate falls after the warm-up."
    )
    warmup_steps: int = Field(default=20, ge=0, description="Steps over which the learning rate rises from 0.")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay.")
    batch_size: int = Field(default=128, ge=1, description="Sequences per optimiser step, over all processes.")
    micro_batch_size: int = Field(
        default=4,
        ge=1,
        description="Sequences per forward pass on one device; the rest of the batch is accumulated. Lower it when memory runs out: results stay the same.",
    )
    cutoff_len: int = Field(
        default=512,
        ge=16,
        description="Longest sequence in tokens. The oldest history is dropped first; never the answer or the instruction.",
    )
    learn: Literal["answer", "choices"] = Field(
        default="answer",
        description="Learn every token of an answer, or only those where the catalogue leaves a choice: enough for `renormalised` scores, where a forced token costs nothing, and several times faster for small models.",
    )
    drop_items: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the items of a running list left out at random, anew in each epoch: keeps a small model from learning histories by heart.",
    )
    train_on_inputs: bool = Field(
        default=False,
        description="Also learn to predict the prompt, not only the answer (templates with an instruction).",
    )
    max_examples: int | None = Field(
        default=None, ge=1, description="Train on a random sample of this many examples; all when unset."
    )
    patience: int = Field(
        default=3,
        ge=0,
        description="Stop after this many epochs without a better validation loss; 0 never stops early.",
    )
    lora_r: int = Field(default=8, ge=1, description="Rank of the LoRA matrices.")
    lora_alpha: int = Field(default=16, ge=1, description="LoRA scale: updates are multiplied by lora_alpha / lora_r.")
    lora_dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout before the LoRA matrices.")
    lora_target_modules: list[str] | Literal["all-linear"] = Field(
        default=["q_proj", "v_proj"], description="Names of the layers that get LoRA matrices, or `all-linear`."
    )


class Neighbours(Section):
    """The `item-knn` signal: cosine similarity of items by who took them."""

    last: int = Field(default=5, ge=1, description="Most recent items of a history whose neighbours count.")
    decay: float = Field(
        default=0.8, gt=0, le=1, description="Weight of each of these items, relative to the next more recent one."
    )
    smoothing: float = Field(
        default=0.001,
        gt=0,
        lt=1,
        description="Share of the distribution that is popularity, so that no item is impossible.",
    )


class CoOccurrence(Section):
    """The `co-occurrence` signal: which items follow which, nearer ones counting more."""

    window: int = Field(
        default=10, ge=1, description="Items that follow at most this many places later count, as 1 / distance."
    )
    last: int = Field(
        default=10, ge=1, description="Most recent items of a history that vote, each as 1 / sqrt(its rank)."
    )
    source_power: float = Field(
        default=0.5, ge=0, description="Votes of an item are divided by its damped count to this power."
    )
    target_power: float = Field(
        default=0.3, ge=0, description="Votes for an item are divided by its damped count to this power."
    )
    damping: float = Field(default=20, gt=0, description="Added to an item's count before it divides votes.")
    smoothing: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="Share of the distribution that is popularity, so that no item is impossible.",
    )


class Sequential(Section):
    """The text-free sequential model (SASRec)."""

    hidden: int = Field(default=64, ge=4, description="Width of the item embeddings.")
    layers: int = Field(default=2, ge=1, description="Self-attention layers.")
    heads: int = Field(default=2, ge=1, description="Attention heads per layer.")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="Dropout while training.")
    max_length: int = Field(default=20, ge=2, description="Most recent items the model sees.")
    epochs: int = Field(default=15, ge=1, description="Most passes over the training sequences.")
    batch_size: int = Field(
        default=32, ge=1, description="Pieces of sequences, of `max_length` + 1 items, per optimiser step."
    )
    learning_rate: float = Field(
        default=3e-3, gt=0, description="AdamW's peak learning rate; it falls to 0 over `epochs`."
    )
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's weight decay.")
    patience: int = Field(
        default=5,
        ge=0,
        description="Stop after this many epochs without a better validation NDCG@10; 0 never stops early.",
    )


class Recommend(Section):
    """How the language model's ranking is found among the items of the catalogue."""

    mode: Literal["beam", "all"] = Field(
        default="beam",
        description="`beam` keeps the best `beams` hypotheses at each token; `all` scores every item of the catalogue.",
    )
    score: Literal["full", "renormalised"] = Field(
        default="full",
        description="Log-probability over the whole vocabulary, or over the tokens that continue a catalogue title.",
    )
    k: int = Field(default=50, ge=1, description="Places in a slate.")
    beams: int = Field(default=50, ge=1, description="Hypotheses kept in `beam` mode; at least `k`.")
    batch_size: int = Field(
        default=8, ge=1, description="Queries per forward pass. Changes speed and memory, never a ranking."
    )
    exclude_seen: bool = Field(default=True, description="Never recommend an item of the query's history.")
    valid_queries: int | None = Field(
        default=1000, ge=1, description="Validation queries, sampled with the recipe's seed; all when unset."
    )
    test_queries: int | None = Field(
        default=None, ge=1, description="Test queries, sampled with the recipe's seed; all when unset."
    )


class Fuse(Section):
    """Mixing the language model with collaborative signals: alpha · log p_LM + (1 - alpha) · log p_signal."""

    signals: list[str] = Field(default=["sasrec", "co-occurrence"], description="Signals to fuse with, each in turn.")
    metric: str = Field(default="ndcg@10", description="Metric that chooses alpha, on validation.")
    grid: int = Field(default=21, ge=2, description="Number of values of alpha tried between 0 and 1.")


class Evaluate(Section):
    """What is measured."""

    ks: list[PositiveInt] = Field(
        default=[1, 3, 5, 10, 20, 50],
        min_length=1,
        description="Cut-offs of the metrics; none may exceed `recommend.k`.",
    )
    bootstrap: int = Field(default=1000, ge=0, description="Bootstrap samples behind each 95% interval; 0 gives none.")
    people: int = Field(default=10, ge=0, description="Example people shown in the report.")


class Recipe(Section):
    """One experiment: everything that decides its result."""

    name: str = Field(
        default="run", description="Name of the run; its directory is `runs/<name>` unless told otherwise."
    )
    about: str = Field(default="", description="What the run does and how long it takes; shown before it begins.")
    seed: int = Field(default=0, ge=0, description="Seed of every source of randomness.")
    data: Data = Data()
    prepare: Prepare = Prepare()
    model: Model = Model()
    train: Train = Train()
    signals: list[str] = Field(
        default=["popularity", "item-knn", "co-occurrence", "sasrec"],
        description="Collaborative signals to fit and compare.",
    )
    neighbours: Neighbours = Neighbours()
    co_occurrence: CoOccurrence = CoOccurrence()
    sequential: Sequential = Sequential()
    recommend: Recommend = Recommend()
    fuse: Fuse = Fuse()
    evaluate: Evaluate = Evaluate()

    def model_post_init(self, _: Any) -> None:
        """Check what concerns more than one section."""
        if self.train.method == "lora" and self.model.base_model == "scratch":
            raise ConfigError(
                "LoRA adapts a trained model, and `scratch` is none",
                value="train.method = lora, model.base_model = scratch",
                accepted="the folder of a language model, or train.method = full",
                next_step="--set train.method=full, or --set model.base_model=PATH",
            )
        if max(self.evaluate.ks, default=0) > self.recommend.k:
            raise ConfigError(
                "evaluate.ks asks for more places than a slate has",
                value=max(self.evaluate.ks),
                accepted=f"at most recommend.k = {self.recommend.k}",
                next_step="--set recommend.k=…",
            )
        if self.recommend.mode == "beam" and self.recommend.beams < self.recommend.k:
            raise ConfigError(
                "fewer beams than places in the slate",
                value=self.recommend.beams,
                accepted=f"recommend.beams ≥ recommend.k = {self.recommend.k}",
                next_step="--set recommend.beams=…",
            )
        if missing := [s for s in self.fuse.signals if s not in self.signals]:
            raise ConfigError(
                "fuse.signals names a signal that is not fitted",
                value=", ".join(missing),
                accepted=", ".join(self.signals),
                next_step="add it to `signals`",
            )


def load_recipe(path: Path | None, overrides: Sequence[str] = ()) -> tuple[Recipe, dict[str, str]]:
    """Return the recipe of a TOML file with `a.b=value` overrides, and where each setting came from.

    The second value maps `section.setting` to `default`, the file's name, or `--set`.
    """
    given = _read_toml(path) if path else {}
    origin = {key: path.name if path else "" for key, _ in _leaves(given)}
    for text in overrides:
        key, value = _parse_override(text)
        _assign(given, key, value)
        origin = {k: o for k, o in origin.items() if not k.startswith(f"{key}.")}
        origin |= dict.fromkeys([key, *(k for k, _ in _leaves({key: value}))], "--set")
    try:
        recipe = Recipe.model_validate(given)
    except ValidationError as error:
        raise _readable(error) from None
    return recipe, {key: _origin_of(key, origin) for key, *_ in settings(recipe)}


def settings(section: Section, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield `(section.setting, value, description)` for every setting, in the order they are declared."""
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, info.description or ""


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        near = sorted(p.as_posix() for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        raise ConfigError(
            "no such recipe",
            value=path,
            accepted=", ".join(near) or "the path of a TOML file",
            next_step="groundrec run recipes/demo.toml --dry-run",
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not valid TOML", value=error, accepted="lines like `k_core = 5` under a [section]"
        ) from None


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            "--set does not look like a setting",
            value=text,
            accepted="section.setting=value, for example train.epochs=3",
        )
    try:
        value = tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
        value = raw.strip()
    return key.strip(), value


def _assign(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for name in sections:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError("not a section", value=name, accepted="section.setting=value")
    tree[last] = value


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _origin_of(key: str, origin: dict[str, str]) -> str:
    found = [o for k, o in origin.items() if k == key or k.startswith(f"{key}.")]
    return "--set" if "--set" in found else (found or ["default"])[0]


def _readable(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    place = [str(p) for p in first["loc"]]
    if first["type"] != "extra_forbidden":
        return ConfigError(
            f"bad value for {'.'.join(place)}",
            value=json.dumps(first["input"], default=str),
            accepted=first["msg"],
            next_step="groundrec settings",
        )
    siblings = _siblings(place[:-1])
    elsewhere = [key for key, *_ in settings(Recipe()) if key.split(".")[-1] == place[-1]]
    near = difflib.get_close_matches(place[-1], siblings, n=1, cutoff=0.5)
    meant = elsewhere or [".".join([*place[:-1], name]) for name in near]
    return ConfigError(
        "unknown setting" + (f" (did you mean {' or '.join(map(repr, meant))}?)" if meant else ""),
        value=".".join(place),
        accepted=", ".join(siblings),
        next_step="groundrec settings",
    )


def _siblings(place: Sequence[str]) -> list[str]:
    section: type[BaseModel] = Recipe
    for name in place:
        annotation = section.model_fields[name].annotation
        section = next(
            a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)
        )
    return list(section.model_fields)
