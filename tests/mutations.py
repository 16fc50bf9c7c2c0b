"""Break the package in one place at a time and check that a test fails.

    python tests/mutations.py [FILTER ...]

Every entry is a mistake that was made in published code or is easy to make here. Filters select the
entries that contain one of them. ``test_mutations.py`` checks that every entry still matches.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

MUTATIONS: dict[tuple[str, str], dict[str, str]] = {
    # (file of the package, tests that must fail): {text of the file: the mistake that replaces it}
    ("ops/divergence.py", "losses/test_oracles.py"): {
        "temperature**2 * soft": "soft",
        "gradient(w * temperature)": "gradient(w)",
        "log_p - math.log(len(teacher_logits))": "log_p",
        "jnp.sum(q * (log_q - log_m), -1)": "jnp.sum(q * log_q, -1)",
        "2 * w[..., None] * difference": "w[..., None] * difference",
        "soft -= jnp.sum(jnp.exp(log_p) * log_p, -1)": "soft -= 0",
    },
    (
        "ops/divergence.py",
        "ops/test_vocab.py::test_a_temperature_of_two_only_saves_an_exponential",
    ): {
        "jnp.maximum(softened, 0.0) * softened": "softened",
    },
    ("ops/vocab.py", "ops/test_vocab.py::test_any_chunk_gives_the_full_objective_and_gradient"): {
        'gradients["logsumexp"](hard) - jnp.where(is_label': (
            'gradients["logsumexp"](hard) + jnp.where(is_label'
        ),
    },
    ("ops/chunks.py", "ops/test_vocab.py::test_any_chunk_gives_the_full_objective_and_gradient"): {
        "[:, : shape[1]]": "[:, -shape[1] :]",
    },
    ("ops/relation.py", "ops/test_relation.py"): {
        "(0, n * c - T)": "(n * c - T, 0)",
        "* x.shape[-1] ** -0.5": "",
        "jnp.exp(log_q) - p\n": "p - jnp.exp(log_q)\n",
        "jnp.where(mask, scores, MASK_VALUE)": "scores",
        "dy += jnp": "dy = jnp",
        "2 * difference": "difference",
        "jnp.where(mask, slope, 0.0)": "slope",
        "jnp.where(mask, pair_value, 0.0)": "pair_value",
    },
    ("ops/dropout.py", "ops/test_dropout.py"): {
        "math.prod(quarter[i + 1 :])": "1",
        "jnp.full(quarter, site, jnp.uint32)": "counter",
        "(word & 0xFFFF, word >> 16)": "(word & 0xFFFF, word & 0xFFFF)",
        "/ (1 - effective_rate(rate))": "/ 1",
        "(x.astype(jnp.float32) / (1 - effective_rate(rate))).astype(x.dtype)": (
            "x / jnp.asarray(1 - effective_rate(rate), x.dtype)"
        ),
        "0x1BD11BDA": "0",
    },
    ("ops/gelu.py", "ops/test_gelu.py"): {
        "jax.lax.optimization_barrier(x)": "x",
        "x.dtype) + y * density": "x.dtype) + density",
        "math.sqrt(0.5)": "0.7071",
        "dtype == jnp.float32": "False",
        "return gelu(x), x": "return gelu(x), x.astype(jnp.float32)",
    },
    ("ops/logits.py", "losses/test_labels.py"): {
        "- jnp.where(one_hot, hard_weight[..., None], 0.0)": "- jnp.where(one_hot, 1.0, 0.0)",
        'gradient += gradients["soft"](soft_weight)': (
            'gradient += gradients["soft"](soft_weight) / 2'
        ),
    },
    ("runtime/mesh_axes.py", "ops/test_vocab.py::test_each_of_eight_devices_computes_an_eighth"): {
        '((*BATCH_AXES, "tensor"), BATCH_AXES)': "(BATCH_AXES,)",
    },
    ("losses/relation.py", "losses/test_layer_oracles.py::test_scores_of_packed_sequences"): {
        "mask * sequence_lengths(batch)": "mask",
    },
    ("losses/relation.py", "losses/test_layer_oracles.py::test_tinybert_scores_as_published"): {
        "return attention.query, attention.key": "return attention.key, attention.query",
        "jnp.sum(mask) * mask.shape[1]": "jnp.sum(mask)",
        "jnp.where(segments == 0, 1, segments)": "segments",
    },
    ("losses/relation.py", "losses/test_layer_oracles.py::test_minilm_mean_over_sequences"): {
        "mask / jnp.maximum(sequence_lengths(batch), 1.0)": "mask",
    },
    ("losses/relation.py", "losses/test_layer_oracles.py::test_several_teachers_are_averaged"): {
        "mask * scale[term] / len(teachers)": "mask * scale[term]",
        'mask * scale["scores"] / len(teachers)': 'mask * scale["scores"]',
    },
    ("losses/relation.py", "losses/test_layer_oracles.py::test_minilm_over_true_lengths"): {
        "getattr(outputs.attention[layer - 1]": "getattr(outputs.attention[layer - 2]",
    },
    ("losses/relation.py", "losses/test_contracts.py::test_weights_move_with_the_step"): {
        '{f"relation_{name}": self.weight(step)': '{f"relation_{name}": self.weight(0)',
        '{"scores": self.weight(step)': '{"scores": self.weight(0)',
    },
    ("losses/hidden.py", "losses/test_layer_oracles.py::test_tinybert_hidden"): {
        "jnp.mean(jnp.square": "jnp.sum(jnp.square",
        'return x + affine["bias"][None, None]': "return x",
    },
    ("losses/hidden.py", "losses/test_layer_oracles.py::test_several_teachers_are_averaged"): {
        'params[f"teacher_{n}"][name]': 'params["teacher_0"][name]',
    },
    ("losses/hidden.py", "losses/test_oracles.py::test_cosine"): {
        "/ len(teachers)": "",
    },
    ("losses/hidden.py", "losses/test_contracts.py::test_padding_and_filler_rows_change_nothing"): {
        "mask * self.distance": "self.distance",
    },
    ("losses/named.py", "losses/test_layer_oracles.py::test_named_losses_of_one_teacher"): {
        "teachers[self.teacher : self.teacher + 1]": "teachers[:1]",
    },
    (
        "losses/cosine.py",
        "losses/test_contracts.py::test_match_is_minimal_where_student_equals_teacher",
    ): {
        "1.0 - cosine(student, teacher)": "-cosine(student, teacher)",
    },
    ("losses/cosine.py", "losses/test_contracts.py::test_finite"): {
        "1e-12) * jax": "0.0) * jax",
    },
    ("losses/vocab.py", "losses/test_oracles.py::test_divergences"): {
        "soft_mask / jnp.square": "soft_mask * jnp.square",
    },
    ("losses/vocab.py", "losses/test_oracles.py::test_vocab"): {
        ".at[positions].max(labels)": ".at[positions].set(labels)",
    },
    ("losses/base.py", "losses/test_contracts.py::test_token_mask_marks_the_literal_tokens"): {
        "batch.positions == 0, batch.real()": "batch.positions == 0, 1.0",
    },
    ("losses/labels.py", "losses/test_labels.py"): {
        "mask > 0, batch.labels, 0.0": "batch.weight[:, None] >= 0, batch.labels, 0.0",
        "batch.labels != -1": "batch.labels >= 0",
        "mask / jnp.square": "mask * jnp.square",
        "jnp.where(labelled, batch.weight[:, None], 0.0)": "jnp.where(labelled, 1.0, 0.0)",
    },
    ("losses/layer_map.py", "losses/test_layer_map.py"): {
        "j * teacher / student + 0.5": "j * teacher / student",
        "layer % (depth + 1)": "layer % depth",
        "DISTILBERT = (1, 3, 5, 8, 10, 12)": "DISTILBERT = (2, 4, 6, 8, 10, 12)",
        "teacher / student + 0.5), 1)": "teacher / student + 0.5), 0)",
    },
    ("pytrees.py", "losses/test_contracts.py::test_token_mask_marks_the_literal_tokens"): {
        "(self.positions > 0) & (following": "(following",
    },
    ("pytrees.py", "hub/test_stablehlo.py::test_outputs_equal_transformers"): {
        "jnp.ones_like(input_ids) if attention_mask is None else attention_mask": (
            "jnp.ones_like(input_ids)"
        ),
        "jnp.zeros_like(input_ids) if token_type_ids is None else token_type_ids": (
            "jnp.zeros_like(input_ids)"
        ),
    },
    ("models/bert.py", "train/test_step.py::test_equal_gradients_for_every_split"): {
        '{"decoder": params["embeddings"]["word"]}': (
            '{"decoder": jax.lax.stop_gradient(params["embeddings"]["word"])}'
        ),
    },
    (
        "models/parametrization.py",
        "end_to_end/labelled/test_own_classes.py::test_parametrization_of_several_seeds",
    ): {
        "self.inner(trained, frozen, step)": "self.inner(trained, {}, step)",
    },
    ("train/objective.py", "end_to_end/labelled/test_own_classes.py::test_penalty"): {
        "jax.tree.map(jnp.add, gradient, penalty_gradient)": "gradient",
    },
    ("train/step.py", "train/test_students.py"): {
        "scales[name], states[name].step": "scales[next(iter(scales))], states[name].step",
    },
    ("hub/families/tensors.py", "hub/families/test_own_family.py"): {
        "tensor[n * size : (n + 1) * size].T": "tensor[n * size : (n + 1) * size]",
        "tensor[self.offset :]": "tensor[: len(tensor) - self.offset]",
    },
    ("experiment/loss_features.py", "end_to_end/labelled/test_own_classes.py"): {
        "loss.needs - outputs.features()": "frozenset()",
    },
    ("data/tokenizer.py", "data/test_tokenizer.py"): {
        "[self.sep] * (self.separators - 1)": "[]",
    },
    (
        "models/student_init.py",
        "models/test_student_init.py::test_truncation_takes_the_first_entries",
    ): {
        "slice(H), slice(d)": "slice(d), slice(H)",
    },
    (
        "models/student_init.py",
        "models/test_student_init.py::test_svd_preserves_the_principal_directions",
    ): {
        "directions[:, ::-1][:, :width]": "directions[:, :width]",
    },
    ("train/objective.py", "train/test_step.py::test_means_over_one_token_and_over_none"): {
        "jnp.maximum(counts[term], 1.0)": "jnp.maximum(counts[term], 2.0)",
    },
    ("train/optimizer.py", "train/test_optimizer.py"): {
        "jnp.where(finite, -rate * u, 0.0)": "-rate * u",
        "jnp.where(finite, decay * m + (1 - decay) * g**order, m)": (
            "decay * m + (1 - decay) * g**order"
        ),
        "state.step + finite": "state.step + 1",
        "jnp.where(finite, 0, state.notfinite_count + 1)": "state.notfinite_count + 1",
        "state.total_notfinite + ~finite": "state.total_notfinite + 1",
        "(1 - b ** jnp.maximum(step, 1) for b": "(1 for b",
        "if self.lamb": "if not self.lamb",
    },
    (
        "train/checksum.py",
        "train/test_checkpoint.py::test_checksums_depend_on_values_and_positions",
    ): {
        "(2 * position + 1)": "1",
    },
    ("train/checkpoint.py", "train/test_checkpoint.py::test_a_flipped_bit_is_detected"): {
        "for step in sorted(self._manager.all_steps(), reverse=True)": (
            "for step in self._manager.all_steps()"
        ),
        '_compare_checksums(stored_sums, _with_checksums(restored)["sums"])': "pass",
    },
    (
        "train/checkpoint.py",
        "runtime/test_gcs.py::test_a_checkpoint_without_permission_is_not_damaged",
    ): {
        "    gcs.check_readable(folder)\n": "",
    },
    ("train/log.py", "train/test_log.py"): {
        "1.4826 *": "0.0 *",
        "if math.isfinite(loss):": "if True:",
    },
    (
        "train/log.py",
        "end_to_end/test_fuzz.py::test_damaged_file_is_read_or_refused[metrics.jsonl]",
    ): {
        " and _is_row(row)": "",
    },
    ("train/sanity_checks.py", "train/test_sanity_checks.py::test_filler_rows_are_not_checked"): {
        "jnp.roll(x, 1, 0)": "jnp.roll(x, 0, 0)",
        "pad(batch.labels, -1) if per_token": "pad(batch.labels, 0) if not per_token",
    },
    ("train/state.py", "end_to_end/labelled/test_lanes.py::test_best_lane_is_exported"): {
        '(score > state.best["score"])': '(score < state.best["score"])',
    },
    ("train/profiler.py", "cli/test_main.py::test_profile"): {
        "step == self.last or stopping": "step == self.last",
    },
    (
        "train/teacher_cache.py",
        "train/test_teacher_cache.py::test_cached_states_are_outputs_of_their_layers",
    ): {
        "outputs.attention[int(layer) - 1]": "outputs.attention[int(layer)]",
    },
    (
        "train/teacher_cache.py",
        "runtime/test_gcs.py::test_models_tokenizers_and_blocks_in_a_bucket",
    ): {
        "gcs.remove(path)  # an incomplete upload": "pass",
        'gcs.download(folder / f"{number:06}", "token_ids.npy")': '(folder / f"{number:06}")',
    },
    (
        "data/preparation/duplicates.py",
        "data/preparation/test_workers.py::test_first_of_repeated_documents_stays",
    ): {
        "(order + self.hashes.rows)": "order",
        "        repeated = order[1:]": "        order = order[::-1]\n        repeated = order[1:]",
        "range(0, len(hashes), RUN_LENGTH)": "range(0, 1)",
    },
    (
        "data/preparation/workers.py",
        "data/preparation/test_workers.py::test_killed_preparation_resumes_with_the_complete_shards",
    ): {
        "daemon=True).start()": "daemon=True)",
    },
    (
        "data/preparation/workers.py",
        "data/preparation/test_workers.py::test_process_that_ends_early_is_an_error",
    ): {
        "number > 1": "number > 2",
    },
    (
        "data/preparation/held_out.py",
        "data/preparation/test_workers.py::test_first_of_repeated_documents_stays",
    ): {
        "self.duplicates[begin:end] - first": "self.duplicates[begin:end]",
        "out | repeated if self.drop else out": "out | repeated",
    },
    (
        "data/preparation/held_out.py",
        "data/preparation/test_workers.py::test_processes_write_the_same_bytes",
    ): {
        "(repeated & ~out).sum()": "repeated.sum()",
    },
    ("data/preparation/labelled_split.py", "tasks/test_token_classification.py"): {
        '" ".join(map(str, example.text))': "example.text",
    },
    (
        "data/preparation/folders.py",
        "end_to_end/bad_inputs/test_labelled_rows.py::test_is_refused[one class]",
    ): {
        "                path.rmdir()": "                pass",
    },
    ("data/length_buckets.py", "data/test_length_buckets.py"): {
        "waiting = waiting[complete:]": "waiting = waiting[:0]",
        "np.searchsorted(edges, tokens)": 'np.searchsorted(edges, tokens, side="right") - 1',
    },
    (
        "data/order.py",
        "data/preparation/test_labelled.py::test_pairs_have_two_types_and_are_truncated_longest_first",
    ): {
        "positions >= second": "positions > second",
    },
    ("data/readers/conll.py", "tasks/test_token_classification.py"): {
        'field.strip(" ")': "field",
    },
    (
        "data/readers/formats.py",
        "tasks/test_question_answering.py::test_text_after_the_layout_of_squad",
    ): {
        "if file.read(2**16).strip():": "if False:",
    },
    (
        "data/store.py",
        "end_to_end/test_fuzz.py::test_damaged_file_is_read_or_refused[a manifest]",
    ): {
        "        _check(manifest, blocks)\n": "",
    },
    (
        "data/tokenizer.py",
        "data/preparation/test_labelled.py::test_pairs_have_two_types_and_are_truncated_longest_first",
    ): {
        "len(first) + 1 + self.separators": "len(first) + self.separators",
    },
    (
        "tasks/text_classification.py",
        "data/preparation/test_labelled.py::test_truncation_equals_longest_first_of_tokenizers",
    ): {
        "[: room // 2]": "[: (room + 1) // 2]",
    },
    ("tasks/token_classification.py", "tasks/test_token_classification.py"): {
        "labels[1 : len(token_labels) + 1]": "labels[: len(token_labels)]",
        "[NO_PREDICTION] * (len(tokens) - 1)": "[label] * (len(tokens) - 1)",
    },
    ("tasks/entities.py", "tasks/test_token_classification.py"): {
        "bool(converted) and converted[-1][2:] == entity": "bool(converted)",
    },
    ("data/readers/conll.py", "tasks/test_token_classification.py::test_comments_are_left_out"): {
        "and not lines and _is_comment": "and _is_comment",
    },
    ("data/readers/parquet.py", "data/readers/test_formats.py::test_class_names_in_parquet"): {
        "if 0 <= value < len(names) else None": "",
    },
    ("data/readers/formats.py", "data/readers/test_formats.py"): {
        'row.get("is_impossible") is True': "False",
        'for d in ",;\\t" if d in first': 'for d in ";,\\t" if d in first',
    },
    ("data/tokenizer_files.py", "data/test_random_tokenizers.py"): {
        'pipeline["normalizer"] |= changes': "pass",
        'token["special"] and token["content"] not in extra': 'token["special"]',
    },
    (
        "tasks/answer_spans.py",
        "tasks/test_answer_spans.py::test_a_span_begins_in_the_window_with_the_most_context",
    ): {
        "        valid &= is_max[starts][:, None]\n": "",
        "context > most[tokens]": "context >= most[tokens]",
    },
    ("tasks/mlm.py", "tasks/test_mlm.py::test_whole_words_fill_the_budget"): {
        "used + n <= number": "used < number",
        "& ~after_special": "",
        "jnp.take_along_axis(chosen, first, 1)": "chosen",
    },
    ("tasks/word_splitting.py", "inference/test_predictor.py::test_entities"): {
        "start += len(text[start:end])": "start += 0 * len(text[start:end])",
    },
    ("tasks/metrics/classification.py", "tasks/test_metrics.py"): {
        "covariance = c * n - (p * t).sum(-1)": "covariance = c * n",
    },
    ("metrics.py", "tasks/test_metrics.py"): {
        "first - second[0] if second else first": "first",
    },
    ("tasks/entities.py", "inference/test_predictor.py::test_tags_are_joined_to_entities"): {
        'tag[:2] == "I-" and previous[2:] == tag[2:]': 'tag[:2] == "I-" and previous != "O"',
    },
    ("tasks/mlm.py", "inference/test_predictor.py::test_mask_far_into_a_text"): {
        "position - first + 1": "position + 1",
    },
    ("tasks/question_answering.py", "inference/test_predictor.py::test_spans"): {
        "len(row.ids) - 1": "len(row.ids)",
        "difference > task.null_threshold": "difference < task.null_threshold",
        "task.spans(windows, example.pair, task.n_best)": "task.spans(windows, example.pair, top)",
    },
    ("inference/predictor.py", "inference/test_predictor.py::test_masks"): {
        "len(request.rows)": "1",
        'np.stack([row.extra["label_positions"] for row in rows])': (
            "np.zeros((len(rows), 1), np.int32)"
        ),
    },
    (
        "inference/mask_filling.py",
        "inference/test_augment.py::test_fill_mask_predicts_the_likeliest_words",
    ): {
        "row[position + 1] = vocabulary.mask": "row[position] = vocabulary.mask",
        "= types - 1": "= 0",
        "2 if checkpoint.config.reads_pairs else 1": "2",
    },
    ("inference/augment.py", "inference/test_augment.py::test_resume_writes_the_same_rows"): {
        "enumerate(zip(examples, texts, strict=True), first)": (
            "enumerate(zip(examples, texts, strict=True), 0)"
        ),
    },
    ("inference/augment.py", "inference/test_augment.py::test_pairs"): {
        "columns | {name:": "columns | {source.column:",
    },
    ("inference/augment.py", "inference/test_augment.py::test_words_beyond_half_the_length_stay"): {
        "(augmentation.length - vocabulary.special_count(pair=True)) // 2": (
            "augmentation.length - 3"
        ),
    },
    ("inference/replacements.py", "inference/test_augment.py::test_replacements"): {
        "text[end : word.start], others": "text[end : word.end], others",
    },
    ("inference/replacements.py", "inference/test_augment.py::test_stop_words_stay"): {
        "\n                if word.of(text).lower() not in self.stop_words": "",
    },
    ("experiment/results.py", "experiment/test_results.py"): {
        "name: -value if name in LOWER_IS_BETTER else value": "name: value",
        "key=lambda rate: _signed_median(": "key=lambda rate: -_signed_median(",
    },
    (
        "experiment/abstract.py",
        "end_to_end/labelled/test_classification.py::test_later_stage_may_name_the_labels",
    ): {
        "config.labels == student_config.UNKNOWN_LABELS and labels": "False",
    },
    (
        "experiment/program.py",
        "end_to_end/labelled/test_lanes.py::test_every_lane_equals_a_separate_run",
    ): {
        "rows.prng_keys(2 * lane.seed + 1)": "rows.prng_keys(2 * e.lanes()[0].seed + 1)",
        "tx=e.optim.build(e.steps, lane.learning_rate, self": (
            "tx=e.optim.build(e.steps, e.optim.learning_rate, self"
        ),
    },
    (
        "experiment/inputs.py",
        "end_to_end/bad_inputs/test_combinations.py::test_is_refused[unequal widths]",
    ): {
        "resolve_student(e, models.references, models.start, known, None)": "None",
    },
    ("experiment/run_models.py", "end_to_end/labelled/test_lanes.py::test_best_lane_is_exported"): {
        "return scores.index(max(scores))": "return scores.index(min(scores))",
    },
    (
        "api/stage_checks.py",
        "end_to_end/labelled/test_refused.py::test_stage_is_refused_before_its_teacher_is_trained",
    ): {
        "        _check_sizes(stages, root)\n": "        pass\n",
    },
    (
        "api/stage_checks.py",
        "end_to_end/bad_inputs/test_configs.py::test_is_refused[second stage without its text]",
    ): {
        "            build.check(experiment)\n": "            pass\n",
    },
    ("api/stages.py", "runtime/test_gcs.py::test_a_run_in_a_bucket_resumes_on_any_machine"): {
        "gcs.remove(out)": "pass",
    },
    ("api/export.py", "hub/test_push.py::test_checks_before_reading_the_student"): {
        "        push.check()\n": "        pass\n",
    },
    ("runtime/gcs.py", "runtime/test_gcs.py::test_the_marker_is_uploaded_last"): {
        "files.sort(key=lambda file: file.name in LAST_FILES)": "files.sort()",
    },
    ("runtime/gcs.py", "runtime/test_gcs.py::test_a_folder_counts_once_its_marker_exists"): {
        "if marker not in objects:": "if not objects:",
    },
    ("runtime/gcs.py", "runtime/test_gcs.py::test_a_changed_folder_is_downloaded_again"): {
        "elif any(\n        not (path / name).is_file()": (
            "elif not path.exists() and any(\n        not (path / name).is_file()"
        ),
    },
    ("runtime/gcs.py", "runtime/test_gcs.py::test_reading_does_not_change_a_run_in_progress"): {
        " and not any(\n"
        "            (path / name).is_relative_to(folder) for folder in locked\n"
        "        )": "",
    },
    ("runtime/gcs.py", "runtime/test_gcs.py::test_upload_refresh_and_remove"): {
        '== entry["crc32c"]': "!= None",
    },
    ("runtime/gcs.py", "runtime/test_gcs.py::test_errors_of_missing_and_unreachable_objects"): {
        '{".", "..", ""} & set(below.split("/")) and below': "False",
    },
    ("runtime/gcs_paths.py", "runtime/test_gcs.py::test_pickled_paths_keep_their_address"): {
        "return local_path, (url(self),)": "return Path, (str(self),)",
    },
    ("runtime/gcs_paths.py", "runtime/test_gcs.py::test_invalid_addresses"): {
        '{".", ".."} & set(parts)': "False",
    },
    ("hub/push.py", "hub/test_push.py::test_concurrent_commit"): {
        "parent_commit=info.sha,": "",
    },
    ("hub/push.py", "hub/test_push.py::test_one_commit"): {
        "private=self.private or None, ": "",
        "- set(files)": "- EXPORT_FILES",
    },
    ("hub/push.py", "hub/test_push.py::test_refused_tokens_and_names"): {
        "if self.private and not info.private:": "if False:",
        'valid = "/" in self.name': "valid = True",
    },
    ("hub/push.py", "hub/test_push.py::test_checks_before_reading_the_student"): {
        "            api.whoami()\n": "",
    },
    ("hub/push.py", "hub/test_push.py::test_file_too_large"): {
        "error = error.__cause__": "error = None",
    },
    ("hub/checkpoint.py", "hub/test_stablehlo.py::test_mismatch_leaves_nothing"): {
        "        finish(folder)\n": "    finish(Path(directory))\n",
    },
    ("hub/verify.py", "hub/test_stablehlo.py::test_new_process_detects_damage"): {
        "if not difference <= TOLERANCE:": "if False:",
    },
    ("hub/verify.py", "hub/test_stablehlo.py::test_code_of_the_model_card"): {
        "if (folder / STABLEHLO).is_file():": "if False:",
    },
    ("tasks/text_classification.py", "hub/test_stablehlo.py::test_outputs_equal_transformers"): {
        "self.predictions(outputs)[:, 0]": "self.predictions(outputs)",
    },
    ("hub/families/base.py", "hub/test_stablehlo.py::test_outputs_equal_transformers"): {
        "len(self.prefix) if config.head.feature is Feature.HIDDEN else 0": "0",
    },
    ("tasks/mlm.py", "hub/test_stablehlo.py::test_outputs_equal_transformers"): {
        " + vocab.bias.astype(jnp.float32)[None, None]": "",
    },
    ("hub/stablehlo.py", "hub/test_stablehlo.py::test_stablehlo_without_this_package"): {
        "T <= {checkpoint.config.max_positions}": "T >= 1",
    },
}


class Mutation(NamedTuple):
    """One mistake, and the tests that must notice it."""

    file: str
    """A file of the package."""
    tests: str
    """What pytest runs, relative to this folder: a test file, or ``file::test`` for one test."""
    text: str
    replacement: str

    def source(self, root: Path) -> Path:
        """Return the path of the file in a checkout."""
        return root / "flaxdistill" / self.file


def mutations() -> list[Mutation]:
    """Return all entries, in order."""
    return [
        Mutation(*place, *change)
        for place, changes in MUTATIONS.items()
        for change in changes.items()
    ]


def run_tests(mutation: Mutation, root: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Return pytest's exit code and the first failure of a checkout with one mistake."""
    path = mutation.source(root)
    source = path.read_text()
    if mutation.text not in source:
        sys.exit(f"{mutation.file} does not contain {mutation.text!r}; update the entry")
    path.write_text(source.replace(mutation.text, mutation.replacement))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    try:
        result = subprocess.run(
            [*command, f"tests/{mutation.tests}"],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
        )
    finally:
        path.write_text(source)
    lines = [
        line for line in result.stdout.splitlines() if line.startswith(("FAILED t", "ERROR t"))
    ]
    return result.returncode, lines[0] if lines else ""


def main(filters: list[str]) -> None:
    """Run the tests of the selected entries; exit with code 1 if a mistake is not noticed."""
    selected = [
        mutation
        for mutation in mutations()
        if not filters or any(word in " ".join(mutation) for word in filters)
    ]
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "checkout", Path(folder) / "compiled"
        ignored = shutil.ignore_patterns(".*", "__pycache__", "runs", "*.egg-info", "*.whl")
        shutil.copytree(ROOT, root, ignore=ignored)
        # Most programs are the same for all entries: compile them once.
        environment = os.environ | {
            "PYTHONPATH": str(root),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        for number, mutation in enumerate(selected, 1):
            start = time.monotonic()
            code, failure = run_tests(mutation, root, environment)
            # With any other exit code pytest did not run the tests.
            result = {0: "MISSED", 1: "caught"}.get(code, f"NOT RUN (exit code {code})")
            if code != 1:
                missed.append(f"{result} {mutation.file}: {mutation.text!r}")
            seconds = time.monotonic() - start
            print(f"{number}/{len(selected)} {result} {mutation.file}: {mutation.replacement!r}")
            print(f"    {seconds:.0f} s, {mutation.tests} {failure[:200]}", flush=True)
    print(f"{len(selected) - len(missed)} of {len(selected)} caught")
    if missed:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main(sys.argv[1:])
