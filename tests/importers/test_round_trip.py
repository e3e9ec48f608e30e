"""A spec told in each format's terms comes back the same."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from smolplan.importers import megatron, nanotron, torchtitan
from smolplan.importers.detect import detect, import_file
from smolplan.importers.options import Options
from smolplan.spec import RunSpec
from tests.importers import render
from tests.importers.strategies import run_specs

PARTS = ("seed", "model", "data", "optim", "parallel", "cluster", "checkpoint")


def parts(spec: RunSpec, *but: str) -> dict[str, Any]:
    return {part: getattr(spec, part) for part in PARTS if part not in but}


@given(run_specs())
def test_a_spec_in_nanotrons_terms_comes_back(spec: RunSpec) -> None:
    written = render.nanotron(spec)
    assert detect(written, "x") == "nanotron"
    back = nanotron.read(written, "x.yaml", Options())
    assert parts(back.spec) == parts(spec)
    assert back.spec.name == spec.name


@given(run_specs(), st.booleans(), st.integers(1, 16))
def test_a_spec_in_megatrons_terms_comes_back(spec: RunSpec, head_dim: bool, per_node: int) -> None:
    assume(spec.model.z_loss == 0)
    if spec.cluster.gpus % per_node == 0:
        size = {"nodes": spec.cluster.gpus // per_node, "gpus_per_node": per_node}
        spec = spec.model_copy(update={"cluster": spec.cluster.model_copy(update=size)})
    if head_dim:
        model = spec.model.model_copy(update={"head_dim": spec.model.attention_head_dim + 2})
        spec = spec.model_copy(update={"model": model})
    written = render.megatron(spec)
    assert detect(written, "x") == "megatron"
    assert parts(megatron.read(written, "x.sh", Options()).spec) == parts(spec)


LLAMA3_8B: dict[str, Any] = {
    "layers": 32,
    "hidden": 4096,
    "heads": 32,
    "kv_heads": 8,
    "ffn_hidden": 14336,
    "vocab_size": 128256,
    "tied_embeddings": False,
    "rope_theta": 5e5,
    "no_rope_every": 0,
    "intra_document_mask": False,
    "norm_eps": 1e-5,
}


@given(run_specs(model=LLAMA3_8B))
def test_a_spec_in_torchtitans_terms_comes_back(spec: RunSpec) -> None:
    parallel = spec.parallel
    # FSDP or nothing; and with one rank alone there is nothing to shard.
    several = parallel.data_parallel > 1 or parallel.context_parallel > 1
    stage = max(2, parallel.zero_stage) if several else 0
    if parallel.zero_stage == 0 and parallel.context_parallel == 1:
        stage = 0
    parallel = parallel.model_copy(update={"zero_stage": stage})
    spec = spec.model_copy(update={"parallel": parallel})
    written = render.torchtitan(spec, "8B")
    assert detect(written, "x") == "torchtitan"
    assert parts(torchtitan.read(written, "x.toml", Options()).spec) == parts(spec)


@settings(max_examples=50)
@given(run_specs(), st.booleans())
def test_a_model_in_hugging_faces_terms_comes_back(spec: RunSpec, head_dim: bool) -> None:
    model = spec.model.model_copy(update={"z_loss": 0.0, "intra_document_mask": True})
    if head_dim:
        model = model.model_copy(update={"head_dim": model.attention_head_dim + 2})
    spec = spec.model_copy(update={"model": model})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(render.huggingface(spec))
        assert import_file(path, Options()).spec.model == model
