"""Model checkpoints that are missing, damaged or of another kind."""

import shutil
import struct

import numpy as np
import pytest
from helpers.bad_inputs import (
    DISTILL,
    BadInput,
    both,
    change_tensors,
    check_refused,
    make_folder,
    make_model,
    remove,
    run_in_process,
    run_in_subprocess,
    set_field,
    truncate,
    write,
)

from flaxdistill.models.head import NoHead

AUGMENT = "augment rows.tsv out --model bert --column sentence --length 16"
HF_CONFIG = "bert/config.json"
WEIGHTS = "bert/model.safetensors"
INDEX = "bert/model.safetensors.index.json"
INNER = "bert.encoder.layer.1.intermediate.dense.weight"
OUTER = "bert.encoder.layer.1.output.dense.weight"


def header(text: str, claimed: int | None = None) -> bytes:
    """Return a safetensors file that consists of a header only."""
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text.encode()


BAD_INPUTS = {
    "teacher does not exist": BadInput(
        f"{DISTILL} --teacher.path nowhere", "there is no directory nowhere"
    ),
    "teacher is a file": BadInput(
        f"{DISTILL} --teacher.path text.txt", "text.txt is a file; give the directory"
    ),
    "teacher of the Hub": BadInput(
        f"{DISTILL} --teacher.path nobody/nothing",
        "nobody/nothing is no local directory, and cannot be downloaded from the Hub",
    ),
    "weights cut": BadInput(DISTILL, "model.safetensors is damaged", truncate(WEIGHTS)),
    "empty weights": BadInput("inspect bert", "model.safetensors is damaged", truncate(WEIGHTS, 0)),
    "weights of a huge header": BadInput(
        "inspect bert", "model.safetensors is damaged", write(WEIGHTS, header("{}", 2**62))
    ),
    "weights of a huge shape": BadInput(
        "inspect bert",
        "model.safetensors is damaged",
        write(
            WEIGHTS,
            header('{"a":{"dtype":"F32","shape":[1099511627776,9],"data_offsets":[0,4]}}')
            + b"1234",
        ),
    ),
    "weights of a folder": BadInput(
        "inspect bert",
        "cannot read bert/model.safetensors",
        both(remove(WEIGHTS), make_folder(WEIGHTS)),
    ),
    "weights missing": BadInput(DISTILL, "bert has no model.safetensors", remove(WEIGHTS)),
    "weights of a pickle": BadInput(
        DISTILL,
        "is a pickle, which can run code, and is never read",
        both(remove(WEIGHTS), write("bert/pytorch_model.bin", b"\x80\x04")),
    ),
    "a tensor missing": BadInput(
        DISTILL,
        "missing bert.encoder.layer.1.output.dense.weight [16, 32]",
        change_tensors(lambda t: t.pop(OUTER)),
    ),
    "a tensor unknown": BadInput(
        "convert bert out",
        "unknown bert.more [3]",
        change_tensors(lambda t: t.update({"bert.more": np.zeros(3, np.float32)})),
    ),
    "tensors unknown": BadInput(
        "convert bert out",
        "unknown bert.more",
        change_tensors(
            lambda t: t.update({f"bert.more.{n}": np.zeros(3, np.float32) for n in range(300)})
        ),
    ),
    "a tensor of another shape": BadInput(
        "convert bert out",
        "has shape [32, 15] but the config requires [32, 16]",
        change_tensors(lambda t: t.update({INNER: t[INNER][:, :15].copy()})),
    ),
    "a tensor of integers": BadInput(
        "inspect bert",
        "supported dtypes are BF16, F16, F32, F64",
        change_tensors(lambda t: t.update({OUTER: t[OUTER].astype(np.int8)})),
    ),
    "a tensor of nan": BadInput(
        AUGMENT,
        "has NaN or infinite values in bert.encoder.layer.1.output.dense.weight",
        change_tensors(lambda t: t[OUTER].fill(np.nan)),
    ),
    "shard elsewhere": BadInput(
        "inspect bert",
        "names the file '../a.safetensors'",
        both(remove(WEIGHTS), write(INDEX, '{"weight_map": {"a": "../a.safetensors"}}')),
    ),
    "shard missing": BadInput(
        "inspect bert",
        "has no a.safetensors, which model.safetensors.index.json names",
        both(remove(WEIGHTS), write(INDEX, '{"weight_map": {"a": "a.safetensors"}}')),
    ),
    "shards of nothing": BadInput(
        "inspect bert",
        "has no weight_map",
        both(remove(WEIGHTS), write(INDEX, '{"weight_map": []}')),
    ),
    "model config missing": BadInput(DISTILL, "bert has no config.json", remove(HF_CONFIG)),
    "model config cut": BadInput(
        "inspect bert", "config.json is not valid JSON", truncate("bert/config.json")
    ),
    "model config of a list": BadInput(
        "inspect bert", "config.json holds a list", write("bert/config.json", "[]")
    ),
    "model config nested": BadInput(
        "inspect bert", "config.json is not valid JSON", write("bert/config.json", "[" * 100_000)
    ),
    "model config of latin 1": BadInput(
        "inspect bert", "config.json is not valid JSON", write("bert/config.json", b'{"a": "\xe9"}')
    ),
    "model config of a folder": BadInput(
        "inspect bert",
        "cannot read bert/config.json",
        both(remove(HF_CONFIG), make_folder(HF_CONFIG)),
    ),
    "model of another family": BadInput(
        DISTILL,
        "model_type 'roberta' is not supported; supported are bert, distilbert",
        set_field(HF_CONFIG, "model_type", "roberta"),
    ),
    "model of the other family": BadInput(
        DISTILL, "config.json: dim is missing", set_field(HF_CONFIG, "model_type", "distilbert")
    ),
    "model without a family": BadInput(
        "inspect bert",
        'model_type is missing; write "model_type": and one of bert, distilbert',
        both(set_field(HF_CONFIG, "model_type", ...), set_field(HF_CONFIG, "hidden_size", ...)),
    ),
    "model family of lists": BadInput(
        "inspect bert", "model_type is ['bert']", set_field(HF_CONFIG, "model_type", ["bert"])
    ),
    "model size of text": BadInput(
        "inspect bert",
        "hidden_size is '16'; write a whole number",
        set_field(HF_CONFIG, "hidden_size", "16"),
    ),
    "model of many layers": BadInput(
        "inspect bert", "config.json has 500 layers", set_field(HF_CONFIG, "num_hidden_layers", 500)
    ),
    "model of a huge width": BadInput(
        "inspect bert",
        "hidden_size is 1180591620717411303424",
        set_field(HF_CONFIG, "hidden_size", 2**70),
    ),
    "model of types below 0": BadInput(
        "inspect bert", "type_vocab_size is -1", set_field(HF_CONFIG, "type_vocab_size", -1)
    ),
    "model of an epsilon": BadInput(
        DISTILL, "norm_eps is nan", set_field(HF_CONFIG, "layer_norm_eps", float("nan"))
    ),
    "model of an unknown activation": BadInput(
        "inspect bert",
        "hidden_act is 'swish'; only 'gelu', ",
        set_field(HF_CONFIG, "hidden_act", "swish"),
    ),
    "model of an unhashable activation": BadInput(
        "inspect bert", "hidden_act is {}", set_field(HF_CONFIG, "hidden_act", {})
    ),
    "model of a multi-label problem": BadInput(
        "inspect bert",
        "problem_type is 'multi_label_classification'",
        set_field(HF_CONFIG, "problem_type", "multi_label_classification"),
    ),
    "model config with a huge number": BadInput(
        "inspect bert",
        "config.json is not valid JSON",
        write("bert/config.json", '{"a": ' + "9" * 5000 + "}"),
    ),
    "model without a head": BadInput(
        f"{DISTILL} --teacher.path headless",
        "has no masked-LM head",
        make_model("headless", head=NoHead()),
    ),
    "model with pooled head": BadInput(
        "augment rows.tsv out --model headless --column sentence",
        "has no masked-LM head",
        make_model("headless", head=NoHead()),
    ),
    "both a converted and a Hugging Face model": BadInput(
        "inspect converted",
        "holds both config.json (Hugging Face) and model.json",
        lambda folder: shutil.copy(folder / "bert" / "config.json", folder / "converted"),
    ),
    "converted of a later format": BadInput(
        "convert converted out",
        "has format 3 but this version reads format 2",
        set_field("converted/model.json", "format", 3),
    ),
    "converted of an unknown field": BadInput(
        "convert converted out",
        "config has missing or unknown fields: depth",
        set_field("converted/model.json", "config.depth", 3),
    ),
    "converted of another size": BadInput(
        "convert converted out",
        "does not match the config in model.json",
        set_field("converted/model.json", "config.vocab_size", 65),
    ),
    "converted of another layer": BadInput(
        "convert converted out",
        "model.json has 500 layers",
        set_field("converted/model.json", "config.num_layers", 500),
    ),
    "converted damaged": BadInput(
        "convert converted out",
        "does not match the files listed in model.json",
        remove("converted/params/_METADATA"),
    ),
    "converted of another digest": BadInput(
        "convert converted out",
        "but model.json has 0",
        set_field("converted/model.json", "digest", "0"),
    ),
    "converted of a list": BadInput(
        "convert converted out",
        "does not match the files listed in model.json",
        set_field("converted/model.json", "files", [1]),
    ),
}


@pytest.mark.parametrize("bad", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_is_refused(bad, folder):
    check_refused(bad, folder, run_in_process)


IN_SUBPROCESS = {name: BAD_INPUTS[name] for name in ("weights cut",)}


@pytest.mark.parametrize("bad", IN_SUBPROCESS.values(), ids=IN_SUBPROCESS)
def test_is_refused_in_a_subprocess(bad, folder):
    check_refused(bad, folder, run_in_subprocess)
