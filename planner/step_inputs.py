"""What a step time is computed from: model, layout, machine and software stack.

Fields may hold floats or arrays of equal length alike: one call then prices many layouts.
"""

from dataclasses import dataclass

from planner.kernels import Values, either

BF16, FP8, BLOCK_FP8, FP4 = 0.0, 1.0, 2.0, 3.0
"""Formats that a linear layer multiplies in; fp16 counts as bf16."""


@dataclass(frozen=True)
class Shape:
    """What is trained. `ffn` is one expert's width where there are experts. What has a default is
    zero where a model lacks it."""

    layers: Values
    hidden: Values
    query_width: Values
    kv_width: Values
    heads: Values
    ffn: Values
    ffn_matrices: Values
    """3 with a gate, 2 without."""
    active_experts: Values
    """Feed-forwards of width `ffn` that a token goes through; 1 in a dense model."""
    experts: Values
    """Feed-forwards of width `ffn` that a layer holds; 1 in a dense model."""
    vocab: Values
    seq_len: Values
    tokens_per_step: Values
    value_width: Values = 0.0
    """Of all heads' values, where they are not as wide as the queries."""
    gate_width: Values = 0.0
    """Of a gate that is projected beside the queries."""
    windowed_layers: Values = 0.0
    window: Values = 0.0
    """Keys that a token meets at most in them."""
    latent_width: Values = 0.0
    """Of the vector that keys and values are compressed to (MLA)."""
    query_latent_width: Values = 0.0
    """Of the one for queries; zero where they are projected directly."""
    rotary_width: Values = 0.0
    """Of the key beside it that all heads share."""
    expanded_width: Values = 0.0
    """Of the keys and values that come of it, all heads together."""
    recurrent_layers: Values = 0.0
    """That mix tokens by a linear recurrence, in chunks, in place of attention."""
    recurrent_in_width: Values = 0.0
    """Of all that the hidden state is projected to in them."""
    recurrent_width: Values = 0.0
    """Of what is projected back."""
    convolved_width: Values = 0.0
    scan_flops: Values = 0.0
    """Of one such layer and token, forward: the chunks' products and the convolution."""
    scan_bytes: Values = 0.0
    """Of HBM, likewise."""
    bare_layers: Values = 0.0
    """Without a feed-forward part."""
    dense_layers: Values = 0.0
    """With a feed-forward part of `dense_ffn` in place of experts."""
    dense_ffn: Values = 0.0
    shared_ffn: Values = 0.0
    """Of the shared experts together, beside the chosen ones."""
    router_width: Values = 0.0
    """Of the scores that choose the experts, and gate the shared ones."""
    mtp_layers: Values = 0.0
    """Multi-token prediction modules behind the last layer, each with an output head."""

    @property
    def attention_layers(self) -> Values:
        return self.layers - self.recurrent_layers

    @property
    def feed_forward_layers(self) -> Values:
        """With `experts` feed-forwards of width `ffn`, which may be one."""
        return self.layers - self.bare_layers - self.dense_layers

    @property
    def attended_width(self) -> Values:
        """Of all heads' values, and so of the attention's output."""
        return either(self.value_width > 0, self.value_width, self.query_width)

    @property
    def score_keys(self) -> Values:
        """Of a layer on average, of which causal attention meets half; a window of w keys is met
        by all but the first w tokens."""
        w = self.window
        windowed = either(w < self.seq_len, 2.0 * w - w * w / self.seq_len, self.seq_len)
        some = either(self.attention_layers > 0, self.attention_layers, 1.0)
        return self.seq_len + (windowed - self.seq_len) * self.windowed_layers / some


@dataclass(frozen=True)
class Layout:
    """Who computes what. Data parallel is what tensor, pipeline and context parallel leave."""

    gpus: Values
    tp: Values
    pp: Values
    vp: Values
    cp: Values
    ep: Values
    micro_batch: Values
    full_recompute: Values
    """1 where every layer's forward is done again, else 0."""
    attention_recompute: Values
    """1 where only the attention's is."""
    sharded_weights: Values
    """1 under ZeRO-3 or FSDP: weights are gathered for each forward and backward."""
    sharded_optimizer: Values
    """1 under ZeRO-1 and above: each replica updates its share of the weights."""
    sharded_gradients: Values = 0.0
    """1 under ZeRO-2: gradients are reduced for each micro-batch, as under ZeRO-3."""
    zero_bubble: Values = 0.0
    """1 where weights' gradients are computed late, in the pipeline's bubble (ZB-H1)."""
    shard_group: Values = 0.0
    """Replicas that share out what is sharded, the rest being copies of them (HSDP); 0: all."""


@dataclass(frozen=True)
class Machine:
    """Datasheet figures, per GPU and direction."""

    matmul_flops_per_s: Values
    """Peak of the format that the linear layers multiply in."""
    bf16_flops_per_s: Values
    """Peak of bf16, in which attention and the output head are computed."""
    hbm_bytes_per_s: Values
    link_bytes_per_s: Values
    network_bytes_per_s: Values
    gpus_per_domain: Values
    """GPUs that the fast links join."""
    number_format: Values
    """Of the linear layers: one of BF16, FP8, BLOCK_FP8, FP4."""
    gpus_per_pod: Values = 1.0
    """That the network's lowest switches join at full bandwidth."""
    oversubscription: Values = 1.0
    """Bandwidth of a pod's GPUs over that of its way out: 1 in a fat tree that blocks nothing."""


@dataclass(frozen=True)
class Stack:
    """What a software stack makes of a GPU: fitted, one set for a stack and GPU type."""

    matmul_share: Values
    """Of peak that a large 16-bit matrix product reaches."""
    fp8_share: Values
    """The same in fp8 with one scale a tensor, casts and scaling included."""
    block_fp8_share: Values
    """The same in fp8 with a scale a row or block (MX)."""
    fp4_share: Values
    """The same in fp4."""
    half_size: Values
    """Matrix dimension at which a product runs at half of that."""
    attention_share: Values
    """Of bf16 peak that the attention kernel reaches."""
    elementwise_bytes: Values
    """HBM bytes per token, layer and unit of hidden width of all that is no matrix product."""
    host_s: Values
    """Time in which the host launches one layer's forward and backward of one micro-batch."""
    collective_latency_s: Values
    """Per rank and tensor-parallel collective that leaves the domain."""
    pipelined_latency_s: Values
    """The same of any tensor-parallel collective where a pipeline sends over the network."""
    link_share: Values
    """Of the fast links' bandwidth that tensor-parallel collectives get."""
    network_share: Values
    """Of the network's bandwidth that collectives get."""
    tensor_exposed: Values
    """Share of tensor-parallel traffic that nothing hides."""
    data_exposed: Values
    """Share of gradient and weight traffic that nothing hides."""
    expert_share: Values
    """Of a dense product's rate that experts reach: imbalance, permutation, small groups."""
    replica_latency_s: Values
    """Once a step for each replica on the ring that reduces gradients."""
    gradient_bytes: Values
    """Of one gradient as it is reduced."""
    balanced_stages: Values
    """1 where layers are spread over pipeline stages so that the output head is made room for, 0
    where each has as many."""
    reduces_shares: Values
    """1 where a sharded optimiser reduces to each replica its share of the gradients, 0 where it
    reduces them whole."""
    step_s: Values
    """Once a step: clipping, logging, loading, synchronisation."""
    flash: Values
    """1 where the attention kernel keeps no scores and skips masked ones, else 0."""
    sequence_parallel: Values
    """1 where norms and dropout are split among tensor-parallel ranks, else 0."""
