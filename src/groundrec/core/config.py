"""The sections of a recipe that prepare data: every setting, typed, with its default and what it
means.

A setting is documented where it is declared; `--help`, `--dry-run` and the manual print that text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from groundrec.core.errors import ConfigError

__all__ = ["D3", "WHEN_NDCG_SELECTS", "Data", "Location", "Prepare", "Section", "setting"]

LIKE_ABOVE = 3.0
WHEN_NDCG_SELECTS = "train if train.select=ndcg"
"""What `train` depends on only where it ranks validation queries to choose an epoch."""


class Section(BaseModel):
    """A group of settings. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def setting(affects: Sequence[str], **declared: Any) -> Any:
    """Return a field that also declares which stages' output it decides; none where it is empty.

    A stage is `prepare`, `signals`, `train`, `recommend`, `fuse` or `evaluate`, one step of it such
    as `recommend/test`, or `STAGE if SECTION.SETTING=VALUE`. Stages that read the output of these
    are affected too and are not listed. `core.affects` reads the declarations.
    """
    return Field(json_schema_extra={"affects": list(affects)}, **declared)


def _place(value: Any) -> Any:
    return Path(value) if isinstance(value, str) and "://" not in value else value


Location: TypeAlias = Annotated[Path | str, BeforeValidator(_place)]
"""A path, or a URL as text."""


class Data(Section):
    """Where the raw interactions come from."""

    source: str = setting(
        ("prepare",),
        default="movielens-100k",
        description="Name of a data source: `groundrec list sources` shows them.",
    )
    path: Location | None = setting(
        ("prepare",),
        default=None,
        description=(
            "File or folder of the raw data, or a URL: `https://…`,"
            " `hf://datasets/OWNER/NAME/FILE`. Not needed for a named source that downloads itself."
        ),
    )
    items: Location | None = setting(
        ("prepare",),
        default=None,
        description=(
            "File or URL of item titles, where they are not beside the interactions or among them."
        ),
    )
    category: str | None = setting(
        ("prepare",),
        default=None,
        description=(
            "Which files of the folder `data.path` the `amazon` source reads, e.g. `Books`."
        ),
    )
    dataset: Path | None = setting(
        ("prepare",),
        default=None,
        description=(
            "Folder of a finished data set (`groundrec prepare`, `groundrec import`), used as it"
            " is: no other setting of [data] or [prepare] may be given beside it."
        ),
    )
    columns: dict[str, str] = setting(
        ("prepare",),
        default={},
        description=(
            'Your column names for the `table` source, e.g. {item = "asin"}; for `recbole` the'
            " title's, if not found by itself."
        ),
    )
    sha256: str | None = setting(
        ("prepare",),
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="Digest that the file at `data.path` must have.",
    )
    items_sha256: str | None = setting(
        ("prepare",),
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="Digest that the file at `data.items` must have.",
    )


class D3(Section):
    """The window of time of the protocol `d3`, under the names of the published script; times are
    UTC.
    """

    st_year: int = setting(
        ("prepare",),
        default=2017,
        ge=1996,
        description=(
            "First year of the window. It is moved back, year by year down to 1996, while fewer"
            " than `min_items` items are left."
        ),
    )
    st_month: int = setting(
        ("prepare",), default=10, ge=1, le=12, description="First month of the window."
    )
    ed_year: int = setting(
        ("prepare",),
        default=2018,
        ge=1996,
        description="Year in whose month `ed_month` the window ends.",
    )
    ed_month: int = setting(
        ("prepare",),
        default=11,
        ge=1,
        le=12,
        description="The window ends with the first second of this month, that second included.",
    )
    min_items: int = setting(
        ("prepare",),
        default=10_000,
        ge=1,
        description="Items that must be left, unless the window begins in 1996.",
    )

    def model_post_init(self, _: Any) -> None:
        """Check that the window is not empty."""
        if (self.ed_year, self.ed_month) <= (self.st_year, self.st_month):
            raise ConfigError(
                "the window of time ends before it begins",
                value=f"from {self.st_year}-{self.st_month} to {self.ed_year}-{self.ed_month}",
                accepted="prepare.d3.ed_year and ed_month later than st_year and st_month",
                next_step="--set prepare.d3.ed_year=…",
            )


class Prepare(Section):
    """How raw interactions become train, validation and test queries."""

    protocol: str = setting(
        ("prepare",),
        default="global-time",
        description=(
            "`global-time` splits by one point in time for everyone (leaks nothing);"
            " `leave-one-out` keeps each user's last two moments and warns what that leaks; `d3` is"
            " the published preparation of Amazon reviews, `bigrec-movie` and `bigrec-game` are"
            " those of MovieLens-10M and of Amazon's video games."
        ),
    )
    engine: str = setting(
        (), default="duckdb", description="What computes: `groundrec list engines` shows them."
    )
    memory_limit: str | None = setting(
        (),
        default=None,
        pattern=r"^\d+(\.\d+)?[KMGT]i?B$",
        description=(
            "Most memory the engine takes before it goes on on disk, e.g. `2GB`; most of the"
            " machine's when unset."
        ),
    )
    k_core: int = setting(
        ("prepare",),
        default=5,
        ge=0,
        description=(
            "Keep only users and items with at least this many interactions, repeated until stable;"
            " 0 keeps all."
        ),
    )
    min_rating: float | None = setting(
        ("prepare",), default=None, description="Drop interactions rated lower than this."
    )
    valid_share: float = setting(
        ("prepare",),
        default=0.1,
        gt=0,
        lt=1,
        description="Share of interactions, by time, used for validation (`global-time`).",
    )
    test_share: float = setting(
        ("prepare",),
        default=0.1,
        gt=0,
        lt=1,
        description="Share of interactions, the latest, used for testing (`global-time`).",
    )
    max_history: int | None = setting(
        ("prepare",),
        default=None,
        ge=1,
        description=(
            "Most recent items kept as a query's history; when unset 10 for `d3`, `bigrec-movie`"
            " and `bigrec-game`, and 200 for the others. With `bigrec-movie` a history has exactly"
            " so many."
        ),
    )
    bad_rows: Literal["fail", "quarantine"] = setting(
        ("prepare",),
        default="fail",
        description=(
            "What to do with rows that cannot be used: stop at the first, or set them aside in"
            " `quarantine.parquet` and count them."
        ),
    )
    like_above: float = setting(
        ("prepare",),
        default=LIKE_ABOVE,
        description=(
            "A rating above this becomes 1, any other 0 (`bigrec-movie`); nothing is left out for"
            " its rating."
        ),
    )
    d3: D3 = D3()

    def model_post_init(self, _: Any) -> None:
        """Check that something is left to train on, and that likes are asked for where they are
        made.
        """
        if self.like_above != LIKE_ABOVE and self.protocol != "bigrec-movie":
            raise ConfigError(
                "prepare.like_above makes likes of ratings, which only the protocol `bigrec-movie`"
                " does",
                value=f"like_above = {self.like_above}, protocol = {self.protocol}",
                accepted="prepare.min_rating for other protocols",
                next_step="--set prepare.protocol=bigrec-movie, or leave it out",
            )
        if self.valid_share + self.test_share >= 1:
            raise ConfigError(
                "prepare.valid_share and prepare.test_share leave nothing to train on",
                value=f"{self.valid_share} + {self.test_share}",
                accepted="a sum below 1",
                next_step="--set prepare.test_share=0.1",
            )
