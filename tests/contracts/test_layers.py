"""The rooms of the house: who may import whom, and what stays light."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import groundrec

SOURCE = Path(groundrec.__file__).parent
ROOMS = {
    "core": """
        errors language order files alive stop types tables track aliases trees config config_learn
        config_model config_signals config_rank config_track recipe_files setting_errors recipe
        glossary affects inputs
        registry processes environment runs
    """,
    "data": """
        raw.files raw.literals raw.lines raw.tables raw.download raw.fetch
        sources.table java engines sources.movielens sources.recbole sources.reviews
        arrays digests events
        protocols.coded protocols.quarantine protocols.clean protocols.windows dataset
        protocols.by_time protocols.d3 protocols.bigrec prepare
        exchange.write_d3 exchange.write_others summary shared_rows
        exchange.title_lists exchange.rejoin exchange.importing exchange.read_d3
        exchange.row_words exchange.infer_words exchange.read_bigrec exchange.test_files
    """,
    "text": "answers prompts script_words tokens row_prompts trie",
    "signals": "counts sequential objectives fit networks score_files external",
    "models": "attention forward adapters language packaged hubs checkpoints",
    "train": """
        batch packing precision rows start stopping adapters judging finite objectives trainer
        gradients finetune
    """,
    "rank": """
        search.tree_reader fuse learn_weights search.masks search.scoring search.goals
        search.branches search.beam search.exact search.exhaustive search.memory search.search
        search.explain batches slates groundings recommend ground.nearest ground.faiss_index
        ground.generate ground.bigrec prompted cluster
    """,
    "evaluate": """
        metrics rank_metrics statistics charts report_data report result_files grounded_results
    """,
    "contracts": "rules shop sources metrics signals base_models answers groundings objectives",
    "app": """
        boards commands.options commands.terminal commands.tokens_shown commands.track
        stages.domains stages.checks
        commands.language_option commands.new
        commands.settings_table commands.debug commands.card commands.datasets
        commands.data_commands commands.score_files commands.models commands.flag_values
        commands.published_defaults commands.published_data commands.published_flags
        stages.item_names stages.made_from stages.inference_words stages.inference
        stages.grounding_files commands.grounded_files stages.names stages.artefacts
        stages.validation_ndcg
        stages.resume_from commands.tokenize stages.choose_alpha stages.fusion stages.gather
        stages.result_export stages.measure stages.page stages.training stages.history_room
        stages.stages stages.plan
        recommender
        commands.recommend commands.explain_item jobs.records jobs.job pipeline jobs.state
        jobs.measured
        jobs.queue jobs.supervise jobs.background stages.comparison stages.seeds
        commands.recipes
        commands.runs_tables commands.runs commands.plan commands.run commands.published_train
        commands.train
        commands.inference_flags commands.inference commands.evaluate
        stages.agreement commands.typeset commands.compare
        commands.explain_data commands.explain commands.vscode commands.mirrors commands.doctor
        commands.main
    """,
}
"""Rooms and their modules: each may import what comes before it."""

ORDER = [f"groundrec.{room}.{name}" for room, names in ROOMS.items() for name in names.split()]
FOLDERS = sorted({f"{Path(*name.split('.')[1:-1])}" for name in ORDER} | set(ROOMS))
"""Rooms, and the folders inside them."""

HEAVY = {"torch", "transformers", "pyarrow", "duckdb", "ibis"}
LOADED = f"import sys; print(*sorted({HEAVY} & sys.modules.keys()))"


def file_of(module: str) -> Path:
    return SOURCE.parent / (module.replace(".", "/") + ".py")


def imported(module: str) -> Iterator[str]:
    """Yield what a module imports of groundrec; imports inside functions are left out in `app`
    only.
    """
    tree = ast.parse(file_of(module).read_text(encoding="utf-8"))
    functions = (
        [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)] if ".app." in module else []
    )
    late = {id(n) for function in functions for n in ast.walk(function)}
    for node in ast.walk(tree):
        if id(node) in late:
            continue
        if isinstance(node, ast.Import):
            yield from (
                alias.name for alias in node.names if alias.name.split(".")[0] == "groundrec"
            )
        elif isinstance(node, ast.ImportFrom) and (
            node.level or (node.module or "").split(".")[0] == "groundrec"
        ):
            assert node.level == 0, f"{module} line {node.lineno}: a relative import"
            yield from (_target(str(node.module), alias.name) for alias in node.names)


def _target(module: str, name: str) -> str:
    inner = f"{module}.{name}"
    return (
        inner
        if file_of(inner).exists() or (SOURCE.parent / inner.replace(".", "/")).is_dir()
        else module
    )


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_every_module_has_its_place() -> None:
    found = {p.relative_to(SOURCE).with_suffix("").as_posix() for p in SOURCE.rglob("*.py")}
    modules = {name.removeprefix("groundrec.").replace(".", "/") for name in ORDER}
    assert found == modules | {"__init__", "__main__"} | {
        f"{folder}/__init__" for folder in FOLDERS
    }


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_what_comes_before_it(module: str) -> None:
    before = {"groundrec", *ORDER[: ORDER.index(module)]}
    assert set(imported(module)) <= before


@pytest.mark.parametrize("room", FOLDERS)
def test_the_doors_of_rooms_import_nothing(room: str) -> None:
    tree = ast.parse((SOURCE / room / "__init__.py").read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def test_the_door_of_the_house_loads_nothing_of_it_before_a_name_is_asked_for() -> None:
    loaded = (
        "import sys, groundrec; dir(groundrec); print(*(m for m in sys.modules if"
        " m.startswith('groundrec.')))"
    )
    assert python(loaded).stdout == "\n"
    light = python(f"from groundrec import GroundrecError, Recipe, log_to, register\n{LOADED}")
    assert (light.returncode, light.stdout) == (0, "\n"), light


def test_the_door_of_the_house_offers_what_type_checkers_see_and_no_name_of_a_room() -> None:
    seen = ast.walk(ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8")))
    typed = [
        a.name for n in seen if isinstance(n, ast.ImportFrom) and n.module in ORDER for a in n.names
    ]
    assert sorted(typed) == sorted(groundrec.__all__) == sorted(groundrec._HOMES)
    assert set(groundrec.__all__) <= set(dir(groundrec))
    assert set(groundrec.__all__).isdisjoint(ROOMS), (
        "a room of that name, once imported, would take its place"
    )
    for name in groundrec.__all__:
        home = importlib.import_module(f"groundrec.{groundrec._HOMES[name]}")
        assert name in home.__all__
        assert getattr(groundrec, name) is getattr(home, name)
    with pytest.raises(AttributeError, match="no attribute 'recomend'"):
        getattr(groundrec, "recomend")  # noqa: B009


def test_core_and_data_need_neither_torch_nor_transformers() -> None:
    modules = [m for m in ORDER if m.split(".")[1] in ("core", "data")]
    blocked = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; "
    done = python(f"{blocked}import {', '.join(modules)}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "demo", "--dry-run"], ["settings"], ["list"]]
)
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    call = (
        f"import sys; sys.argv = {['groundrec', *arguments]!r}\nfrom groundrec.app.commands.main"
        " import main\n"
    )
    done = python(f"{call}try: main()\nexcept SystemExit as stop: assert not stop.code\n{LOADED}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "", done.stdout
