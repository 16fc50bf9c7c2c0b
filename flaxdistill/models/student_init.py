"""How a transformer starts from selected layers of another one."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxdistill import param_paths
from flaxdistill.errors import UserError
from flaxdistill.models.start import Start, choose_layers
from flaxdistill.models.transformer import Transformer
from flaxdistill.pytrees import Params


def start_from(
    start: Start,
    teacher: Transformer,
    teacher_params: Params,
    student: Transformer,
    student_params: Params,
) -> Params:
    """Copy what student and teacher have in common, as float32.

    Args:
      start: What to copy.
      teacher: The config of the model that the student starts from.
      teacher_params: Its parameters.
      student: The student's config.
      student_params: Random parameters; what only the student has is left as it is there.

    Raises:
      UserError: Naming both values, for sizes that must be equal and are not.
    """
    _check_sizes(start, teacher, student)
    layers = choose_layers(start.layers, teacher.num_layers, student.num_layers)
    initial, source = param_paths.flatten(student_params), param_paths.flatten(teacher_params)
    if start.shrink == "svd":
        source = _svd_embeddings(source, student.hidden_size)
    skipped = _skipped(start, teacher, student)
    params = {}
    for path, leaf in initial.items():
        source_path = path
        if path.startswith("layer_"):
            layer, name = path.removeprefix("layer_").split("/", 1)
            source_path = f"layer_{layers[int(layer)]}/{name}"
        if source_path in source and not path.startswith(skipped):
            source_leaf = jnp.asarray(source[source_path], jnp.float32)
            leaf = _truncate(path, source_leaf, leaf.shape, student, teacher)
        params[path] = leaf
    if start.token_types == "fold" and teacher.type_vocab_size and not student.type_vocab_size:
        token_types = jnp.asarray(source["embeddings/token_type/embedding"], jnp.float32)
        params["embeddings/position/embedding"] += token_types[:1, : student.hidden_size]
    if student.type_vocab_size and not teacher.type_vocab_size:
        # Random vectors would be noise on embeddings that were trained without them.
        path = "embeddings/token_type/embedding"
        params[path] = jnp.zeros_like(initial[path])
    return param_paths.unflatten(params)


def _check_sizes(start: Start, teacher: Transformer, student: Transformer) -> None:
    """Raise UserError for a student that cannot start from the teacher."""
    widths = ("hidden_size", "intermediate_size", "num_heads")
    for name in ("vocab_size", "activation", *(widths if start.shrink == "no" else ())):
        values = getattr(student, name), getattr(teacher, name)
        if values[0] != values[1]:
            shrink = "set start.shrink to truncate or svd, " if name in widths else ""
            raise UserError(
                f"the student's {name} {values[0]} differs from the {values[1]} of the model it "
                f"starts from; make them equal, {shrink}or start at random with start.path None"
            )
    head_widths = [config.hidden_size // config.num_heads for config in (student, teacher)]
    limits: list[tuple[str, int, int]] = [
        (name, getattr(student, name), getattr(teacher, name)) for name in widths
    ]
    limits += [
        ("width of a head", head_widths[0], head_widths[1]),
        ("max_positions", student.max_positions, teacher.max_positions),
    ]
    if teacher.type_vocab_size:
        limits.append(("type_vocab_size", student.type_vocab_size, teacher.type_vocab_size))
    for name, size, maximum in limits:
        if size > maximum:
            raise UserError(
                f"the student's {name} {size} exceeds the {maximum} of the model it starts from; "
                f"use at most {maximum}"
            )
    if start.shrink == "svd" and student.hidden_size == teacher.hidden_size:
        raise UserError(
            "start.shrink svd is for a student narrower than its teacher, and both have "
            f"hidden_size {student.hidden_size}; set start.shrink to no"
        )


def _skipped(start: Start, teacher: Transformer, student: Transformer) -> tuple[str, ...]:
    """Return the prefixes of the paths that are not copied.

    A classifier of other classes and a pooler of another activation may have equal sizes, but not
    the same meaning.
    """
    prefixes: tuple[str, ...] = () if start.mlm_transform else ("mlm/transform", "mlm/norm")
    if student.head != teacher.head:
        prefixes += ("classifier/",)
    if student.pooler_activation != teacher.pooler_activation:
        prefixes += ("pooler/",)
    return prefixes


def _truncate(
    path: str,
    leaf: jax.Array,
    shape: tuple[int, ...],
    student: Transformer,
    teacher: Transformer,
) -> jax.Array:
    """Take the first entries of every axis; on an axis of heads, the first entries of each head."""
    head_axes = {
        "query": -1,
        "key": -1,
        "value": -1,
        "attention": 0 if path.endswith("kernel") else None,
    }
    axis = head_axes.get(path.split("/")[-2]) if path.startswith("layer_") else None
    if axis is not None:
        axis %= leaf.ndim
        H, d = student.num_heads, student.hidden_size // student.num_heads
        separate = (*leaf.shape[:axis], teacher.num_heads, -1, *leaf.shape[axis + 1 :])
        first = (slice(None),) * axis + (slice(H), slice(d))
        leaf = leaf.reshape(separate)[first]
        leaf = leaf.reshape(*leaf.shape[:axis], H * d, *leaf.shape[axis + 2 :])
    return leaf[tuple(map(slice, shape))]


def _svd_embeddings(params: dict[str, jax.Array], width: int) -> dict[str, jax.Array]:
    """Project the embeddings onto ``width`` principal directions of the word embeddings.

    The directions are the first right singular vectors. Only embeddings and the bias of the MLM
    head are returned.
    """
    words = jnp.asarray(params["embeddings/word/embedding"], jnp.float32)
    # The right singular vectors of [V, D] are the eigenvectors of a [D, D] matrix, which is far
    # smaller.
    _, directions = jnp.linalg.eigh(jnp.matmul(words.T, words, precision="highest"))
    projection = directions[:, ::-1][:, :width]
    tables = {path: leaf for path, leaf in params.items() if path.endswith("/embedding")}
    return {
        path: jnp.matmul(jnp.asarray(table, jnp.float32), projection, precision="highest")
        for path, table in tables.items()
    } | {path: leaf for path, leaf in params.items() if path == "mlm/bias"}
