"""What a step time is computed from: model, layout, machine and software stack.

Fields may hold floats or arrays of equal length alike: one call then prices many layouts.
"""

from dataclasses import dataclass

from planner.kernels import Values

BF16, FP8, BLOCK_FP8, FP4 = 0.0, 1.0, 2.0, 3.0
"""Formats that a linear layer multiplies in; fp16 counts as bf16."""


@dataclass(frozen=True)
class Shape:
    """What is trained, all layers alike: each has its share of what only some of them have
    (planner/step_shape.py)."""

    layers: Values
    """Those of multi-token prediction modules included."""
    hidden: Values
    heads: Values
    attention_share: Values
    """Of the layers that attend."""
    attention_in: Values
    """Columns of the products that make queries, keys and values of the hidden width."""
    attention_out: Values
    """Rows of the product that brings the values back to it."""
    score_width: Values
    """Heads times the mean of a query's and a value's width."""
    kv_width: Values
    """Mean of all keys' and all values' widths: what context parallelism moves."""
    keys: Values
    """That a query meets before masking; fewer than `seq_len` where layers have windows."""
    ffn_share: Values
    """Of the layers that have a dense feed-forward part."""
    ffn: Values
    ffn_matrices: Values
    """3 with a gate, 2 without; of experts too."""
    moe_share: Values
    """Of the layers that have experts."""
    experts: Values
    """Routed ones that such a layer holds; 1 in a dense model."""
    experts_per_token: Values
    expert_ffn: Values
    shared_ffn: Values
    """Width of the expert that all tokens go through; 0 where there is none."""
    mixer_share: Values
    """Of the layers that are state-space or linear-attention ones."""
    mixer_in: Values
    mixer_out: Values
    """Columns and rows of such a layer's products, as of attention."""
    scan_flops: Values
    """Forward FLOPs a token of its recurrence or convolution."""
    losses: Values
    """Output heads and losses that a token goes through: one, and one a prediction module."""
    vocab: Values
    seq_len: Values
    tokens_per_step: Values
    parallel_block: Values = 0.0
    """1 where attention and feed-forward part begin from the same input, and are summed before
    they are reduced (Wang and Komatsuzaki 2021, GPT-J; PaLM, arXiv 2204.02311, section 2)."""


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
    experts_in_bf16: Values = 0.0
    """1 where router and routed experts multiply in bf16, whatever the other linear layers do."""
    gpus_per_pod: Values = 1.0
    """That the network's lowest switches join at full bandwidth."""
    oversubscription: Values = 1.0
    """Bandwidth of a pod's GPUs over that of its way out: 1 in a fat tree that blocks nothing."""


@dataclass(frozen=True)
class Stack:
    """What a software stack makes of a GPU: most of it fitted, one set for a stack and GPU type
    (planner.predict.catalog.Constants), the rest known of the stack (SoftwareStack there)."""

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
    send_latency_s: Values
    """Of one send between pipeline stages whose tensor-parallel groups span over two domains."""
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
    scan_share: Values
    """Of bf16 peak that the recurrences of state-space and linear-attention layers reach."""
    step_s: Values
    """Once a step: clipping, logging, loading, synchronisation."""
    flash: Values
    """1 where the attention kernel keeps no scores and skips masked ones, else 0."""
    sequence_parallel: Values
    """1 where norms and dropout are split among tensor-parallel ranks, else 0."""
