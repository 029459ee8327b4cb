"""Recipe sections that prepare data: every setting with its type, default and meaning.

Each setting is documented where it is declared; `--help`, `--dry-run` and the manual print that
text.
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
"""The stage `train`, if it ranks validation queries to choose an epoch."""


class Section(BaseModel):
    """A group of settings. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def setting(affects: Sequence[str], **declared: Any) -> Any:
    """Return a field that also declares which stages' output it affects; none if it is empty.

    An entry is a stage (`prepare`, `signals`, `train`, `recommend`, `fuse` or `evaluate`), a step
    of one such as `recommend/test`, or either with a condition: `STAGE if SECTION.SETTING=VALUE`.
    Stages that read the output of these are affected, too, and are not listed. `core.affects` reads
    the declarations.
    """
    return Field(json_schema_extra={"affects": list(affects)}, **declared)


def _path_or_url(value: Any) -> Any:
    return Path(value) if isinstance(value, str) and "://" not in value else value


Location: TypeAlias = Annotated[Path | str, BeforeValidator(_path_or_url)]
"""A path, or a URL as text."""


class Data(Section):
    """Where the raw interactions come from."""

    source: str = setting(
        ("prepare",),
        default="movielens-100k",
        description="Name of a data source; `groundrec list sources` lists them.",
    )
    path: Location | None = setting(
        ("prepare",),
        default=None,
        description=(
            "File or folder with the raw data, or a URL: `https://…`,"
            " `hf://datasets/OWNER/NAME/FILE`. Not needed for a source that downloads its own"
            " data."
        ),
    )
    items: Location | None = setting(
        ("prepare",),
        default=None,
        description=(
            "File or URL with the item titles, if they are neither next to the interactions nor"
            " part of them."
        ),
    )
    category: str | None = setting(
        ("prepare",),
        default=None,
        description=(
            "Category that the `amazon` source reads from the folder `data.path`, e.g. `Books`."
        ),
    )
    dataset: Path | None = setting(
        ("prepare",),
        default=None,
        description=(
            "Folder of a prepared data set (from `groundrec prepare` or `groundrec import`), used"
            " as it is. It cannot be combined with other settings of [data] or [prepare]."
        ),
    )
    columns: dict[str, str] = setting(
        ("prepare",),
        default={},
        description=(
            'Names of the columns of your table for the `table` source, e.g. {item = "asin"}; for'
            " `recbole`, the name of the title column if it is not detected."
        ),
    )
    sha256: str | None = setting(
        ("prepare",),
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 digest that the file at `data.path` must have.",
    )
    items_sha256: str | None = setting(
        ("prepare",),
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 digest that the file at `data.items` must have.",
    )


class D3(Section):
    """The time window of the protocol `d3`, named as in the published script; times are UTC."""

    st_year: int = setting(
        ("prepare",),
        default=2017,
        ge=1996,
        description=(
            "First year of the window. It is moved back one year at a time, to 1996 at the"
            " earliest, while fewer than `min_items` items remain."
        ),
    )
    st_month: int = setting(
        ("prepare",), default=10, ge=1, le=12, description="First month of the window."
    )
    ed_year: int = setting(
        ("prepare",),
        default=2018,
        ge=1996,
        description="Year in which the window ends; see `ed_month`.",
    )
    ed_month: int = setting(
        ("prepare",),
        default=11,
        ge=1,
        le=12,
        description=(
            "Month in which the window ends. It ends with the first second of the month, which is"
            " included."
        ),
    )
    min_items: int = setting(
        ("prepare",),
        default=10_000,
        ge=1,
        description="Minimum number of items that must remain, unless the window starts in 1996.",
    )

    def model_post_init(self, _: Any) -> None:
        """Check that the window is not empty."""
        if (self.ed_year, self.ed_month) <= (self.st_year, self.st_month):
            raise ConfigError(
                "the time window ends before it starts",
                value=f"from {self.st_year}-{self.st_month} to {self.ed_year}-{self.ed_month}",
                accepted="prepare.d3.ed_year and ed_month after st_year and st_month",
                next_step="--set prepare.d3.ed_year=…",
            )


class Prepare(Section):
    """How raw interactions are turned into training, validation and test queries."""

    protocol: str = setting(
        ("prepare",),
        default="global-time",
        description=(
            "`global-time` splits all users at the same points in time, which leaks nothing;"
            " `leave-one-out` holds out each user's last two timestamps and warns about the"
            " resulting leakage; `d3` is the published preparation of Amazon reviews;"
            " `bigrec-movie` and `bigrec-game` are BIGRec's preparation of MovieLens-10M and of"
            " Amazon's video games."
        ),
    )
    engine: str = setting(
        (),
        default="duckdb",
        description="Engine that prepares the data; `groundrec list engines` lists them.",
    )
    memory_limit: str | None = setting(
        (),
        default=None,
        pattern=r"^\d+(\.\d+)?[KMGT]i?B$",
        description=(
            "Maximum memory that the engine uses before it spills to disk, e.g. `2GB`; when"
            " unset, most of the machine's memory."
        ),
    )
    k_core: int = setting(
        ("prepare",),
        default=5,
        ge=0,
        description=(
            "Keep only users and items with at least this many interactions, repeated until none"
            " is removed; 0 keeps all."
        ),
    )
    min_rating: float | None = setting(
        ("prepare",), default=None, description="Drop interactions rated below this."
    )
    valid_share: float = setting(
        ("prepare",),
        default=0.1,
        gt=0,
        lt=1,
        description=(
            "Share of interactions, the latest before those for testing, used for validation"
            " (`global-time`)."
        ),
    )
    test_share: float = setting(
        ("prepare",),
        default=0.1,
        gt=0,
        lt=1,
        description="Share of interactions, the latest ones, used for testing (`global-time`).",
    )
    max_history: int | None = setting(
        ("prepare",),
        default=None,
        ge=1,
        description=(
            "Maximum number of most recent items kept as a query's history; when unset, 10 for"
            " `d3`, `bigrec-movie` and `bigrec-game`, and 200 for other protocols. With"
            " `bigrec-movie`, every history has exactly this many items."
        ),
    )
    bad_rows: Literal["fail", "quarantine"] = setting(
        ("prepare",),
        default="fail",
        description=(
            "What to do with rows that cannot be used: stop at the first one, or move them to"
            " `quarantine.parquet` and count them."
        ),
    )
    like_above: float = setting(
        ("prepare",),
        default=LIKE_ABOVE,
        description=(
            "Ratings above this become 1, all others 0 (`bigrec-movie`). No interaction is"
            " dropped because of its rating."
        ),
    )
    d3: D3 = D3()

    def model_post_init(self, _: Any) -> None:
        """Check that training data remains, and that `like_above` suits the protocol."""
        if self.like_above != LIKE_ABOVE and self.protocol != "bigrec-movie":
            raise ConfigError(
                "prepare.like_above applies only to the protocol `bigrec-movie`",
                value=f"like_above = {self.like_above}, protocol = {self.protocol}",
                accepted="prepare.min_rating for other protocols",
                next_step="--set prepare.protocol=bigrec-movie, or remove prepare.like_above",
            )
        if self.valid_share + self.test_share >= 1:
            raise ConfigError(
                "prepare.valid_share and prepare.test_share leave nothing to train on",
                value=f"{self.valid_share} + {self.test_share}",
                accepted="a sum below 1",
                next_step="--set prepare.test_share=0.1",
            )
