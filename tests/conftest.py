"""No test depends on the language of the machine that runs it, in this process or in others."""

import os

for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
    os.environ.pop(name, None)
os.environ["LC_ALL"] = "C.UTF-8"
