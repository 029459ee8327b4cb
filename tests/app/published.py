"""Files in the layouts of BIGRec and D3, tiny checkpoints, and their scripts' algorithms, written
by hand: what the files of this project must agree with.

The words of the prompts are made up; the places of blocks, quotes, blanks and line breaks are where
both public codes have them.
"""

from __future__ import annotations

import csv
import json
import math
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from groundrec.text.tokens import train_tokenizer
from tests.data.amazon import WORDS

ITEMS = 24
ROWS = 20
INSTRUCTION = "Here are ten things. Say the eleventh."
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}
BIGREC_SCRIPT = '''
def generate_prompt(instruction, input=None):
    if input:
        return f"""A task follows, and more.  

### Instruction:
{instruction}

### Input:
{input}

### Response:
"""
    else:
        return f"""A task follows.  

### Instruction:
{instruction}

### Response:
"""
'''
D3_SCRIPT = '''
class Rows:
    def __init__(self, category):
        self.instructs = [
            f"Of these {category}, say the next {category}",
            f"Another way for {category}",
        ]

    def generate_prompt(self, data_point):
        return f"""### User Input: 
{data_point["input"]}

### Response: 
{data_point["output"]}"""

    def get_history(self, row):
        history = ""
        return {"input": f"The {self.category}s so far: {history}", "output": ""}

    def pre(self, idx):
        instruction = f"""A task follows. 

### Instruction:
{self.instructs[0]}
"""
'''
D3_COLUMNS = (
    *("item_asins", "item_asin", "history_item_id", "item_id", "history_item_title", "item_title"),
    *("history_rating", "rating", "history_timestamp", "timestamp"),
)
D3_CATEGORIES = 'category_dict = {"Books": "volumes", "Video_Games": "plays"}\n'


def title(item: int) -> str:
    """Return the title of an item; some begin alike, one holds what separates titles."""
    rng = random.Random(item // 2)
    words = " ".join(rng.choice(WORDS) for _ in range(3))
    return f"{words} {'second' if item % 2 else 'first'} {item}"


TITLES = [title(item) for item in range(ITEMS)]


def write_checkpoint(folder: Path, kind: str = "llama", old: bool = False) -> tuple[Path, Path]:
    """Write a base model and adapters for it; `old` ones as PEFT once pickled them."""
    torch.manual_seed(3)
    tokenizer = train_tokenizer([" ".join([*WORDS, *TITLES])] * 3, 500)
    base, lora = folder / kind, folder / f"{kind}-lora"
    shape = {"vocab_size": len(tokenizer), **SHAPE, **HEADS, "initializer_range": 0.3}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model: PreTrainedModel = (
        LlamaForCausalLM(LlamaConfig(**shape, **ends))
        if kind == "llama"
        else Qwen2ForCausalLM(Qwen2Config(**{**shape, **ends, "hidden_size": 48}))
    )
    if kind == "qwen":
        tokenizer.bos_token = None
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    config = LoraConfig(
        r=4,
        lora_alpha=16,
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
    )
    model.name_or_path = str(base)
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.24 for an attribute by its old name.
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(model, config)
    for name, weights in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.2)
    adapted.save_pretrained(lora)
    if old:
        _as_once(adapted, lora, base)
    return base, lora


def _as_once(adapted: Any, lora: Path, base: Path) -> None:
    """Rewrite adapters as PEFT 0.3 did: pickled, with fields that are gone since."""
    from peft import get_peft_model_state_dict

    torch.save(get_peft_model_state_dict(adapted), lora / "adapter_model.bin")
    (lora / "adapter_model.safetensors").unlink()
    fields = {
        "base_model_name_or_path": str(base),
        "bias": "none",
        "enable_lora": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "merge_weights": False,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 4,
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
    }
    (lora / "adapter_config.json").write_text(json.dumps(fields), encoding="utf-8")


def write_bigrec(folder: Path, rows: int = ROWS) -> Path:
    """Write BIGRec's checkout with its movies: `inference.py`, lists and test files."""
    data = folder / "data" / "movie"
    data.mkdir(parents=True)
    (folder / "inference.py").write_text(BIGREC_SCRIPT, encoding="utf-8")
    lines = [f"{10 + item}::{title(item)}::Drama\n" for item in range(ITEMS)]
    (data / "movies.dat").write_bytes("".join(lines).encode("iso-8859-1"))
    rng = random.Random(5)
    for name in ("test", "valid"):
        drawn = [rng.sample(range(ITEMS), 5) for _ in range(rows)]
        parts = [
            {
                "instruction": INSTRUCTION,
                "input": "Before: " + ", ".join(f'"{title(i)}"' for i in history),
                "output": f'"{title(target)}"',
                "note": number,
            }
            for number, (*history, target) in enumerate(drawn)
        ]
        (data / f"{name}.json").write_text(json.dumps(parts), encoding="utf-8")
    return data


def write_d3(folder: Path, rows: int = ROWS) -> Path:
    """Write D3's checkout with its books: code, info file and a test file; return the last."""
    for part in ("code", "info", "test"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "code" / "dataset.py").write_text(D3_SCRIPT, encoding="utf-8")
    (folder / "code" / "evaluate.py").write_text(D3_CATEGORIES, encoding="utf-8")
    info = "".join(f"{title(item)}\t{item}\n" for item in range(ITEMS))
    (folder / "info" / "Books.txt").write_text(info, encoding="utf-8")
    file, rng = folder / "test" / "Books.csv", random.Random(6)
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["user_id", "history_item_title", "item_title", "item_id"])
        for user in range(rows):
            *history, target = rng.sample(range(ITEMS), rng.randint(2, 5))
            writer.writerow([f"u{user}", [title(i) for i in history], title(target), target])
    return file


def write_d3_data(folder: Path, name: str, **sizes: int) -> None:
    """Write D3's files of one name: so many rows in each split, and the list of titles."""
    times = iter(range(1_500_000_000, 1_600_000_000))
    for number, (split, rows) in enumerate(sizes.items()):
        (folder / split).mkdir(parents=True, exist_ok=True)
        rng = random.Random(number)
        with (folder / split / f"{name}.csv").open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(["user_id", *D3_COLUMNS])
            for row in range(rows):
                *history, target = rng.sample(range(ITEMS), 4)
                asins = [f"A{item}" for item in history]
                stamps = [next(times) for _ in history]
                titles = [title(item) for item in history]
                past = [asins, f"A{target}", history, target, titles, title(target)]
                ratings = [[5.0] * len(history), 4.0]
                writer.writerow([f"{split}{row}", *past, *ratings, stamps, next(times)])
    (folder / "info").mkdir(exist_ok=True)
    info = "".join(f"{title(item)}\t{item}\n" for item in range(ITEMS))
    (folder / "info" / f"{name}.txt").write_text(info, encoding="utf-8")


def bigrec_prompt(row: dict[str, str]) -> str:
    """Return a row's prompt in the made-up words."""
    return (
        f"A task follows, and more.  \n\n### Instruction:\n{row['instruction']}\n\n"
        f"### Input:\n{row['input']}\n\n### Response:\n"
    )


def bigrec_texts(base: Path, lora: Path, rows: Sequence[dict[str, str]]) -> list[list[str]]:
    """Return what BIGRec's script would write: PEFT's model, `generate`, four beams, row by row."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), str(lora)).eval()
    config = GenerationConfig(
        num_beams=4,
        num_return_sequences=4,
        max_new_tokens=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    found = []
    for row in rows:
        ids = tokenizer([bigrec_prompt(row)], return_tensors="pt")
        out = model.generate(
            input_ids=ids["input_ids"],
            attention_mask=ids["attention_mask"],
            generation_config=config,
        )
        whole = tokenizer.batch_decode(out, skip_special_tokens=True)
        found.append([text.split("Response:\n")[-1] for text in whole])
    return found


def d3_prompt(titles: Sequence[str]) -> str:
    """Return a prompt in the made-up words."""
    listed = ", ".join(f'"{one}"' for one in titles)
    return (
        "A task follows. \n\n### Instruction:\nOf these volumes, say the next volumes\n"
        f"### User Input: \nThe volumess so far: {listed}\n\n### Response: \n"
    )


class Allowed(LogitsProcessor):
    """Only tokens that continue a title, mixed with a signal's mass below each, as D3 does it."""

    def __init__(
        self,
        answers: list[list[int]],
        start: int,
        signal: NDArray[np.float64] | None,
        weight: float,
    ) -> None:
        self._answers = answers
        self._start = start
        self._signal = signal
        self._weight = weight

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.log_softmax(-1)
        out = torch.full_like(scores, -1e6)
        for row, ids in enumerate(input_ids.tolist()):
            before = ids[self._start :]
            below: dict[int, float] = {}
            for number, answer in enumerate(self._answers):
                if answer[: len(before)] == before and len(answer) > len(before):
                    mass = 1.0 if self._signal is None else float(self._signal[number])
                    token = answer[len(before)]
                    below[token] = below.get(token, 0.0) + mass
            for token, mass in below.items():
                share = math.log(mass / sum(below.values()) + 1e-20)
                if self._signal is None:
                    out[row, token] = scores[row, token]
                else:
                    out[row, token] = self._weight * scores[row, token] + (1 - self._weight) * share
        return out


def d3_lists(
    base: Path,
    histories: Sequence[Sequence[str]],
    signal: NDArray[np.float64] | None = None,
    weight: float = 1.0,
    penalty: float = 1.0,
) -> list[list[str]]:
    """Return what D3's script would write: ten constrained beams by `generate`, row by row."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    answers = [
        [*tokenizer(f'"{one}"\n', add_special_tokens=False)["input_ids"], 2] for one in TITLES
    ]
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    found = []
    for number, titles in enumerate(histories):
        head, middle, rest = d3_prompt(titles).partition("### User Input")
        parts = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (head, middle + rest))
        ids = [*start, *(token for part in parts for token in part)]
        row = None if signal is None else np.exp(signal[number]) / np.exp(signal[number]).sum()
        out = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            generation_config=GenerationConfig(
                num_beams=10,
                num_return_sequences=10,
                length_penalty=penalty,
                pad_token_id=2,
                eos_token_id=2,
                early_stopping="never",
                max_new_tokens=64,
            ),
            logits_processor=LogitsProcessorList([Allowed(answers, len(ids), row, weight)]),
        )
        found.append(tokenizer.batch_decode(out[:, len(ids) :], skip_special_tokens=True))
    return found


def calc(rows: Sequence[dict[str, Any]], ks: Sequence[int]) -> dict[str, list[float]]:
    """Return NDCG and HR as D3's calc.py defines them: the last place that names the target."""
    ndcg, hits = np.zeros(len(ks)), np.zeros(len(ks))
    for row in rows:
        output = row["output"][0] if isinstance(row["output"], list) else row["output"]
        target = output.strip(' \n"')
        named = [text.strip(" \n").strip('"').strip(" ") for text in row["predict"]]
        places = [place for place, text in enumerate(named) if text == target]
        inside = [bool(places) and places[-1] < k for k in ks]
        ndcg += [1 / math.log2(places[-1] + 2) if hit else 0.0 for hit in inside]
        hits += np.array(inside, float)
    return {"ndcg": (ndcg / len(rows)).tolist(), "hr": (hits / len(rows)).tolist()}


def grounded_ranks(distance: NDArray[np.floating], targets: Sequence[int]) -> list[int]:
    """Return where BIGRec's evaluate.py finds each target: how many items are nearer."""
    ranks = distance.argsort(axis=-1, kind="stable").argsort(axis=-1, kind="stable")
    return [int(row[target]) for row, target in zip(ranks, targets, strict=True)]
