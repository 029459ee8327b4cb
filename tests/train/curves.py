"""The loss curve of a small training, however its batches are divided. A module to start: `python
-m … FOLDER JSON`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from groundrec.core import config_learn, config_model
from groundrec.core.track import Metrics
from groundrec.models.language import open_base
from groundrec.text.prompts import load_template
from groundrec.text.tokens import Encoder
from groundrec.train import finetune as module
from groundrec.train.rows import Domain
from groundrec.train.trainer import ObjectiveTrainer
from tests.shops import planted_shop

__all__ = ["STILL", "curve"]

STILL = config_model.Scratch(vocabulary=300, hidden=32, layers=1, heads=2, dropout=0.0)
BASE = {
    "epochs": 2,
    "learning_rate": 5e-3,
    "warmup_steps": 2,
    "batch_size": 16,
    "cutoff_len": 400,
    "patience": 0,
}


def curve(
    folder: Path, template: str = "d3", dropout: float = 0.0, also: int = 0, **settings: Any
) -> list[tuple[str, float]]:
    """Train, and return the loss of each step and of each validation, in order, with a sum of the
    weights.

    With `also`, a second domain of that many users takes part.
    """
    folder.mkdir(exist_ok=True)
    shop = planted_shop(users=13)  # 65 examples, which no batch divides
    own = module.arguments

    def every_step(section: config_learn.Train, seed: int, path: Path) -> Any:
        found = own(section, seed, path)
        found.logging_steps = 1
        return found

    module.arguments = every_step  # type: ignore[assignment]
    try:
        section = config_learn.Train.model_validate({**BASE, **settings})
        model = config_model.Model(scratch=STILL.model_copy(update={"dropout": dropout}))
        lm = open_base(model, shop.catalogue.titles, seed=3)
        encoder = Encoder(
            load_template(template), lm.tokenizer, shop.catalogue.titles, section.cutoff_len
        )
        metrics = folder / f"metrics-{os.environ.get('RANK', '0')}.jsonl"
        domains = [Domain(shop, encoder)]
        if also:
            domains.append(Domain(planted_shop(users=also, seed=1), encoder, "also"))
        lm = module.finetune(lm, domains, section, 3, folder / "c", Metrics(metrics, "model"))
    finally:
        module.arguments = own
    parameters = {name: p.detach().clone() for name, p in lm.model.named_parameters()}
    save_file(parameters, folder / f"weights-{os.environ.get('RANK', '0')}.safetensors")
    rows = Metrics.read(metrics)
    found = [(key, row[key]) for row in rows for key in ("loss", "eval_loss") if key in row]
    total = sum(float(p.double().abs().sum()) for p in parameters.values())
    return [*found, ("weights", total)] if found else []


def shut_down_late(
    trainer: ObjectiveTrainer, own: Callable[[ObjectiveTrainer], None] = ObjectiveTrainer.shutdown
) -> None:
    """Part while another process has still to answer, and nobody but gloo holds what it is to
    answer with.
    """
    if trainer.args.world_size == 1:
        return
    is_last = torch.distributed.get_rank() == 1
    time.sleep(is_last)
    answers = [torch.zeros(10), torch.zeros(10)]
    torch.distributed.all_gather(answers, answers[0].clone(), async_op=not is_last)
    del answers
    own(trainer)


if __name__ == "__main__":
    torch.set_num_threads(1)
    ObjectiveTrainer.shutdown = shut_down_late
    found = curve(Path(sys.argv[1]), **json.loads(sys.argv[2]))
    if left := [
        name
        for path in Path("/proc/self/task").glob("*/comm")
        if "gloo" in (name := path.read_text())
    ]:
        sys.exit(f"threads that end a process with SIGABRT are left: {left}")
    (Path(sys.argv[1]) / f"curve-{os.environ.get('RANK', '0')}.json").write_text(
        json.dumps(found), encoding="utf-8"
    )
