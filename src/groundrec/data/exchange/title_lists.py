"""Lists of titles beside published data: `movies.dat`, `id2name.txt`, D3's info files.

Lines end at line feeds alone. A title may contain tabs, other line separators and line breaks: the
number that ends a line ends its title too. Knows nothing about queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from groundrec.core.errors import DataError

__all__ = ["read_titles", "titles_beside"]

MOVIES = "movies.dat"
NAMES = ("id2name.txt", MOVIES)


def titles_beside(file: Path) -> Path | None:
    """Return the list of titles in the folder of a data file or in the one above, if any."""
    folders = (file.parent, file.parent.parent)
    found = (folder / name for folder in folders for name in NAMES)
    return next((path for path in found if path.is_file()), None)


def read_titles(file: Path) -> list[str]:
    """Return the titles in a list, in its order: `id::title::genres`, or title, tab, number.

    The number may be missing. Raises `DataError` for a file without titles.
    """
    is_movies = file.suffix == ".dat"
    try:
        # MovieLens is read as the originals read it, so that titles are those of their data.
        text = file.read_bytes().decode("iso-8859-1" if is_movies else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(file, error) from None
    lines = text.split("\n")
    titles = [row.split("::")[1] for row in lines if "::" in row] if is_movies else _named(lines)
    found = list(titles)
    if not found:
        raise _unusable(file, "no titles")
    return found


def _named(lines: list[str]) -> Iterator[str]:
    """Yield the titles of lines that end with a tab and a number, or with a tab alone."""
    pending = ""  # the start of a title that has line breaks
    for line in lines:
        title, tab, number = f"{pending}{line}".removesuffix("\r").rpartition("\t")
        if tab and (number.strip().isdigit() or not number.strip()):
            yield title
            pending = ""
        else:
            pending = f"{pending}{line}\n"
    if pending.strip():
        yield from (line for line in pending.split("\n") if line.strip())


def _unusable(file: Path, value: object) -> DataError:
    return DataError(
        "not a list of titles",
        value=f"{file}: {value}",
        accepted="id2name.txt, movies.dat or an info file: a title, a tab and a number per line",
        next_step="name such a file, a data set or a run directory",
    )
