"""Load written directories with transformers 4.57.6. This is a script, not collected by pytest.

With flaxdistill installed, write tiny models, tokenizers and their expected logits:

    python tests/compat_4_57.py --make DIR

With transformers 4.57.6 and torch installed, load each model and compare the logits:

    python tests/compat_4_57.py DIR/NAME ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

SENTENCE = "the cat sat on the mat"
WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "cat",
    "sat",
    "on",
    "mat",
    "dog",
    "##s",
)
IDS = [2, *(WORDS.index(word) for word in SENTENCE.split()), 3]
TOLERANCE = 1e-4


def make(folder: Path) -> None:
    """Write a tied and an untied model of every family, and their expected logits."""
    import json

    import jax
    import jax.numpy as jnp

    from flaxdistill.hub import families
    from flaxdistill.hub.checkpoint import write_model
    from flaxdistill.models.architecture import Compute, make_apply, make_init
    from flaxdistill.models.bert import Bert
    from flaxdistill.pytrees import Batch
    from flaxdistill.tasks.mlm import MaskedLMHead

    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True)
    (tokenizer / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    fields = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 32}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(fields))
    ids = np.asarray([IDS], np.int32)
    batch = Batch.of(jnp.asarray(ids))
    for name in families.known():
        family = families.family(name)
        for tied in (True, False):
            config = Bert(
                vocab_size=len(WORDS),
                hidden_size=16,
                num_layers=2,
                num_heads=4,
                intermediate_size=32,
                max_positions=32,
                type_vocab_size=2 if "embeddings/token_type" in family.encoder else 0,
                head=MaskedLMHead(),
                tied_head=tied,
            )
            initial = make_init(config)(jax.random.key(0))
            leaves, structure = jax.tree.flatten(initial)
            keys = jax.random.split(jax.random.key(1), len(leaves))
            params = structure.unflatten(
                leaf + 0.3 * jax.random.normal(key, leaf.shape)
                for leaf, key in zip(leaves, keys, strict=True)
            )
            with jax.default_matmul_precision("highest"):
                vocab = make_apply(config, Compute(dtype=jnp.float32))(params, batch, None).vocab
                logits = vocab.hidden @ vocab.kernel.T + vocab.bias[None, None]
            directory = folder / f"{name}-{'tied' if tied else 'untied'}"
            write_model(directory, family=family, config=config, params=params, tokenizer=tokenizer)
            np.save(folder / f"{directory.name}.logits.npy", np.asarray(logits))
            np.save(folder / f"{directory.name}.input_ids.npy", ids)
            print("wrote", directory)


def check(directory: Path) -> None:
    """Load a directory with transformers 4; raise AssertionError if its logits differ."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    ids, logits = (
        np.load(directory.parent / f"{directory.name}.{kind}.npy")
        for kind in ("input_ids", "logits")
    )
    model, info = AutoModelForMaskedLM.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    tokenizer = AutoTokenizer.from_pretrained(directory)
    with torch.no_grad():
        actual = model.eval()(torch.as_tensor(ids.astype(np.int64))).logits.numpy()
        from_text = model(**tokenizer(SENTENCE, return_tensors="pt")).logits
    assert torch.isfinite(from_text).all()
    assert actual.shape == logits.shape, (actual.shape, logits.shape)
    error = np.abs(actual - logits).max() / np.abs(logits).max()
    assert error <= TOLERANCE, error
    # An empty vocabulary loads without an error and maps everything to [UNK].
    assert tokenizer.unk_token_id not in tokenizer(SENTENCE)["input_ids"]
    # Not for other models than those of --make.
    if len(tokenizer) == len(WORDS):
        assert tokenizer(SENTENCE)["input_ids"] == ids[0].tolist()
    print(f"ok {directory} ({error:.1e})")


if __name__ == "__main__":
    first, *others = sys.argv[1:] or [""]
    if not first:
        sys.exit(__doc__)
    if first == "--make":
        make(Path(others[0]))
    else:
        for name in (first, *others):
            check(Path(name).absolute())
