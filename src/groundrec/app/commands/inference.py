"""`groundrec inference`: the inference commands of published code, with an existing checkpoint.

Knows nothing about what the words mean; `inference_flags` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from groundrec.core.errors import ConfigError
from groundrec.core.track import log_to

__all__ = ["infer", "inference"]

HELP = """Recommend for a test file with an existing checkpoint, by the words of published code.

The words of BIGRec's inference.py write texts freely, by four beams:

    groundrec inference --base_model llama --lora_weights adapters
      --test_data_path movie/test_5000.json --result_json_data results/movie.json

Those of D3's evaluate.py decode titles of --info_file, by ten beams:

    groundrec inference --base_model qwen --info_file info/Books.txt
      --category Books --test_data_path test/Books.csv --result_json_data out.json

A word that is left out has its script's default. Both forms also take:
--constrained, the exact search over the catalogue instead of beams, with
--catalogue FILE for BIGRec; --num_beams, the length of the lists;
--words_from SCRIPT, the published script whose words the model was trained
with (./inference.py or ./code/dataset.py by itself), read as text; or
--template NAME or FILE. A run directory as --base_model or --lora_weights
knows its own words. The same command again resumes, and does nothing twice.
"""


def inference(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="--WORD VALUE …", help="Words of either script.")
    ] = None,
) -> None:  # its docstring is HELP, which shows both forms
    if not words:
        raise ConfigError(
            "nothing to recommend for",
            accepted="the words of BIGRec's inference.py or D3's evaluate.py",
            next_step="groundrec inference --help",
        )
    infer(words)


inference.__doc__ = HELP


def infer(words: Sequence[str]) -> None:
    """Do what the words ask for."""
    log_to(None)
    from groundrec.app.commands.inference_flags import parse_inference
    from groundrec.app.stages.inference import run_inference

    run_inference(parse_inference(words))
