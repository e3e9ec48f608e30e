import subprocess
import sys

import pytest


@pytest.mark.slow
def test_weights_set_after_sharding_are_those_of_one_device() -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    address = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    local = ["--local-addr", "127.0.0.1", "-m", "tests.trainer.sharded_weights"]
    done = subprocess.run(
        [*torchrun, *address, *local], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
