"""`python -m groundrec`: the command line, for launchers that start modules."""

from __future__ import annotations

from groundrec.app.commands.main import main

if __name__ == "__main__":
    main()
