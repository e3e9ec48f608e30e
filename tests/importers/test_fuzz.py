"""No file ends in a traceback."""

import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from smolplan.errors import UserError
from smolplan.importers.detect import FORMATS, import_file
from smolplan.importers.options import Options, parse_overrides
from smolplan.spec import dump_spec, parse_spec
from tests.importers.support import DATA

SAMPLES = {
    "nanotron": DATA / "nanotron_stage1.yaml",
    "torchtitan": DATA / "torchtitan_70b.toml",
    "megatron": DATA / "megatron_8b.sh",
    "huggingface": DATA / "llama3_config.json",
}
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([10**30, -(10**30), 0.5, float("inf"), float("nan"), "", "x", "1e-6", "$A"]),
    st.lists(st.integers(-1, 3), max_size=3),
    st.dictionaries(st.sampled_from(["a", "layers", "std"]), st.integers(0, 3), max_size=2),
    st.text(max_size=8),
)


def read_or_refuse(content: str | bytes, name: str | None, options: Options) -> None:
    """Import a content: a spec that can be written and read again, or a sentence."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        try:
            imported = import_file(path, options, name)
        except UserError as error:
            assert str(error)
            return
    assert parse_spec(dump_spec(imported.spec), where="") == imported.spec
    json.dumps(imported.as_json(), allow_nan=False)


@settings(max_examples=150)
@given(st.text(max_size=200), st.sampled_from([None, *FORMATS]))
def test_any_text_is_imported_or_refused(content: str, name: str | None) -> None:
    read_or_refuse(content.encode("utf-8", "surrogatepass"), name, Options())


@settings(max_examples=60)
@given(st.binary(max_size=60), st.sampled_from([None, *FORMATS]))
def test_any_bytes_are_imported_or_refused(content: bytes, name: str | None) -> None:
    read_or_refuse(content, name, Options())


def leaves(node: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(node, dict):
        return [path]
    return [path, *(leaf for key, value in node.items() for leaf in leaves(value, (*path, key)))]


def changed(node: Any, path: tuple[str, ...], value: Any) -> Any:
    return {**node, path[0]: changed(node[path[0]], path[1:], value)} if path else value


@settings(max_examples=300)
@given(st.data(), st.sampled_from(["nanotron", "huggingface"]))
def test_any_values_in_a_sample_are_imported_or_refused(data: st.DataObject, name: str) -> None:
    content = yaml.safe_load(SAMPLES[name].read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        paths = leaves(content)
        content = changed(content, data.draw(st.sampled_from(paths)), data.draw(ODD))
    written = json.dumps(content) if name == "huggingface" else yaml.safe_dump(content)
    read_or_refuse(written, name, Options(data.draw(st.sampled_from([None, 1, 384]))))


@settings(max_examples=300)
@given(st.data(), st.sampled_from(["torchtitan", "megatron", "nanotron"]))
def test_a_sample_with_any_pieces_cut_or_put_in_is_imported_or_refused(
    data: st.DataObject, name: str
) -> None:
    content = SAMPLES[name].read_text()
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = start + data.draw(st.integers(0, 12))
        pieces = ["", "0", "-1", "'", '"', "$", "(", ")", "\n", " --lr 1 ", "[", "{", "=", "9" * 30]
        content = content[:start] + data.draw(st.sampled_from(pieces)) + content[end:]
    read_or_refuse(content, data.draw(st.sampled_from([name, None])), Options())


@settings(max_examples=100)
@given(st.text(max_size=30), st.sampled_from(["model.layers", "name", "data.sources", "x", ""]))
def test_any_setting_is_taken_or_refused(value: str, field: str) -> None:
    try:
        overrides = parse_overrides([f"{field}={value}"])
    except UserError:
        return
    read_or_refuse(SAMPLES["huggingface"].read_text(), None, Options(8, overrides))
