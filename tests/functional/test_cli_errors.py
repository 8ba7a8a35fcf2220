"""What a command says where it cannot go on: what is wrong, where, the mend, and its exit code."""

import json
import socket
import sys

import pytest

from gateway import __version__
from gateway.cli import main
from gateway.cli.terminal import EXIT_UNAVAILABLE, EXIT_USAGE, errors_as, fail, show_json, warn
from tests.functional.command_line import Operator
from tests.support.gate import free_ports


@pytest.fixture
def operator(tmp_path):
    return Operator(tmp_path)


def ports(*numbers):
    options = ("--data-port", "--console-port", "--ops-port")
    return [word for pair in zip(options, map(str, numbers), strict=True) for word in pair]


def test_a_demo_names_each_port_in_use_and_the_option_that_changes_it(operator):
    data, console, ops = free_ports(3)
    command = ("demo", "--no-tour", "--dir", str(operator.home / "demo"))
    with socket.create_server(("127.0.0.1", data)), socket.create_server(("127.0.0.1", ops)):
        said = operator.bare(*command, *ports(data, console, ops), code=EXIT_USAGE)
    for listener, port in (("data", data), ("ops", ops)):
        assert f"{listener}.listen: 127.0.0.1:{port}: Address already in use" in said.err
    assert "choose another with --data-port and --ops-port" in said.err
    assert "console" not in said.err


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_that_is_none_is_refused_at_once(operator, port):
    said = operator.bare("demo", "--ops-port", port, "--dir", "unused", code=EXIT_USAGE)
    assert "--ops-port" in said.err


def test_two_listeners_on_one_port_are_refused(operator):
    [port] = free_ports(1)
    operator.configure(data={"listen": f"127.0.0.1:{port}"}, ops={"listen": f"127.0.0.1:{port}"})
    said = operator.bare("serve", "--dev", "--config", str(operator.config), code=EXIT_USAGE)
    assert f"data.listen and ops.listen are one address, 127.0.0.1:{port}" in said.err
    assert not operator.state.root.exists()


def test_a_file_is_no_directory_for_a_demo(operator):
    said = operator.bare("demo", "--dir", str(operator.config), code=EXIT_USAGE)
    assert f"{operator.config} is or holds something that no demo made" in said.err
    assert "choose another --dir" in said.err


def test_rules_that_were_edited_into_nonsense_stop_a_demo_with_their_line(operator):
    directory = operator.home / "demo"
    command = ("demo", "--no-tour", "--dir", str(directory), *ports(*free_ports(3)))
    (directory / "policies" / "data").mkdir(parents=True)
    (directory / "demo.json").write_text("{}")
    (directory / "policies" / "data" / "models.yaml").write_text("a: [\n")
    said = operator.bare(*command, code=EXIT_USAGE)
    assert "data/models.yaml:2: " in said.err
    assert f"remove {directory}/policies" in said.err


def test_init_overwrites_nothing_and_names_what_is_in_the_way(operator):
    before = operator.config.read_text()
    said = operator.bare("init", str(operator.config), code=EXIT_USAGE)
    assert f"{operator.config} exists and is not overwritten" in said.err
    assert "sluicegate init other.yaml" in said.err
    assert operator.config.read_text() == before
    nowhere = operator.home / "none" / "sluicegate.yaml"
    said = operator.bare("init", str(nowhere), code=EXIT_UNAVAILABLE)
    assert f"{nowhere}: No such file or directory" in said.err
    assert "name a file in a directory" in said.err


def test_serve_without_a_configuration_says_how_to_write_one(operator):
    none = str(operator.home / "none.yaml")
    said = operator.bare("serve", "--config", none, code=EXIT_USAGE)
    assert f"{none}: No such file or directory" in said.err
    assert "sluicegate init" in said.err


ASKING = [("status",), ("policy", "reload", "--reason", "r")]


def left_over(path):
    """A socket's file without its listener, as a gateway that was killed leaves it."""
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(path))


@pytest.mark.parametrize("words", ASKING)
@pytest.mark.parametrize("killed", [False, True])
def test_a_stopped_demo_says_how_to_start_it(operator, words, killed):
    operator.state.prepare()
    operator.state.demo.write_text("{}")
    if killed:
        left_over(operator.state.control_socket)
    said = operator.bare(*words, "--dir", str(operator.state.root), code=EXIT_UNAVAILABLE)
    assert f"no gateway runs in {operator.state.root}" in said.err
    assert f"`sluicegate demo --dir {operator.state.root}`" in said.err


@pytest.mark.parametrize("words", ASKING)
def test_a_stopped_gateway_says_how_to_start_it(operator, words):
    root = operator.state.root
    said = operator.bare(*words, "--dir", str(root), code=EXIT_UNAVAILABLE)
    assert f"there is no {root}: name the gateway's state directory with --dir" in said.err
    operator.state.prepare()
    said = operator.bare(*words, "--dir", str(root), code=EXIT_UNAVAILABLE)
    assert "`sluicegate serve --config FILE`" in said.err
    (root / "sluicegate.yaml").touch()
    said = operator.bare(*words, "--dir", str(root), code=EXIT_UNAVAILABLE)
    assert f"`sluicegate serve --config {root}/sluicegate.yaml`" in said.err


def test_a_change_without_a_gateway_and_without_a_configuration_says_both(operator, monkeypatch):
    monkeypatch.chdir(operator.home / "policies")
    operator.state.prepare()
    command = ("org", "add", "acme", "--reason", "r", "--dir", str(operator.state.root))
    said = operator.bare(*command, code=EXIT_UNAVAILABLE)
    assert "`sluicegate serve --config FILE`" in said.err
    assert "--config" in said.err


def test_an_unforeseen_fault_is_one_line_with_its_place(monkeypatch, capsys):
    def fault():
        raise RuntimeError("a secret")

    monkeypatch.setattr(sys.modules["gateway.cli.main"], "app", fault)
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == EXIT_UNAVAILABLE
    assert f"unforeseen RuntimeError at {__file__}:" in said
    assert "secret" not in said


def test_a_command_beside_a_configuration_means_its_gateway_and_no_other(operator, monkeypatch):
    """Else what is typed beside one gateway's configuration would change a demo's people."""
    monkeypatch.chdir(operator.home)
    (operator.home / "sluicegate.yaml").write_text("# a comment\nstate_dir: prod # ours\n")
    for command in (("status",), ("audit", "tail"), ("member", "list")):
        assert "prod" in operator.bare(*command, code=EXIT_UNAVAILABLE).err
    named = operator.bare("status", "--dir", "elsewhere", code=EXIT_UNAVAILABLE)
    assert "elsewhere" in named.err
    assert "prod" not in named.err


@pytest.mark.parametrize(
    ("words", "code", "error", "remedy"),
    [
        (("status", "--dir", "none"), EXIT_UNAVAILABLE, "no gateway runs in", "there is no"),
        (("key", "add"), EXIT_USAGE, "Missing argument", "sluicegate key add --help"),
        (("key", "add", "red"), EXIT_USAGE, "--reason", "sluicegate key add --help"),
        (("member", "tier", "red", "x", "--reason", "r"), EXIT_USAGE, "cyber=2", "--help"),
        (("frobnicate",), EXIT_USAGE, "No such command", "sluicegate --help"),
        (("status", "--colour"), EXIT_USAGE, "No such option", "sluicegate status --help"),
        (("policy", "check", "none"), EXIT_USAGE, "does not exist", "policy check --help"),
    ],
)
def test_with_json_an_error_is_json_and_the_code_is_the_same(operator, words, code, error, remedy):
    said = operator.bare(*words, "--json", code=code)
    told = json.loads(said.err)
    assert set(told) == {"error", "remedy"}
    assert error in told["error"]
    assert remedy in told["remedy"]
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not operator.bare(*words, code=code).err.startswith("{")


def test_with_json_what_is_said_beside_an_error_is_json_too(operator):
    (operator.policies / "data" / "models.yaml").write_text("a: [\n")
    words = ("policy", "build", str(operator.policies), "-o", str(operator.home / "p.tar.gz"))
    lines = operator.bare(*words, "--json", code=1).err.splitlines()
    assert [next(iter(json.loads(line))) for line in lines] == ["warning", "error"]


def test_control_with_json_an_answer_is_as_it_was(operator):
    said = operator.bare("policy", "check", str(operator.policies), "--json")
    assert said.json["ok"]
    assert said.err == ""
    assert "Usage" in operator.bare("policy", "check", "--json", "--help").out


HIDDEN = "\x1b\x7f\x85\x9b\xad\u200b\u2028\u2029\u202e\u2066\u2069\ufeff\U000e0041\ud800"
"""What a terminal obeys or hides: controls, marks of direction, tags, half a character."""
LETTERS = "Zoë 東京 ÷ 😀"


def shown_in_json(capsys):
    said = capsys.readouterr()
    text = said.out + said.err
    assert LETTERS in text
    assert all(line.isprintable() for line in text.split("\n"))
    return json.loads(text)


def test_json_escapes_what_a_terminal_obeys_and_is_the_same_value(capsys):
    value = {f"{LETTERS}{HIDDEN}": [f"{HIDDEN}\n\t", 1, None]}
    show_json(value)
    assert shown_in_json(capsys) == value


def test_an_error_in_json_escapes_it_too(capsys):
    with errors_as(["--json"]), pytest.raises(SystemExit):
        fail(LETTERS + HIDDEN, HIDDEN)
    assert shown_in_json(capsys) == {"error": LETTERS + HIDDEN, "remedy": HIDDEN}


def test_a_warning_holds_nothing_that_a_terminal_obeys(capsys):
    warn(f"{LETTERS}{HIDDEN}\nsluicegate: all is well", HIDDEN)
    lines = capsys.readouterr().err.split("\n")
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert lines[0].startswith(f"sluicegate: {LETTERS}\ufffd")


def test_an_unforeseen_fault_is_json_too(monkeypatch, capsys):
    def fault():
        raise RuntimeError("a secret")

    monkeypatch.setattr(sys.modules["gateway.cli.main"], "app", fault)
    monkeypatch.setattr(sys, "argv", ["sluicegate", "status", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == EXIT_UNAVAILABLE
    assert json.loads(capsys.readouterr().err)["error"].startswith("unforeseen RuntimeError")


def test_the_version_is_said(operator):
    assert operator.bare("--version").out == f"sluicegate {__version__}\n"
