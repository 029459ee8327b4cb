"""`python -m groundrec`: the command line, for launchers that start modules."""

from __future__ import annotations

from groundrec.app.cli import main

if __name__ == "__main__":
    main()
