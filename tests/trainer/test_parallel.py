import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "tensor"), [(2, 1), (4, 2)])
def test_a_model_on_several_ranks_computes_what_it_does_on_one(ranks: int, tensor: int) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    address = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    module = ["--local-addr", "127.0.0.1", "-m", "tests.trainer.sharded_weights", str(tensor)]
    done = subprocess.run(
        [*torchrun, *address, *module], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
