"""The post-norm transformer encoder of BERT and DistilBERT."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec as P

from flaxdistill.models import dropout_sites
from flaxdistill.models.architecture import Architecture, Compute
from flaxdistill.models.head import HeadInputs
from flaxdistill.models.layers import ACTIVATIONS, Dense, Embeddings, Layer, MLMHead
from flaxdistill.models.start import Start
from flaxdistill.models.student_init import start_from
from flaxdistill.models.transformer import Transformer
from flaxdistill.ops.attention import Attention
from flaxdistill.ops.dense import operand_dtype
from flaxdistill.ops.dropout import dropout
from flaxdistill.pytrees import Batch, Feature, Outputs, Params
from flaxdistill.runtime.sharding import Rules


class Encoder(nn.Module):
    """A transformer encoder that returns every hidden state.

    Layers are unrolled, each with its own subtree of parameters, so reading one hidden state costs
    nothing.
    """

    config: Bert
    dtype: Any
    attention: Attention = "auto"
    remat: bool = False

    @nn.compact
    def __call__(self, batch: Batch, keys: jax.Array | None) -> Outputs:
        c, dtype = self.config, self.dtype
        embeddings = Embeddings(c, dtype, name="embeddings")
        x = embeddings(batch.input_ids, batch.positions, batch.token_type_ids, keys)
        hidden, attention = [x], []
        # Remat saves the input of each layer, and what a loss reads of the layer.
        layer_class = nn.remat(Layer) if self.remat else Layer
        for i in range(c.num_layers):
            layer = layer_class(c, dtype, self.attention, i, name=f"layer_{i}")
            x, layer_attention = layer(x, batch.segment_ids, keys)
            hidden.append(x)
            attention.append(layer_attention)
        pooled = x[:, 0] if c.pooler or c.head.pools else None
        if c.pooler:
            pooled = Dense(c.hidden_size, c, dtype, name="pooler")(x[:, 0])
            pooled = ACTIVATIONS[c.pooler_activation](pooled)
        outputs = Outputs(hidden=tuple(hidden), attention=tuple(attention), pooled=pooled)
        head = c.head.module(c, dtype)
        if head is None:
            return outputs
        site = dropout_sites.head_site(c.num_layers)
        inputs = HeadInputs(
            outputs=outputs,
            segment_ids=batch.segment_ids,
            word_embedding=embeddings.word.embedding,
            dropout=lambda x: dropout(x, c.dropout, keys, site),
        )
        return head(inputs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bert(Transformer):
    """BERT (Devlin et al., 2019), and DistilBERT (Sanh et al., 2019), which has no token types."""

    sharding: ClassVar[Rules] = (
        # Column-parallel and row-parallel, as in ``models.layers``.
        (r".*/layer_\d+/(query|key|value|inner)/kernel", (P("fsdp", "tensor"), P(None, "tensor"))),
        (r".*/layer_\d+/(attention|outer)/kernel", (P("tensor", "fsdp"), P("tensor", None))),
    )
    # A key bias adds the same to every score of a query, which softmax ignores.
    no_gradient: ClassVar[str] = r".*/key/bias"

    def module(self, compute: Compute) -> Encoder:
        return Encoder(self, operand_dtype(compute.dtype), compute.attention, compute.remat)

    def vocab_module(self, dtype: Any) -> MLMHead:
        return MLMHead(self, dtype, name="mlm")

    def untied(self) -> Bert:
        return dataclasses.replace(self, tied_head=False)

    def untie(self, params: Params) -> Params:
        if self.head.feature is not Feature.VOCAB or not self.tied_head:
            return params
        return params | {"mlm": params["mlm"] | {"decoder": params["embeddings"]["word"]}}

    def init_from(
        self, start: Start, source: Architecture, source_params: Params, params: Params
    ) -> Params:
        if not isinstance(source, Bert):
            return super().init_from(start, source, source_params, params)
        return start_from(start, source, source_params, self, params)
