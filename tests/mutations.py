"""Breaks the package in one place at a time and asks the tests to notice: ``python tests/mutations.py [WORD ...]``.

Every entry is a mistake that somebody has made in public or could make here. Words choose entries that hold them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

MUTATIONS: dict[tuple[str, str], dict[str, str]] = {
    # (file, the tests that must fail): what stands there, and what a mistake would make of it
    ("ops/divergence.py", "losses/test_oracles.py"): {
        "temperature**2 * soft": "soft",
        "gradient(w * temperature)": "gradient(w)",
        "log_p - math.log(len(theirs))": "log_p",
        "jnp.sum(q * (log_q - log_m), -1)": "jnp.sum(q * log_q, -1)",
        "2 * w[..., None] * difference": "w[..., None] * difference",
        "soft -= jnp.sum(jnp.exp(log_p) * log_p, -1)": "soft -= 0",
    },
    ("ops/divergence.py", "ops/test_vocab.py"): {
        "jnp.maximum(warm, 0.0) * warm": "warm",
    },
    ("ops/vocab.py", "ops/test_vocab.py"): {
        'dz = shares["student"](b) - jnp.where(hit': 'dz = shares["student"](b) + jnp.where(hit',
        "[:, : sizes[1]]": "[:, -sizes[1] :]",
    },
    ("ops/relation.py", "ops/test_relation.py"): {
        "(0, n * c - T)": "(n * c - T, 0)",
        "* x.shape[-1] ** -0.5": "",
        "jnp.exp(log_q) - p\n": "p - jnp.exp(log_q)\n",
        "jnp.where(same, scores, LOWEST)": "scores",
        "dy += jnp": "dy = jnp",
        "2 * (ours - theirs)": "ours - theirs",
        "jnp.where(same, slope, 0.0)": "slope",
        "jnp.where(same, each, 0.0)": "each",
    },
    ("ops/dropout.py", "ops/test_dropout.py"): {
        "math.prod(part[at + 1 :])": "1",
        "jnp.full(part, site, jnp.uint32)": "index",
        "(word & 0xFFFF, word >> 16)": "(word & 0xFFFF, word & 0xFFFF)",
        "/ (1 - drawn(rate))": "/ 1",
        "(x.astype(jnp.float32) / (1 - drawn(rate))).astype(x.dtype)": "x / jnp.asarray(1 - drawn(rate), x.dtype)",
        "0x1BD11BDA": "0",
    },
    ("ops/gelu.py", "ops/test_gelu.py"): {
        "jax.lax.optimization_barrier(x)": "x",
        "x.dtype) + y * density": "x.dtype) + density",
        "math.sqrt(0.5)": "0.7071",
        "dtype == jnp.float32": "False",
        "return gelu(x), x": "return gelu(x), x.astype(jnp.float32)",
    },
    ("losses/relation.py", "losses/test_layer_oracles.py"): {
        "mask * sequence_lengths(batch)": "mask",
        "mask / jnp.maximum(sequence_lengths(batch), 1.0)": "mask",
        "mask * scale[term] / len(teachers)": "mask * scale[term]",
        'mask * scale["scores"] / len(teachers)': 'mask * scale["scores"]',
        "NAMES[letter])[layer - 1]": "NAMES[letter])[layer - 2]",
        "side.queries[layer - 1], side.keys[layer - 1]": "side.keys[layer - 1], side.queries[layer - 1]",
        "jnp.sum(mask) * mask.shape[1]": "jnp.sum(mask)",
        "jnp.where(segments == 0, 1, segments)": "segments",
    },
    ("losses/hidden.py", "losses/test_layer_oracles.py"): {
        "jnp.mean(jnp.square": "jnp.sum(jnp.square",
        'x = x + map_["bias"][None, None]': "x = x",
        'params[f"teacher_{n}"]["shared"': 'params["teacher_0"]["shared"',
    },
    ("losses/relation.py", "losses/test_contracts.py"): {
        "self.weight(step)": "self.weight(0)",
    },
    ("losses/named.py", "losses/test_layer_oracles.py"): {
        "teachers[self.teacher : self.teacher + 1]": "teachers[:1]",
    },
    ("tree.py", "train/test_checkpoint.py"): {
        "(2 * place + 1)": "1",
    },
    ("train/checkpoint.py", "train/test_checkpoint.py"): {
        "for step in sorted(self._manager.all_steps(), reverse=True)": "for step in self._manager.all_steps()",
        '_check(told, _summed(restored)["sums"])': "pass",
    },
    ("train/log.py", "train/test_log.py"): {
        "1.4826 *": "0.0 *",
        "if math.isfinite(loss):": "if True:",
    },
    ("doctor.py", "test_doctor.py"): {
        "jnp.roll(x, 1, 0)": "jnp.roll(x, 0, 0)",
        "pad(batch.labels, -1) if every_token": "pad(batch.labels, 0) if not every_token",
    },
    ("pytrees.py", "ops/test_vocab.py"): {
        '((*ROWS, "tensor"), ROWS)': "(ROWS,)",
    },
    ("layer_map.py", "test_layer_map.py"): {
        "j * teacher / student + 0.5": "j * teacher / student",
        "ours % (student + 1)": "ours % student",
        "DISTILBERT = (1, 3, 5, 8, 10, 12)": "DISTILBERT = (2, 4, 6, 8, 10, 12)",
        "teacher / student + 0.5), 1)": "teacher / student + 0.5), 0)",
    },
    ("losses/hidden.py", "losses/test_oracles.py"): {
        "/ len(teachers)": "",
    },
    ("losses/hidden.py", "losses/test_contracts.py"): {
        "mask * self.distance": "self.distance",
    },
    ("losses/cosine.py", "losses/test_contracts.py"): {
        "1.0 - cosine(x, y)": "-cosine(x, y)",
        "1e-12) * jax": "0.0) * jax",
    },
    ("losses/vocab.py", "losses/test_oracles.py"): {
        "kl_mask / jnp.square": "kl_mask * jnp.square",
        ".at[positions].max(labels)": ".at[positions].set(labels)",
    },
    ("pytrees.py", "losses/test_contracts.py"): {
        "(self.positions > 0) & (following": "(following",
    },
    ("losses/base.py", "losses/test_contracts.py"): {
        "batch.positions == 0, batch.real()": "batch.positions == 0, 1.0",
    },
    ("losses/labels.py", "losses/test_labels.py"): {
        "known > 0, batch.labels, 0.0": "batch.weight[:, None] >= 0, batch.labels, 0.0",
        "batch.labels != -1": "batch.labels >= 0",
        "asked / jnp.square": "asked * jnp.square",
        "jnp.where(known, batch.weight[:, None], 0.0)": "jnp.where(known, 1.0, 0.0)",
    },
    ("ops/logits.py", "losses/test_labels.py"): {
        "- jnp.where(hit, hard_weight[..., None], 0.0)": "- jnp.where(hit, 1.0, 0.0)",
        'gradient += shares["soft"](soft_weight)': 'gradient += shares["soft"](soft_weight) / 2',
    },
    ("data/duplicates.py", "data/test_engine.py"): {
        "(order + self.hashes.rows)": "order",
        "        again = order[1:]": "        order = order[::-1]\n        again = order[1:]",
        "range(0, len(hashes), SORTED)": "range(0, 1)",
    },
    ("data/engine.py", "data/test_engine.py"): {
        "daemon=True).start()": "daemon=True)",
        "number > 1": "number > 2",
    },
    ("data/split.py", "data/test_engine.py"): {
        "self.duplicates[begin:end] - first": "self.duplicates[begin:end]",
        "out | again if self.drop else out": "out | again",
        "(again & ~out).sum()": "again.sum()",
    },
    ("data/buckets.py", "data/test_examples.py"): {
        "waiting = waiting[whole:]": "waiting = waiting[:0]",
        "np.searchsorted(edges, tokens)": 'np.searchsorted(edges, tokens, side="right") - 1',
    },
    ("data/rows.py", "data/test_examples.py"): {
        "positions >= second": "positions > second",
    },
    ("tasks/sequence.py", "data/test_examples.py"): {
        "len(parts[0]) + 2 if": "len(parts[0]) + 1 if",
        "[: room // 2]": "[: (room + 1) // 2]",
    },
    ("tasks/tokens.py", "tasks/test_tokens.py"): {
        "labels[1 : len(asked) + 1]": "labels[: len(asked)]",
        "[NOT_ASKED] * (len(piece) - 1)": "[label] * (len(piece) - 1)",
        '("B-" + kind, "I-" + kind)': '("B-" + kind, "I-" + kind, "O")',
    },
    ("data/tagged.py", "tasks/test_tokens.py"): {
        'field.strip(" ")': "field",
    },
    ("data/examples.py", "tasks/test_tokens.py"): {
        '" ".join(map(str, example.text))': "example.text",
    },
    ("data/readers.py", "tasks/test_span.py"): {
        "if file.read(2**16).strip():": "if False:",
    },
    ("tasks/span.py", "tasks/test_span.py"): {
        "            fits &= own[starts][:, None]\n": "",
        "context.argmax(0)": "context[::-1].argmax(0)",
    },
    ("evaluation.py", "test_tasks.py"): {
        "-m if name in LOWER_IS_BETTER else m": "m",
        "rates, key=lambda rate: _middle([": "rates, key=lambda rate: -_middle([",
    },
    ("ahead.py", "test_tasks.py"): {
        "config.labels == fit.UNKNOWN_LABELS and known": "False",
    },
    ("models/encoder.py", "train/test_step.py"): {
        '{"decoder": student["embeddings"]["word"]}': '{"decoder": jax.lax.stop_gradient(student["embeddings"]["word"])}',
    },
    ("student.py", "test_student.py"): {
        "slice(H), slice(d)": "slice(d), slice(H)",
        "directions[:, ::-1][:, :width]": "directions[:, :width]",
    },
    ("tasks/mlm.py", "tasks/test_mlm.py"): {
        "used + n <= wanted": "used < wanted",
        "& ~after_special": "",
        "jnp.take_along_axis(taken, first, 1)": "taken",
    },
    ("train/step.py", "train/test_step.py"): {
        "jnp.maximum(counts[term], 1.0)": "jnp.maximum(counts[term], 2.0)",
    },
    ("optim.py", "test_optim.py"): {
        "jnp.where(finite, -rate * u, 0.0)": "-rate * u",
        "jnp.where(finite, decay * m + (1 - decay) * g**order, m)": "decay * m + (1 - decay) * g**order",
        "state.step + finite": "state.step + 1",
        "jnp.where(finite, 0, state.notfinite_count + 1)": "state.notfinite_count + 1",
        "state.total_notfinite + ~finite": "state.total_notfinite + 1",
        "(1 - b ** jnp.maximum(step, 1) for b": "(1 for b",
        "if self.lamb": "if not self.lamb",
    },
    ("questions.py", "test_predict.py"): {
        'tag[:2] == "I-" and before[2:] == tag[2:]': 'tag[:2] == "I-" and before != "O"',
        "at - first + 1": "at + 1",
        "len(row.ids) - 1": "len(row.ids)",
        "nothing > most": "nothing < most",
        "_shares(start)[second + i]": "_shares(start[second:last])[i]",
    },
    ("tasks/tokens.py", "test_predict.py"): {
        "a += len(text[a:b])": "a += 0 * len(text[a:b])",
    },
    ("prediction.py", "test_predict.py"): {
        "len(question.rows)": "1",
        "label_positions=batch.labels": "label_positions=batch.label_positions",
    },
    ("train/trace.py", "test_cli.py"): {
        "step == self.last or stopping": "step == self.last",
    },
    ("offline.py", "test_offline.py"): {
        '- (name != "hidden")': "",
    },
    ("metrics.py", "test_metrics.py"): {
        "c * n - (p * t).sum(-1)": "c * n",
        "first - second[0] if second else first": "first",
    },
    ("fillers.py", "test_augment.py"): {
        "row[place + 1] = vocabulary.mask": "row[place] = vocabulary.mask",
        "= types - 1": "= 0",
        "model.config.type_vocab_size or 1": "2",
    },
    ("augment.py", "test_augment.py"): {
        "enumerate(zip(part, texts, strict=True), first)": "enumerate(zip(part, texts, strict=True), 0)",
        "text[at : word.start], others": "text[at : word.end], others",
        " if word.of(text).lower() not in stop_words": "",
        "columns | {name:": "columns | {how.source.column:",
        "(how.length - 3) // 2": "how.length - 3",
    },
    ("train/state.py", "test_tasks.py"): {
        '(worth > state.best["score"])': '(worth < state.best["score"])',
    },
    ("program.py", "test_tasks.py"): {
        "rows.prng_keys(2 * lane.seed + 1)": "rows.prng_keys(2 * e.lanes()[0].seed + 1)",
        "e.losses,\n                    e.optim.build(e.steps, lane.learning_rate)": "e.losses, e.optim.build(e.steps, e.optim.learning_rate)",
    },
    ("train/log.py", "test_fuzz.py"): {
        " and _is_row(row)": "",
    },
    ("data/store.py", "test_fuzz.py"): {
        "        _check(manifest, blocks)\n": "",
    },
    ("build.py", "test_bad_inputs.py"): {
        "resolve_student(e, references, start, load_vocabulary(given) if given else None, None)": "None",
    },
    ("stages.py", "test_tasks.py"): {
        "    _check_sizes(stages, root)\n": "",
    },
    ("stages.py", "test_bad_inputs.py"): {
        "            build.check(experiment)\n": "            pass\n",
    },
    ("data/filling.py", "test_bad_inputs.py"): {
        "                path.rmdir()": "                pass",
    },
    ("workdir.py", "test_tasks.py"): {
        "scores.index(max(scores))": "scores.index(min(scores))",
    },
    ("bucket.py", "test_bucket.py"): {
        "files.sort(key=lambda file: file.name in LAST)": "files.sort()",
        "if last not in there:": "if not there:",
        "elif any(": "elif not path.exists() and any(",
        "not any((path / name).is_relative_to(folder) for folder in busy)": "True",
        '== entry["crc32c"]': "!= None",
        '{".", "..", ""} & set(below.split("/")) and below': "False",
    },
    ("address.py", "test_bucket.py"): {
        "return here, (of(self),)": "return Path, (str(self),)",
        '{".", ".."} & set(names)': "False",
    },
    ("offline.py", "test_bucket.py"): {
        "bucket.remove(path)  # what was sent of it, and cut short": "pass",
        'bucket.reach(folder / f"{number:06}", "words.npy")': '(folder / f"{number:06}")',
    },
    ("stages.py", "test_bucket.py"): {
        "bucket.remove(out)  # what was sent of it, and cut short": "pass",
    },
    ("push.py", "test_push.py"): {
        "parent_commit=found.sha,": "",
        "private=self.private or None, ": "",
        "if self.private and not found.private:": "if False:",
        "            api.whoami()\n": "",
        "- set(files)": "- OWN",
        'valid = "/" in self.name': "valid = True",
        "error = error.__cause__": "error = None",
    },
    ("export.py", "test_push.py"): {
        "        push.check()\n": "        pass\n",
    },
    ("hub.py", "test_portable.py"): {
        "        finish(new)\n": "    finish(Path(directory))\n",
    },
    ("fresh.py", "test_portable.py"): {
        "if not apart <= TOLERANCE:": "if False:",
        "if (folder / STABLEHLO).is_file():": "if False:",
    },
    ("portable.py", "test_portable.py"): {
        'segment_ids=named["attention_mask"]': "segment_ids=jnp.ones_like(ids)",
        'named.get("token_type_ids", jnp.zeros_like(ids))': "jnp.zeros_like(ids)",
        'said.logits[:, 0] if config.head == "sequence" else': "",
        'len(family.prefix) if config.head == "none" else 0': "0",
        "T <= {model.config.max_positions}": "T >= 1",
        " + said.vocab.bias.astype(jnp.float32)[None, None]": "",
    },
    ("train/checkpoint.py", "test_bucket.py"): {
        "    bucket.probe(folder)\n": "",
    },
}


def main(words: list[str]) -> None:
    """Run the tests on one broken copy after the other; exits 1 where a mistake goes unnoticed."""
    every = [
        (*where, *change) for where, changes in MUTATIONS.items() for change in changes.items()
    ]
    chosen = [m for m in every if not words or any(word in " ".join(m) for word in words)]
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", "runs", "*.egg-info")
        )
        for number, (name, tests, right, wrong) in enumerate(chosen, 1):
            path = copy / "flaxdistill" / name
            source = path.read_text()
            if source.count(right) < 1:
                sys.exit(f"{name} no longer holds {right!r}: mend this list")
            path.write_text(source.replace(right, wrong))
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-x",
                "-q",
                "-p",
                "no:cacheprovider",
                f"tests/{tests}",
            ]
            run = subprocess.run(
                command, cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True
            )
            path.write_text(source)
            if run.returncode != 1:  # 0: passed; above 1: pytest itself did not run
                missed.append(f"{name}: {right!r} -> {wrong!r} (exit {run.returncode})")
            print(
                f"{number}/{len(chosen)} {name}: {'caught' if run.returncode == 1 else 'MISSED'}  {wrong!r}",
                flush=True,
            )
    print(f"{len(chosen) - len(missed)} of {len(chosen)} caught")
    if missed:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main(sys.argv[1:])
