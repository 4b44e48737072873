"""Workflow files: what they mean, and every mistake as one sentence with its line."""

import runpy
from pathlib import Path

import pytest

from posterion.errors import PosterionError
from posterion.workflow.plan import Plan, read_plan

COMMANDS = runpy.run_path(str(Path(__file__).with_name("commands.py")))["COMMANDS"]


def plan_of(folder: Path, text: str) -> Plan:
    (folder / "w.toml").write_text(text)
    return read_plan(folder / "w.toml", COMMANDS)


def test_steps_options_and_references(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text(name)
    plan = plan_of(
        tmp_path,
        """
        threads = 3
        output = "results"
        [make]
        text = "x"
        [again]
        command = "double"
        source = "{make}/made.txt"
        others = ["{make}/made.txt", "*.txt"]
        threads = 1
        [mask]
        source = "a.txt"
        """,
    )
    assert [(step.name, step.command, step.needs) for step in plan.steps] == [
        ("make", "make", ()),
        ("again", "double", ("make",)),
        ("mask", "mask", ()),
    ]
    made = tmp_path / "results" / "make"
    assert plan.steps[0].arguments(plan) == {"text": "x", "threads": 3, "output": made}
    assert plan.steps[1].arguments(plan) == {
        "source": made / "made.txt",
        "others": [made / "made.txt", tmp_path / "a.txt", tmp_path / "b.txt"],
        "threads": 1,
        "output": tmp_path / "results" / "again",
    }
    assert plan.steps[2].arguments(plan)["output"] == tmp_path / "results" / "mask" / "mask.mrc"


def test_folder_of_the_steps(tmp_path: Path) -> None:
    assert plan_of(tmp_path, "[make]\n").output == tmp_path / "w"
    assert read_plan(tmp_path / "w.toml", COMMANDS, tmp_path / "x").output == tmp_path / "x"


def test_text_that_is_a_file_becomes_its_path(tmp_path: Path) -> None:
    (tmp_path / "mask.mrc").write_text("")
    for text, meant in (("mask.mrc", str(tmp_path / "mask.mrc")), ("auto", "auto")):
        plan = plan_of(tmp_path, f'[make]\ntext = "{text}"\n')
        assert plan.steps[0].arguments(plan)["text"] == meant


def test_hyphens_are_as_good_as_underscores_and_config_stands_for_the_rest(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("")
    plan = plan_of(tmp_path, '[refine]\nconfig = "c.toml"\nsymmetry = "O"\n')
    assert plan.steps[0].options == {"config": "c.toml", "symmetry": "O"}


LINES = "threads = 1\n\n[make]\n# a comment\ntext = 'x'\n\n[double]\nsource = '{make}/made.txt'\n"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "[double]",
            "[dubble]",
            "line 7: step 'dubble' is unknown, 'double' may be meant; steps are ctf, do",
        ),
        ("[double]", "[double]\ncommand = 'duble'", "line 8: step 'double', command 'duble' is unknown, 'do"),
        ("[double]", "[double]\ncommand = 3", "line 8: step 'double', command '3' is unknown"),
        ("[double]", "[run]", "line 7: step 'run' is unknown"),
        ("[double]", "['a b']", "line 7: a step cannot be called 'a b'"),
        ("text", "txt", "line 5: step 'make' has no option 'txt', 'text' may be meant; it has text, threads"),
        ("text = 'x'", "output = 'x'", "line 5: step 'make': its output is the folder .*w/make; leave"),
        (
            "text = 'x'",
            "threads = 0",
            "line 5: step 'make', threads = 0: a whole number of 1 or more was exp",
        ),
        ("text = 'x'", "threads = 'all'", "line 5: step 'make', threads = \"all\": a whole number .*Threads"),
        ("text = 'x'", "text = true", "line 5: step 'make', text = true: text in quotes was expected"),
        (
            "source = '{make}/made.txt'",
            "how = 'plain'",
            "line 7: step 'double' lacks the key 'source': a pat",
        ),
        ("{make}", "{mak}", "line 8: step 'double', source = .*{mak} is no step before this one, 'make' may"),
        ("{make}", "{double}", "line 8: .*{double} is no step before this one; before it are make"),
        ("{make}/made.txt", "none.txt", "line 8: step 'double', source: .*none.txt does not exist"),
        ("threads = 1", "threads = 'x'", 'line 1: .*threads = "x": a whole number of 1 or more'),
        ("threads = 1", "pixel_size = 1.5", "line 1: 'pixel_size' stands outside of all steps, where only"),
        ("threads = 1", "symmetry = 'C1'", "line 1: 'symmetry' is an option of none of the steps"),
        ("threads = 1", "output = 7", "line 1: output = 7: a folder in quotes"),
        ("threads = 1", "threads = ", r"is not a TOML file: .*line 1"),
        ("'{make}/made.txt'", "'{make}/made.txt'\nothers = ['*.dat']", "line 9: .*no file matches .*dat"),
        ("'{make}/made.txt'", "'{make}/made.txt'\nhow = 'hard'", 'line 9: .*one of "plain", "loud" was'),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in LINES
    with pytest.raises(PosterionError, match=rf"w\.toml.*{complaint}"):
        plan_of(tmp_path, LINES.replace(old, new))


def test_more_mistakes(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("")
    with pytest.raises(PosterionError, match=r"line 1: step 'refine' lacks the key 'reference': a path"):
        plan_of(tmp_path, "[refine]\nparticles = 'p'\ndiameter = 3\n")
    with pytest.raises(PosterionError, match=r"line 2: step 'refine': .*X7"):
        plan_of(tmp_path, "[refine]\nsymmetry = 'X7'\nparticles = 'p'\nreference = 'p'\ndiameter = 3\n")
    with pytest.raises(PosterionError, match="line 3: step 'mask', output: a file name was expected"):
        plan_of(tmp_path, "[mask]\nsource = 'p'\noutput = '../x.mrc'\n")
    with pytest.raises(PosterionError, match=r"line 1: .*source = 3"):
        plan_of(tmp_path, "double = {source = 3}\n")
    with pytest.raises(PosterionError, match=r"line 1: .*source = 3"):
        plan_of(tmp_path, "double.source = 3\n")
    with pytest.raises(PosterionError, match="there is no step in it; 'posterion run --example'"):
        plan_of(tmp_path, "threads = 2\n")
    with pytest.raises(PosterionError, match=r"none\.toml cannot be read: No such file"):
        read_plan(tmp_path / "none.toml", COMMANDS)
