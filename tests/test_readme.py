"""The README's code runs as it stands."""

import re
from pathlib import Path

import numpy as np

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_ten_lines(capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code
    space = {}
    exec(code[1], space)
    assert "log Z" in capsys.readouterr().out
    assert space["estimate"].trusted
    assert len(code[1].strip().splitlines()) <= 14
    for later in re.findall(r"```python\n(.*?)```", README, re.DOTALL)[1:]:
        exec(later, space)
    printed = capsys.readouterr().out
    assert "virial" in printed
    assert np.isfinite(space["read"].virial.value[0])


def test_set_up_commands_are_one_line_each():
    commands = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert [c.strip() for c in commands[:2]] == [
        "pip install '.[run]' && thermojax sweep",
        "pip install '.[run,test]' && pytest",
    ]
