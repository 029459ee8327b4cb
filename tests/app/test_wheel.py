"""The wheel holds everything a run needs: installed without the sources, it runs a recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import groundrec
from tests.app.conftest import write_shop

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "groundrec"
WHEEL = f"groundrec-{groundrec.__version__}-py3-none-any.whl"
TWO_STEPS = (
    "data.source=table",
    "data.path=events.csv",
    "prepare.protocol=leave-one-out",
    "model.scratch.vocabulary=400",
    "model.scratch.hidden=16",
    "sequential.epochs=1",
    "train.epochs=1",
    "train.max_examples=8",
    "train.batch_size=4",
    "train.micro_batch_size=4",
    "recommend.k=10",
    "evaluate.ks=[5,10]",
    "evaluate.bootstrap=20",
)
"""What turns the demo into a training of two steps on a small table."""


def called(*command: object, folder: Path) -> str:
    """Return what a command prints; it sees neither the sources nor a network."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**environment, "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of these sources."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ("pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    called(sys.executable, "-m", *build, folder=folder)
    return folder / WHEEL


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Return `groundrec` of a new environment, to be called in an empty folder: `installed(folder,
    *arguments)`.
    """
    environment = tmp_path_factory.mktemp("environment")
    called(sys.executable, "-m", "venv", "--without-pip", environment, folder=environment)
    python = environment / "bin" / "python"
    install = ("install", "--no-deps", wheel)
    called(sys.executable, "-m", "pip", "--python", python, *install, folder=environment)
    # What groundrec depends on is taken from here. A path in a .pth file is searched last, and the
    # .pth files found there, such as the one of an editable installation, are not read.
    (packages,) = environment.glob("lib/python*/site-packages")
    dependencies = [path for path in sys.path if path.endswith("-packages")]
    (packages / "dependencies.pth").write_text("\n".join(dependencies), encoding="utf-8")
    where = called(python, "-c", "import groundrec; print(groundrec.__file__)", folder=environment)
    assert Path(where.strip()) == packages / "groundrec" / "__init__.py"
    return lambda folder, *arguments: called(
        environment / "bin" / "groundrec", *arguments, folder=folder
    )


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    found = {
        path.relative_to(SOURCE.parent).as_posix()
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == found
    for kind in ("recipes/demo.toml", "recipes/accelerate/ddp.yaml", "text/templates/list.toml"):
        assert f"groundrec/{kind}" in names
    for kind in (
        "core/words/train.toml",
        "core/chinese/what.toml",
        "evaluate/report.html.j2",
        "evaluate/report.css",
    ):
        assert f"groundrec/{kind}" in names


def test_the_wheel_describes_itself(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        folder = f"groundrec-{groundrec.__version__}.dist-info"
        metadata = archive.read(f"{folder}/METADATA").decode()
    assert f"\nVersion: {groundrec.__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert metadata.endswith((ROOT / "README.md").read_text(encoding="utf-8"))


def test_an_installed_groundrec_runs_a_copied_recipe_to_the_end(
    installed: Callable[..., str], tmp_path: Path
) -> None:
    listed = json.loads(installed(tmp_path, "recipes", "list", "--json"))
    assert {"demo", "d3/baseline", "accelerate/ddp"} <= {row["name"] for row in listed}
    copied = installed(tmp_path, "recipes", "copy", "demo")
    assert "groundrec run demo.toml" in copied
    write_shop(tmp_path)
    settings = [word for setting in TWO_STEPS for word in ("--set", setting)]
    installed(tmp_path, "run", "demo.toml", *settings)
    run = tmp_path / "runs" / "demo"
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert max(json.loads(line).get("step", 0) for line in lines) == 2
    methods = json.loads((run / "evaluate" / "test.json").read_text(encoding="utf-8"))["methods"]
    assert {"language model", "popularity", "sasrec"} <= methods.keys()
    report = (run / "report.html").read_text(encoding="utf-8")
    assert (SOURCE / "evaluate" / "report.css").read_text(encoding="utf-8").strip() in report
    assert (run / "recipe-given.toml").read_bytes() == (tmp_path / "demo.toml").read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [("run", "demo", "--dry-run"), ("explain", "train.epochs", "--lang", "zh"), ("settings",)],
)
def test_a_command_needs_no_file_of_the_repository(
    installed: Callable[..., str], arguments: tuple[str, ...], tmp_path: Path
) -> None:
    assert installed(tmp_path, *arguments)
    assert list(tmp_path.iterdir()) == []
