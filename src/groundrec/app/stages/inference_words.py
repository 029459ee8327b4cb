"""What is asked of an inference, and where the words of its prompts come from.

Reads no weights. Knows nothing about searching.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from groundrec.core.errors import ConfigError
from groundrec.core.files import read_json
from groundrec.core.inputs import step_folder
from groundrec.core.recipe import Recipe
from groundrec.data.exchange.test_files import Form
from groundrec.data.exchange.title_lists import read_titles, titles_beside

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from groundrec.text.row_prompts import RowPrompts

__all__ = ["Inference", "PromptWords", "weights_folder"]

WORDS_OF = {"bigrec": Path("inference.py"), "d3": Path("code") / "dataset.py"}
"""Where each script's words are, seen from the folder in which its commands are typed."""


@dataclass(frozen=True)
class Inference:
    """What is asked: the values of the scripts' words, those left out by the scripts' defaults."""

    script: Form
    base_model: str
    adapters: Path | None
    test_file: Path
    result: Path
    batch_size: int
    num_beams: int
    constrained: bool = False
    """Whether to search the catalogue exactly instead of by the script's own beams."""
    max_new_tokens: int = 128
    load_8bit: bool = False
    catalogue: Path | None = None
    category: str = ""
    signal: Path | None = None
    temperature: float = 1.0
    guidance_scale: float = 1.0
    length_penalty: float = 1.0
    template: str = ""
    words_from: Path | None = None

    @property
    def searches(self) -> bool:
        """Whether titles of the catalogue are decoded, and nothing else."""
        return self.constrained or self.script == "d3"

    @property
    def titles(self) -> list[str]:
        """The catalogue's titles; empty where none is known and none needed."""
        listed = self.catalogue or titles_beside(self.test_file)
        if listed is None and self.searches:
            raise ConfigError(
                "no list of titles to search",
                value=f"nothing beside {self.test_file}",
                accepted="id2name.txt or movies.dat beside the test file, or a file of titles",
                next_step="--info_file FILE" if self.script == "d3" else "--catalogue FILE",
            )
        return read_titles(listed) if listed else []


@dataclass(frozen=True)
class PromptWords:
    """Where the words of the prompts come from."""

    source: str
    template: str = ""
    script: Path | None = None
    run: Path | None = None

    @classmethod
    def of(cls, asked: Inference) -> PromptWords:
        """Return the words that are asked for, else those the model was trained with, else those
        of the script in this folder; raise `ConfigError` where there are none.
        """
        if asked.template:
            return cls(f"the template {asked.template}", template=asked.template)
        if asked.words_from:
            return cls(f"those of {asked.words_from}", script=asked.words_from)
        for path in (asked.adapters, Path(asked.base_model)):
            if path and (run := run_of(path)):
                return cls(f"those that {run} was trained with", run=run)
        script = WORDS_OF[asked.script]
        if script.is_file():
            return cls(f"those of ./{script}", script=script)
        raise ConfigError(
            "the words around a history are not known",
            value=f"{asked.base_model} was not trained by groundrec, and there is no ./{script}",
            accepted="the words that the model was trained with",
            next_step=f"--words_from PATH/{script}, or --template FILE.toml",
        )

    def contents(self) -> object:
        """Return what the words depend on."""
        if self.script:
            beside = self.script.with_name("evaluate.py")
            return [file.read_text("utf-8") for file in (self.script, beside) if file.is_file()]
        if self.run:
            return read_json(self.run / "config.json")
        file = Path(self.template)
        return file.read_text("utf-8") if file.is_file() else self.template

    def prompts(
        self, asked: Inference, tokenizer: PreTrainedTokenizerBase, titles: tuple[str, ...]
    ) -> RowPrompts:
        """Return what makes prompts of rows, whose titles are `titles`."""
        from groundrec.text import row_prompts
        from groundrec.text.prompts import DEFAULT, load_template, template_of
        from groundrec.text.script_words import BIGRecWords, D3Words

        if self.script and asked.script == "bigrec":
            return row_prompts.BIGRecPrompts(BIGRecWords.of(self.script), tokenizer)
        if self.script:
            return row_prompts.D3Prompts(D3Words.of(self.script, asked.category), tokenizer)
        if self.run:
            recipe = Recipe.model_validate(read_json(self.run / "config.json"))
            cutoff = recipe.train.cutoff_len
            return row_prompts.TemplatePrompts(template_of(recipe), tokenizer, titles, cutoff)
        template = load_template(self.template, asked.category or DEFAULT)
        return row_prompts.TemplatePrompts(template, tokenizer, titles)


def weights_folder(path: Path) -> Path:
    """Return the folder with the weights: of a run directory, that of its trained model."""
    stage = step_folder(path, "train")
    return stage if (stage / "inputs.json").is_file() else path


def run_of(path: Path) -> Path | None:
    """Return the run directory that a folder is, or is in."""
    for folder in (path, *path.resolve().parents[:3]):
        if (step_folder(folder, "train") / "inputs.json").is_file():
            return folder
    return None
