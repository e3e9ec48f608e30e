#!/bin/bash
# The model's own tokeniser isn't here. --num-layers 99 in a comment is no option.
CHECKPOINT_PATH=${1:-"checkpoints/llama3_8b"}
GPUS_PER_NODE=8
NUM_NODES=${SLURM_NNODES:-"4"}
WORLD_SIZE=$(($GPUS_PER_NODE*$NUM_NODES))
TP=2
GLOBAL_BATCH_SIZE=$(( 8 * $WORLD_SIZE ))

DISTRIBUTED_ARGS=(
    --nproc_per_node $GPUS_PER_NODE
    --nnodes $NUM_NODES
)

MODEL_ARGS=(
    --num-layers 32
    --hidden-size 4096
    --ffn-hidden-size 14336
    --num-attention-heads 32
    --group-query-attention
    --num-query-groups 8
    --kv-channels 128
    --seq-length 8192
    --max-position-embeddings 8192
    --position-embedding-type rope
    --rotary-base 500000
    --attention-dropout 0.0
    --hidden-dropout 0.0
    --swiglu
    --normalization RMSNorm
    --init-method-std 0.0134
    --untie-embeddings-and-output-weights
    --disable-bias-linear
)

TRAINING_ARGS="--micro-batch-size 1 --global-batch-size ${GLOBAL_BATCH_SIZE} \
    --train-iters 100000 --lr 1.5e-4 --min-lr=1e-5 --lr-decay-style cosine \
    --lr-warmup-iters 500 --clip-grad 1.0 --weight-decay 0.1 --adam-beta2 0.95 --bf16"

PARALLEL_ARGS=(
    --tensor-model-parallel-size $TP
    # --pipeline-model-parallel-size 4
    --sequence-parallel
    --use-distributed-optimizer
)

if [[ "$TOKENIZER" == "MOCK" ]]; then
    DATA_ARGS=("--mock-data" "--tokenizer-type NullTokenizer" "--vocab-size 128256")
else
    DATA_ARGS=("--data-path $DATA" "--tokenizer-type HuggingFaceTokenizer" "--vocab-size 128256")
fi

torchrun ${DISTRIBUTED_ARGS[@]} pretrain_gpt.py ${MODEL_ARGS[@]} ${TRAINING_ARGS} \
    ${PARALLEL_ARGS[@]} ${DATA_ARGS[@]} \
    --save "$CHECKPOINT_PATH" \
    --save-interval 1000
