import pytest

from planner.catalog import gpus
from planner.catalog.nodes import find_node, node_types
from smolplan.errors import UserError


def test_the_common_clouds_are_there() -> None:
    assert {row.cloud for row in node_types().values()} == {"aws", "azure", "gcp", "oci"}
    wanted = {"p4d.24xlarge", "p5.48xlarge", "a3-megagpu-8g", "a4-highgpu-8g", "BM.GPU.H100.8"}
    assert wanted <= node_types().keys()


def test_every_row_has_a_source_and_units_that_make_sense() -> None:
    for row in node_types().values():
        assert len(row.source) > 10
        assert row.gpus in (4, 8)
        assert row.gpu in gpus() or row.gpu == "a100-40gb"
        for value, least, most in [
            (row.gpu_link_bytes_per_s, 1e11, 1e13),
            (row.fabric_bits_per_s, 1e11, 1e13),
            (row.local_nvme_bytes, 1e12, 1e14),
            (row.host_memory_gib, 500, 5000),
        ]:
            assert value is None or least <= value <= most


def test_smollm3s_node_is_as_the_playbook_measured_it() -> None:
    """8 NVMe drives of ~3.5 TB formatted, 3,200 Gb/s, NVLink of 900 GB/s by design."""
    node = find_node("P5.48xlarge", where="")
    assert (node.gpus, node.gpu) == (8, "h100")
    assert node.fabric_bits_per_s == 3.2e12
    assert node.gpu_link_bytes_per_s == 900e9
    assert node.local_nvme_bytes is not None
    assert node.local_nvme_bytes > 24e12


def test_an_unknown_type_is_answered_with_near_ones() -> None:
    with pytest.raises(UserError, match=r"storage\.node.*p5"):
        find_node("p5.48large", where="storage.node")
