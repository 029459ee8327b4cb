"""What the package says about itself is true: recipes, settings, names, help, version, generated
pages.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

import groundrec
from groundrec.app.commands.main import app
from groundrec.app.stages.checks import check_names
from groundrec.core.recipe import Recipe, as_toml, load_recipe, settings
from groundrec.core.recipe_files import packaged_files
from groundrec.core.registry import BUILT_IN, resolve
from tests.commands import command
from tests.contracts.test_layers import ORDER, file_of

ROOT = Path(__file__).parents[2]
RECIPES = packaged_files()
SETTINGS = list(settings(Recipe()))
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
ENTRIES = [(seam, name) for seam, table in BUILT_IN.items() for name in table]


def parameters() -> list[Any]:
    return [
        pytest.param(p, id=f"{name} {p.name}") for name, c in COMMANDS.items() for p in c.params
    ]


ENGINES = {
    "bigrec": {"kind": "DEEPSPEED", "processes": 4, "zero": 2, "bf16": True},
    "ddp": {"kind": "MULTI_GPU", "processes": 2},
    "deepspeed-zero2": {"kind": "DEEPSPEED", "processes": 2, "zero": 2, "bf16": False},
    "deepspeed-zero3": {"kind": "DEEPSPEED", "processes": 2, "zero": 3, "bf16": False},
    "fsdp": {"kind": "FSDP", "processes": 2},
}


@pytest.mark.parametrize("name", ENGINES)
def test_accelerate_makes_of_its_recipes_what_they_say(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they do needs GPUs. Here: what `accelerate launch` tells its processes, and the plugins
    they make of it.
    """
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    file = str(packaged_files(".yaml")[f"accelerate/{name}"])
    wanted = ENGINES[name]
    config = load_config_from_file(file)
    assert (config.distributed_type.value, config.num_processes) == (
        wanted["kind"],
        wanted["processes"],
    )
    parser = launch_command_parser()
    assert set(config.fsdp_config) | set(config.deepspeed_config) <= {
        action.dest for action in parser._actions
    }
    args = _validate_launch_command(parser.parse_args(["--config_file", file, "-m", "groundrec"]))[
        0
    ]
    args.deepspeed_fields_from_accelerate_config = ",".join(config.deepspeed_config)
    told = prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)
    for key in told.keys() - os.environ.keys():
        monkeypatch.setenv(key, told[key])
    assert args.num_processes == wanted["processes"]
    if wanted["kind"] == "DEEPSPEED":
        plugin = DeepSpeedPlugin()
        plugin.set_mixed_precision(told["ACCELERATE_MIXED_PRECISION"])
        assert plugin.deepspeed_config["zero_optimization"]["stage"] == wanted["zero"]
        assert plugin.deepspeed_config["bf16"]["enabled"] is wanted["bf16"]
        assert plugin.deepspeed_config["gradient_accumulation_steps"] == "auto"
    elif wanted["kind"] == "FSDP":
        monkeypatch.setenv("FSDP_SYNC_MODULE_STATES", "false")  # asks for a device
        plugin = FullyShardedDataParallelPlugin()
        assert plugin.sharding_strategy.name == "FULL_SHARD"
        assert plugin.state_dict_type.name == "FULL_STATE_DICT"


def test_every_recipe_of_accelerate_is_tested() -> None:
    assert set(packaged_files(".yaml")) == {f"accelerate/{name}" for name in ENGINES}


def test_there_are_recipes() -> None:
    assert "demo" in RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_loads_names_what_exists_and_runs_dry(name: str) -> None:
    recipe, origin = load_recipe(name)
    check_names(recipe)
    assert Recipe.of(tomllib.loads(as_toml(recipe))) == recipe
    shown = json.loads(command("run", name, "--dry-run", "--json").out)
    assert shown.keys() == {key for key, *_ in SETTINGS}
    assert shown["name"] == {"value": recipe.name, "from": origin["name"]}
    assert RECIPES[name].name in {row["from"] for row in shown.values()}


@pytest.mark.parametrize(("key", "value", "meaning"), SETTINGS, ids=[key for key, *_ in SETTINGS])
def test_a_setting_says_what_it_means(key: str, value: object, meaning: str) -> None:
    assert re.fullmatch(r"\S.*\S", meaning), key
    assert meaning[-1] in ".)", f"{key}: not a sentence"


def test_the_settings_command_lists_every_setting() -> None:
    rows = json.loads(command("settings", "--json").out)
    assert [(r["setting"], r["meaning"]) for r in rows] == [
        (key, meaning) for key, _, meaning in SETTINGS
    ]
    table = command("settings", width=400).out
    assert [
        key
        for key, *_ in SETTINGS
        if not re.search(rf"^\S* ?{re.escape(key)} ", table, re.MULTILINE)
    ] == []


@pytest.mark.parametrize("module", ORDER)
def test_what_a_module_offers_is_there_and_what_others_import_is_offered(module: str) -> None:
    loaded = importlib.import_module(module)
    assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []
    assert len(set(loaded.__all__)) == len(loaded.__all__)
    for other, names in imports_of(module).items():
        assert names <= set(importlib.import_module(other).__all__), (
            f"{module} takes private names of {other}"
        )


def imports_of(module: str) -> dict[str, set[str]]:
    """Return, for each module of the package, the names that `module` imports from it."""
    nodes = ast.walk(ast.parse(file_of(module).read_text(encoding="utf-8")))
    froms = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.module in ORDER]
    return {str(n.module): {alias.name for alias in n.names} for n in froms}


def test_the_version_is_the_newest_in_the_changelog() -> None:
    versions = re.findall(
        r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert groundrec.__version__ == versions[0]
    assert versions == sorted(
        versions, key=lambda v: [int(part) for part in v.split(".")], reverse=True
    )
    assert command("version").out.strip() == groundrec.__version__


@pytest.mark.parametrize(
    ("seam", "name"), ENTRIES, ids=[f"{seam} {name}" for seam, name in ENTRIES]
)
def test_a_registered_name_stands_for_something_callable(seam: str, name: str) -> None:
    assert callable(resolve(seam, name))
    assert name in json.loads(command("list", seam, "--json").out)[seam]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_says_what_it_does_and_names_every_option(name: str) -> None:
    shown = command(name, "--help", width=200)
    assert shown.code == 0
    assert COMMANDS[name].help.strip().split("\n")[0] in shown.out
    for parameter in COMMANDS[name].params:
        assert all(option in shown.out for option in parameter.opts)


@pytest.mark.parametrize("parameter", parameters())
def test_an_option_has_a_help_text_that_is_a_sentence(parameter: Any) -> None:
    assert re.fullmatch(r"[A-Z].*[.)]", parameter.help or "")


def test_commands_named_in_messages_exist() -> None:
    """Every `groundrec word` in a text of the source, where it is given as a command."""
    named = set()
    for module in ORDER:
        tree = ast.parse(file_of(module).read_text(encoding="utf-8"))
        texts = [
            n.value
            for n in ast.walk(tree)
            if isinstance(n, ast.Constant) and isinstance(n.value, str)
        ]
        named |= {
            word for text in texts for word in re.findall(r"(?:^|`| )groundrec ([a-z]+)\b", text)
        }
    assert named <= COMMANDS.keys() | {"turns"}


@pytest.mark.parametrize("page", ["cli.md", "parameters.md", "parameters.zh-CN.md"])
def test_a_generated_page_is_current(page: str) -> None:
    written = runpy.run_path(str(ROOT / "docs" / "generate.py"))["PAGES"]
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == written[page](), "run `make docs`"
