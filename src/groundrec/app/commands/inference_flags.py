"""The words of BIGRec's inference.py and of D3's evaluate.py, with those scripts' own defaults.

Knows nothing about how recommendations are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from groundrec.app.commands.flag_values import NONE, Values, flag_values, only_one, typed
from groundrec.app.stages.inference_words import Inference
from groundrec.core.errors import ConfigError, did_you_mean
from groundrec.core.track import log
from groundrec.data.exchange.test_files import Form

__all__ = ["BIGREC", "D3", "OWN", "parse_inference"]

BIGREC: Mapping[str, object] = {
    "load_8bit": False,
    "base_model": "",
    "lora_weights": "tloen/alpaca-lora-7b",
    "test_data_path": "data/test.json",
    "result_json_data": "temp.json",
    "batch_size": 8,
}
"""The words of BIGRec's inference.py and their defaults."""
D3: Mapping[str, object] = {
    "base_model": "",
    "train_file": "",
    "info_file": "",
    "category": "",
    "logits_file": "",
    "test_data_path": "data/test.json",
    "result_json_data": "temp.json",
    "batch_size": 1,
    "K": 0,
    "seed": 0,
    "temperature": 1.0,
    "guidance_scale": 1.0,
    "length_penalty": 1.0,
}
"""The words of D3's evaluate.py and their defaults."""
OWN: Mapping[str, object] = {
    "constrained": False,
    "num_beams": 0,
    "max_new_tokens": 128,
    "template": "",
    "words_from": "",
    "catalogue": "",
    "lora_weights": "",
}
"""Words that neither script has, or not both."""
BEAMS = {"bigrec": 4, "d3": 10}
"""How many beams each script keeps, which is not among its words."""
UNUSED = ("train_file", "K", "seed")
"""Words of D3's script that it accepts and does not use."""
ELSEWHERE = {
    "alpha": "--guidance_scale, the language model's weight beside the signal of --logits_file",
    "cd": "--guidance_scale with --logits_file",
    "num_return_sequences": "--num_beams: as many texts as beams",
    "prompt_template": "--template",
    "do_sample": "groundrec run with ground.decoding = sample; the scripts do not sample",
    "share_gradio": "groundrec recommend RUN: there is no web page here, nor in that script",
    "server_name": "groundrec recommend RUN: there is no web page here, nor in that script",
}


def parse_inference(arguments: Sequence[str]) -> Inference:
    """Return what the words ask for; raise `ConfigError` for one that neither script has."""
    given = flag_values(arguments, "inference")
    script = _script(given)
    defaults = {**OWN, **(BIGREC if script == "bigrec" else D3)}
    _refuse_unknown(given, script, defaults)
    value: Values = {
        word: typed(word, given[word], default) if word in given else default
        for word, default in defaults.items()
    }
    if unused := [f"--{word}" for word in UNUSED if word in given]:
        log.info(f"not used, as in D3's evaluate.py: {', '.join(unused)}")
    _check(value, given, script)
    optional = {
        key: value[key]
        for key in ("temperature", "guidance_scale", "length_penalty")
        if key in value
    }
    return Inference(
        script,
        only_one(str(value["base_model"])),
        _adapters(script, given),
        Path(value["test_data_path"]),
        Path(value["result_json_data"]),
        value["batch_size"],
        value["num_beams"] or BEAMS[script],
        constrained=value["constrained"],
        max_new_tokens=value["max_new_tokens"],
        load_8bit=value.get("load_8bit", False),
        catalogue=_path(value["catalogue"] or value.get("info_file", "")),
        category=value.get("category", ""),
        signal=_path(value.get("logits_file", "")),
        template=value["template"],
        words_from=_path(value["words_from"]),
        **optional,
    )


def _script(given: Mapping[str, str]) -> Form:
    """Return whose words are given, by words of one script alone or by the test file."""
    of_d3 = [word for word in given if word in D3 and word not in BIGREC]
    of_bigrec = [word for word in given if word == "load_8bit"]
    if of_d3 and of_bigrec:
        raise ConfigError(
            "words of two scripts in one command",
            value=f"--{of_bigrec[0]} --{of_d3[0]}",
            accepted="BIGRec's inference.py or D3's evaluate.py",
            next_step="leave one of them out",
        )
    if of_d3:
        return "d3"
    suffix = Path(given.get("test_data_path", "")).suffix
    if of_bigrec or suffix == ".json" or ("lora_weights" in given and suffix != ".csv"):
        return "bigrec"
    if suffix == ".csv":
        return "d3"
    raise ConfigError(
        "is this BIGRec's inference.py or D3's evaluate.py?",
        value=" ".join(f"--{word}" for word in given) or "no words",
        accepted="--test_data_path with BIGRec's test.json or D3's test/….csv",
        next_step="groundrec inference --help",
    )


def _refuse_unknown(given: Mapping[str, str], script: Form, known: Mapping[str, object]) -> None:
    name = "BIGRec's inference.py" if script == "bigrec" else "D3's evaluate.py"
    for word in given:
        if word in known:
            continue
        if word in ELSEWHERE:
            raise ConfigError(
                "another word means this here", value=f"--{word}", accepted=ELSEWHERE[word]
            )
        raise ConfigError(
            f"{name} has no such word{did_you_mean(word, known)}",
            value=f"--{word}",
            accepted=", ".join(f"--{other}" for other in known),
            next_step="groundrec inference --help",
        )


def _check(value: Values, given: Mapping[str, str], script: Form) -> None:
    """Raise `ConfigError` for values that cannot be meant."""
    for word, least in (("batch_size", 1), ("num_beams", 0), ("max_new_tokens", 1)):
        if value[word] < least:
            raise ConfigError(
                "too small", value=f"--{word} {value[word]}", accepted=f"from {least}"
            )
    if not value["base_model"]:
        raise ConfigError(
            "no model",
            value="--base_model",
            accepted="a folder, or hf:ORG/NAME",
            next_step="--base_model FOLDER",
        )
    if script == "d3":
        _check_d3(value, given)
    elif not given.get("lora_weights"):
        raise ConfigError(
            "no adapters; the script's own default is not a recommender",
            value=f"--lora_weights {BIGREC['lora_weights']}",
            accepted="a folder of adapters, or None for a whole model in --base_model",
            next_step="--lora_weights FOLDER",
        )


def _check_d3(value: Values, given: Mapping[str, str]) -> None:
    if "max_new_tokens" in given:
        raise ConfigError(
            "titles are never cut", value="--max_new_tokens", accepted="BIGRec's free texts"
        )
    if value["constrained"] and given.get("length_penalty") not in (None, "0", "0.0"):
        raise ConfigError(
            "the exact search does not divide scores by lengths",
            value=f"--constrained --length_penalty {value['length_penalty']}",
            accepted="beams with a length penalty, or the exact search with --length_penalty 0",
            next_step="leave --constrained out",
        )
    if not value["temperature"] > 0:
        raise ConfigError(
            "not a temperature", value=value["temperature"], accepted="a number above 0"
        )
    if value["constrained"] and not 0 <= value["guidance_scale"] <= 1:
        raise ConfigError(
            "not a weight", value=f"--guidance_scale {value['guidance_scale']}", accepted="0 to 1"
        )
    file = str(value["logits_file"])
    if file and not file.endswith(".npy"):
        raise ConfigError("not an array of scores", value=file, accepted="a .npy file")
    if file and value["guidance_scale"] == 1:
        log.warning(
            "--logits_file changes nothing while --guidance_scale is 1, its default: the language"
            " model then has all the weight"
        )
    if value["guidance_scale"] != 1 and not file:
        raise ConfigError(
            "no signal to give weight to",
            value=f"--guidance_scale {value['guidance_scale']}",
            accepted="a signal's scores in --logits_file",
            next_step="--logits_file FILE.npy",
        )


def _adapters(script: Form, given: Mapping[str, str]) -> Path | None:
    text = only_one(given.get("lora_weights", ""))
    if text in NONE:
        return None
    path = Path(text)
    if not path.is_dir():
        raise ConfigError(
            "adapters not found",
            value=text,
            accepted="a folder with adapter_config.json, or a run directory",
            next_step="--lora_weights FOLDER",
        )
    return path


def _path(text: str) -> Path | None:
    return None if text in NONE else Path(only_one(text))
