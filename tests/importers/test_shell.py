import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolplan.errors import UserError
from smolplan.importers.shell import read_script


def option(script: str, name: str = "--a") -> str | None:
    read = read_script(script, "x.sh")
    return read.option(name) if name in read.options else None


@pytest.mark.parametrize(
    ("script", "value"),
    [
        ("cmd --a 1 --b 2", "1"),
        ("cmd --a=1", "1"),
        ("cmd --a \\\n  1", "1"),
        ("cmd --a --b 2", ""),
        ("cmd --a 1 --a 2", "2"),  # as argparse: the last one
        ("ARGS=(\n --a 1 # one\n --b)", "1"),
        ("ARGS=(--a 1)\ncmd", "1"),
        ("ARGS+=('--a 1' \"--b\")", "1"),
        ('ARGS="--b \\\n --a 1"', "1"),
        ("N=3; cmd --a $N", "3"),
        ("N=3\ncmd --a ${N}", "3"),
        ("export N=3 && cmd --a $N", "3"),
        ("N=${N:-4}\ncmd --a $N", "4"),
        ("cmd --a ${N:-4}", "4"),
        ("cmd --a ${1:-4}", "4"),
        ("A=2 B=$A\ncmd --a $(( $B * 4 + 1 ))", "9"),
        ("A=8\ncmd --a $(($A/3))", "2"),
        ("cmd --a $N", "$N"),
        ("cmd --a $(nproc)", "$(nproc)"),
        ("N=$N\ncmd --a $N", "$N"),
        ("A=$B B=$A\ncmd --a $A", None),
        ("if x; then N=1; else N=2; fi\ncmd --a $N", "$N"),
        ("if x; then N=1; else N=1; fi\ncmd --a $N", "1"),
        ("if x; then cmd --a 1; else cmd --a 2; fi", "1 or 2"),
        ("# cmd --a 1", None),
        ("echo 'use --a 1'", None),
        ("cmd --a $(( 9 ** 9 ** 9 ))", "$((9**9**9))"),
        ("cmd --a $((1/0))", "$((1/0))"),
    ],
)
def test_options_are_read_as_a_shell_and_argparse_would(script: str, value: str | None) -> None:
    found = option(script)
    assert found == value if value is not None else found is None or found.startswith("$")


def test_variables_that_double_each_other_end() -> None:
    lines = ["V0=xxxxxxxxxxxxxxxx"] + [f"V{i}=$V{i - 1}$V{i - 1}" for i in range(1, 60)]
    assert len(option("\n".join(lines) + "\ncmd --a $V59") or "") < 100_000


def test_what_no_shell_could_read_ends_in_a_sentence_with_its_line() -> None:
    with pytest.raises(UserError, match=r"x\.sh:3: .*no closing quotation"):
        read_script("A=1\nB=2\ncmd --a 'x\n\n", "x.sh")
    with pytest.raises(UserError, match="nested too deep"):
        read_script("A=(" * 3000, "x.sh")


@given(st.text(alphabet="ab1 =-$(){}[]'\"\\\n;#:*/&|", max_size=60))
def test_any_text_is_read_or_refused(script: str) -> None:
    try:
        read = read_script(script, "x.sh")
    except UserError:
        return
    for name in read.options:
        read.option(name)
