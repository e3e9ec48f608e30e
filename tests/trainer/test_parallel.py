import json
import subprocess
import sys
from typing import Any

import pytest

EVERYTHING = {
    **{"qk_norm": "per_head", "qkv_bias": True, "output_bias": True, "ffn_bias": True},
    **{"attention_gate": True, "post_norms": True, "layer_pattern": "Wa", "window": 9},
    **{"norm": "weight_and_bias", "gated_ffn": False},
}
EXPERTS = {"routed": 6, "per_token": 2, "ffn_hidden": 10, "shared": 1, "auxiliary_loss": 0.1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "tensor", "model"),
    [(2, 1, {"experts": EXPERTS}), (4, 2, {}), (2, 2, EVERYTHING)],
    ids=["2 of data, with experts", "2 × 2", "2 of layers, with all that they may have"],
)
def test_a_model_on_several_ranks_computes_what_it_does_on_one(
    ranks: int, tensor: int, model: dict[str, Any]
) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    address = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    module = ["--local-addr", "127.0.0.1", "-m", "tests.trainer.sharded_weights", str(tensor)]
    done = subprocess.run(
        [*torchrun, *address, *module, json.dumps(model)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
