"""What this machine has and what it lacks, each with the command that fixes it.

With a recipe, what that recipe needs is required; without one, what every run needs. Each address
is asked once, for seconds. Knows nothing about how the things it looks for are used.
"""

from __future__ import annotations

import json
import netrc
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, metadata, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from groundrec.app.commands.mirrors import services
from groundrec.app.commands.options import Json
from groundrec.core.language import localize
from groundrec.core.recipe import Recipe, load_recipe

__all__ = ["Check", "checks", "doctor", "needs"]

GIB = 1 << 30
MIN_MEMORY = 2.0
MIN_DISK = 5.0
"""Free GiB."""
MIN_PYTHON = (3, 11)
ALWAYS = frozenset({"Python", "packages", "torch", "memory", "disk: runs", "disk: cache"})


@dataclass(frozen=True)
class Check:
    """One check: whether it passed, what was found, and the command that fixes it if not."""

    name: str
    ok: bool
    found: str
    fix: str = ""
    needed: bool = False


def doctor(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            help=(
                "A recipe, file or packaged name: what it needs is required. Default: what every"
                " run needs."
            )
        ),
    ] = None,
    vscode: Annotated[
        bool,
        typer.Option(
            "--vscode",
            help="Write entries for --debug-attach to .vscode/launch.json instead.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check this machine for every run, or for RECIPE; name the commands that fix what is missing.

    Exits with 1 if something required is missing.
    """
    if vscode:
        _write_launch(as_json=as_json)
        return
    found = list(checks(needs(load_recipe(recipe)[0]) if recipe else ALWAYS))
    well = all(check.ok for check in found if check.needed)
    if as_json:
        print(
            json.dumps(
                {"ok": well, "checks": [asdict(check) for check in found]}, ensure_ascii=False
            )
        )
    else:
        _print(found)
    raise typer.Exit(0 if well else 1)


def needs(recipe: Recipe) -> frozenset[str]:
    """Return the names of the checks that must pass for a recipe."""
    wanted = {
        "extra: lora": "lora" in recipe.train.method,
        "extra: qlora": recipe.train.method == "qlora",
        "extra: ray": recipe.recommend.engine == "ray",
        "extra: spark": recipe.prepare.engine == "spark",
        "Java": recipe.prepare.engine == "spark",
        "extra: tensorboard": recipe.track.board == "tensorboard",
        "extra: trackio": recipe.track.board == "trackio" and recipe.track.mode != "disabled",
        "extra: wandb": recipe.track.board == "wandb" and recipe.track.mode != "disabled",
        "wandb": recipe.track.board == "wandb" and recipe.track.mode == "online",
        "extra: smollm2": recipe.model.base_model.startswith("smollm2"),
    }
    if any(
        str(place).startswith("wandb:")
        for place in (recipe.model.base_model, recipe.train.resume_from)
    ):
        wanted |= {"extra: wandb": True, "wandb": True}
    for place in map(str, (recipe.data.path, recipe.data.items, recipe.model.base_model)):
        wanted["Hugging Face"] = wanted.get("Hugging Face", False) or place.startswith("hf:")
        wanted["ModelScope"] = wanted.get("ModelScope", False) or place.startswith("modelscope:")
    wanted["extra: modelscope"] = wanted["ModelScope"]
    return ALWAYS | {name for name, is_so in wanted.items() if is_so}


def checks(needed: frozenset[str] = ALWAYS) -> Iterator[Check]:
    """Yield every check in the order shown. Hubs and mirrors are asked concurrently."""
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(service.look) for service in services()]
        for look in (_python, _packages, _torch, _gpu, _memory, _disks):
            yield from (_with(check, needed) for check in look())
        for answer in asked:
            yield _with(Check(*answer.result()), needed)
    for look in (_java, _wandb, _extras):
        yield from (_with(check, needed) for check in look())


def _with(check: Check, needed: frozenset[str]) -> Check:
    return replace(check, needed=check.name in needed)


def _python() -> Iterator[Check]:
    wanted = ".".join(map(str, MIN_PYTHON))
    fix = f"make setup PYTHON=python{wanted}, or conda create -n recommender python={wanted}"
    yield Check("Python", sys.version_info[:2] >= MIN_PYTHON, platform.python_version(), fix)


def _packages() -> Iterator[Check]:
    missing = [text for text, extra in _requirements() if extra is None and not _is_met(text)]
    found = (
        f"missing or too old: {', '.join(missing)}"
        if missing
        else "everything that every run needs"
    )
    yield Check("packages", not missing, found, f"pip install {' '.join(map(repr, missing))}")


def _torch() -> Iterator[Check]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check(
            "torch", False, f"cannot be loaded: {error}", "pip install --force-reinstall torch"
        )
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield Check("torch", True, f"{torch.__version__.split('+')[0]}, {build}")


def _gpu() -> Iterator[Check]:
    try:
        import torch
    except (ImportError, OSError):
        return
    device = torch.accelerator.current_accelerator()
    listed = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        yield Check(
            "GPU", True, "; ".join(f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB" for gpu in names)
        )
    elif device is not None:
        yield Check("GPU", True, device.type)
    elif listed:
        why = (
            "but torch is a CPU build"
            if torch.version.cuda is None
            else f"but CUDA {torch.version.cuda} cannot use it"
        )
        yield Check(
            "GPU",
            False,
            f"found {listed.splitlines()[0]}, {why}",
            "pip install --force-reinstall torch",
        )
    else:
        yield Check("GPU", True, "none: everything runs on the CPU")


def _memory() -> Iterator[Check]:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    fix = "--set train.micro_batch_size=1 --set recommend.batch_size=1, and close other programs"
    yield Check("memory", memory.available / GIB >= MIN_MEMORY, found, fix)


def _disks() -> Iterator[Check]:
    from groundrec.data.raw.download import cache_folder

    runs = Path.cwd()
    cache = cache_folder()
    for name, folder, fix in (
        ("disk: runs", runs, "groundrec run RECIPE --run-dir /ANOTHER/DISK/runs/NAME"),
        (
            "disk: cache",
            cache,
            "export GROUNDREC_CACHE=/ANOTHER/DISK/groundrec HF_HOME=/ANOTHER/DISK/huggingface",
        ),
    ):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free / GIB
        yield Check(
            name,
            free >= MIN_DISK and os.access(existing, os.W_OK),
            f"{free:.1f} GiB free in {folder}",
            fix,
        )


def _java() -> Iterator[Check]:
    from groundrec.data.java import OLDEST, java

    found = java()
    yield Check("Java", found.suffices, f"{found.version}; Spark needs {OLDEST}", found.fix)


def _wandb() -> Iterator[Check]:
    mode = os.environ.get("WANDB_MODE", "")
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    if find_spec("wandb") is None:
        yield Check(
            "wandb", False, "not installed", "pip install 'groundrec[wandb]' && wandb login"
        )
    elif mode in ("offline", "disabled"):
        yield Check("wandb", True, f"WANDB_MODE={mode}: no login is needed")
    elif os.environ.get("WANDB_API_KEY") or _in_netrc(host):
        yield Check("wandb", True, f"logged in at {host}")
    else:
        yield Check(
            "wandb", False, f"not logged in at {host}", "wandb login, or export WANDB_MODE=offline"
        )


def _in_netrc(host: str) -> bool:
    names = [os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in (Path(name) for name in names if name and Path(name).is_file()):
        try:
            return host in netrc.netrc(file).hosts
        except (netrc.NetrcParseError, OSError):
            continue
    return False


def _extras() -> Iterator[Check]:
    """Yield one check for each extra of this package, except the developers' own."""
    parts: dict[str, list[str]] = {}
    for text, extra in _requirements():
        if extra not in (None, "dev"):
            parts.setdefault(str(extra), []).append(text)
    for extra, texts in parts.items():
        missing = [text for text in texts if not _is_met(text)]
        found = f"missing or too old: {', '.join(missing)}" if missing else "installed"
        yield Check(f"extra: {extra}", not missing, found, f"pip install 'groundrec[{extra}]'")


def _requirements() -> Iterator[tuple[str, str | None]]:
    """Yield what this package requires, `name>=version`, and for which extra."""
    from packaging.requirements import Requirement

    for line in metadata("groundrec").get_all("Requires-Dist") or ():
        required = Requirement(line)
        extra = re.search(r'extra == ["\']([^"\']+)', line)
        if required.marker is None or required.marker.evaluate(
            {"extra": extra[1] if extra else ""}
        ):
            yield f"{required.name}{required.specifier}", extra[1] if extra else None


def _is_met(text: str) -> bool:
    from packaging.requirements import Requirement

    required = Requirement(text)
    try:
        return required.specifier.contains(version(required.name), prereleases=True)
    except PackageNotFoundError:
        return False


def _output(*command: str) -> str:
    """Return what a command prints, errors included; empty if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + done.stderr).strip() if done.returncode == 0 else ""


def _write_launch(*, as_json: bool) -> None:
    from groundrec.app.commands.vscode import write

    listed = _output("nvidia-smi", "--list-gpus").splitlines()
    added = write(Path.cwd(), max(2, len(listed)))
    if as_json:
        print(json.dumps(added))
        return
    file = Path(".vscode") / "launch.json"
    print(f"{file}: added {', '.join(added)}" if added else f"{file}: nothing to add")
    print("now: groundrec run RECIPE --debug-attach 5678, then Run and Debug in VS Code")


def _print(found: list[Check]) -> None:
    console = Console(highlight=False)
    names = {check.name: localize(check.name) for check in found}
    wide = max(map(cell_len, names.values()))
    for check in found:
        mark, style = ("✓", "green") if check.ok else ("✗", "red" if check.needed else "yellow")
        name = set_cell_size(names[check.name], wide)
        line = Text.assemble((mark, style), f" {name}  {localize(check.found)}")
        if not check.ok:
            line.append("" if check.needed else localize("  (optional)"), style="dim")
            line.append(f"\n  {'':<{wide}}  → {localize(check.fix)}")
        console.print(line, soft_wrap=True)
