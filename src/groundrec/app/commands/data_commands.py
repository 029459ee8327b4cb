"""`groundrec prepare`, `export`, `import` and `card`: data sets at the command line.

Knows nothing about protocols and formats; it turns options into settings and prints what was made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from groundrec.app.commands.options import Dataset, Json, Overwrite, Quiet, Set, check_choice
from groundrec.core.errors import ConfigError
from groundrec.core.registry import names
from groundrec.core.track import log_to

__all__ = ["card", "export", "import_command", "prepare"]

RESULTS = "results"
"""The format of a run's results, which is no format of data sets."""

Source = Annotated[str, typer.Argument(help="A data source; `groundrec list sources` lists them.")]
Out = Annotated[Path, typer.Option(help="Folder to write to.")]
RawPath = Annotated[str | None, typer.Option(help="File, folder or URL of the raw data.")]
Category = Annotated[
    str | None, typer.Option(help="Which files of the folder to read, e.g. `Books`.")
]
Protocol = Annotated[
    str | None,
    typer.Option(
        help=(
            "How to split; `groundrec list protocols` lists them. `d3` if a word of D3's process.py"
            " is given: --K, --metadata, --reviews, --output, or a time window."
        )
    ),
]
KCore = Annotated[
    int | None, typer.Option("--k-core", help="Minimum number of interactions per user and item.")
]
PublishedKCore = Annotated[
    int | None, typer.Option("--K", help="D3's word for --k-core; implies the protocol `d3`.")
]
Reviews = Annotated[
    str | None, typer.Option(help="File of reviews; with --metadata, in place of --path.")
]
Metadata = Annotated[str | None, typer.Option(help="File with the items' titles.")]
Output = Annotated[
    str | None, typer.Option(help="D3's word for whether to write anything: `True`.")
]
StartYear = Annotated[
    int | None, typer.Option("--st_year", help="First year of the time window of `d3`.")
]
StartMonth = Annotated[
    int | None, typer.Option("--st_month", help="First month of the time window.")
]
EndYear = Annotated[
    int | None, typer.Option("--ed_year", help="Year in which the time window ends.")
]
EndMonth = Annotated[
    int | None, typer.Option("--ed_month", help="Month in which the time window ends.")
]
Engine = Annotated[
    str | None, typer.Option(help="Compute engine; `groundrec list engines` lists them.")
]
MemoryLimit = Annotated[str | None, typer.Option(help="Maximum memory of the engine, e.g. `2GB`.")]


def prepare(
    source: Source,
    out: Out,
    path: RawPath = None,
    category: Category = None,
    protocol: Protocol = None,
    k_core: KCore = None,
    published_k_core: PublishedKCore = None,
    metadata: Metadata = None,
    reviews: Reviews = None,
    output: Output = None,
    st_year: StartYear = None,
    st_month: StartMonth = None,
    ed_year: EndYear = None,
    ed_month: EndMonth = None,
    engine: Engine = None,
    memory_limit: MemoryLimit = None,
    set_: Set = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Prepare a data set from the raw interactions of SOURCE.

    Recipes use it by `data.dataset`, and `groundrec export` writes it in other formats.
    """
    log_to(None, quiet=quiet or as_json)
    from groundrec.app.commands.datasets import d3_words, prepare_dataset, recipe_of

    given = {
        "data.source": source,
        "data.path": path,
        "data.category": category,
        "prepare.protocol": protocol,
        "prepare.k_core": k_core,
        "prepare.engine": engine,
        "prepare.memory_limit": memory_limit,
        "prepare.d3.st_year": st_year,
        "prepare.d3.st_month": st_month,
        "prepare.d3.ed_year": ed_year,
        "prepare.d3.ed_month": ed_month,
    }
    published = d3_words(published_k_core, metadata, reviews, output, path)
    # An option of ours says more than what a published word implies.
    given = {**published, **{key: value for key, value in given.items() if value is not None}}
    made = prepare_dataset(recipe_of(given, set_ or []), out, overwrite=overwrite)
    if as_json:
        print(json.dumps(made))
    elif not quiet:
        print(f"{out}: " + ", ".join(f"{key} {value}" for key, value in made.items()))


def export(
    dataset: Dataset,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help=(
                "Format to write; `groundrec list formats` lists those of data sets. `results`"
                " writes what a finished run recommends."
            ),
        ),
    ],
    out: Out,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="With `results`: a method of the run's report; repeatable. Default: every method."
        ),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(
            help=(
                "TOML file with the text of the format `bigrec`: `instruction`, and `input` with"
                " `{titles}` in it."
            )
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Export DATASET in the file format of other code, or the results of a run.

    groundrec export runs/demo --format results --out results
    """
    check_choice("--format", format_, (*names("formats"), RESULTS))
    log_to(None, quiet=as_json)
    from groundrec.app.commands.datasets import export_dataset, refuse_files

    if format_ == RESULTS:
        _refuse(template, "--template", RESULTS)
        refuse_files(out, overwrite=overwrite)
        from groundrec.app.stages.result_export import export_results

        written = export_results(dataset, out, method or ())
    else:
        _refuse(method, "--method", format_)
        written = export_dataset(dataset, format_, out, template, overwrite=overwrite)
    files = [str(file) for file in written]
    print(json.dumps(files) if as_json else "\n".join(files))


def _refuse(value: object, option: str, format_: str) -> None:
    """Raise `ConfigError` for an option that the format does not use."""
    if value:
        raise ConfigError(
            f"the format {format_} does not use this option",
            value=option,
            accepted="--method with results, --template with bigrec",
            next_step=f"leave out {option}",
        )


def import_command(
    folder: Annotated[Path, typer.Argument(help="A folder that other code has prepared.")],
    format_: Annotated[
        str,
        typer.Option("--format", help="Code that wrote it; `groundrec list imports` lists them."),
    ],
    out: Out,
    category: Annotated[
        str, typer.Option(help="Which files of FOLDER to read, if it holds several categories.")
    ] = "",
    allow_leaks: Annotated[
        bool,
        typer.Option(
            "--allow-leaks",
            help="Import even if rows of validation or test stand in train; the card counts them.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Import FOLDER, a data set that is already split, and show its card."""
    check_choice("--format", format_, names("imports"))
    log_to(None, quiet=as_json)
    from groundrec.app.commands.card import print_card
    from groundrec.app.commands.datasets import import_dataset

    import_dataset(folder, format_, out, category, overwrite=overwrite, allow_leaks=allow_leaks)
    print_card(out, as_json=as_json)


def card(
    dataset: Dataset,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Folder or tokenizer.json to measure titles with. Default: the run's own"
                " tokenizer, or else words."
            )
        ),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Image file to draw. Default: `card.png` in the data set.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what DATASET holds and what it leaks, as a table and a picture."""
    from groundrec.app.commands.card import print_card

    print_card(dataset, tokenizer, picture, as_json=as_json)
