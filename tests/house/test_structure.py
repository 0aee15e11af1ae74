"""The house rules that keep the tree readable: who may import whom, where gevent is named, how SQL is written."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the top down. A module imports from lower rows, never from its own row or a higher one.
LAYERS = (
    {"serve", "__main__"},
    {"app", "commands"},
    {"upkeep", "doctor", "backup", "demo"},
    {"web", "jobs"},
    {"signin", "history"},
    {"sessions"},
    {"ledger", "vouchers", "guests"},
    {"grants", "networks", "operators", "gateways"},
    {"throttle"},
    {"store", "frontdoor", "offload", "diagnostics"},
    {"config", "metrics", "keys", "access", "wifidog", "fields", "logs"},
)
RANK = {module: number for number, layer in enumerate(LAYERS) for module in layer}
GEVENT = {"serve", "frontdoor", "offload", "jobs", "diagnostics", "ledger", "store", "emulator"}
# Rulebooks and formats: no input, no output.
PURE = {"access": {"portal.access"}, "wifidog": {"msgspec"}}


def sources() -> list[Path]:
    return sorted(path for path in (ROOT / "portal").rglob("*.py")) + [ROOT / "serve.py"]


def room(path: Path) -> str:
    """The module or package directly below portal/ that a file belongs to."""
    inside = path.relative_to(ROOT)
    return inside.stem if len(inside.parts) <= 2 else inside.parts[1]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path.name} imports relatively; whole names show the way"
            if node.module == "portal":
                yield from (f"portal.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down_never_up_and_never_sideways(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        return
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("portal.")} - {here, "__version__"}
    if here == "emulator":
        assert not ours, f"the emulator stands aside, and imports {ours}"
        return
    assert here in RANK, f"portal/{here} has no place among the layers yet: give it one in this test"
    for other in ours:
        if here == "demo" and other == "emulator":
            continue
        assert other in RANK, f"{path.name} imports portal.{other}, which has no place among the layers"
        assert RANK[here] < RANK[other], (
            f"{path.relative_to(ROOT)} imports portal.{other}: imports point down, and {other} is not below {here}"
        )


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_gevent_is_named_where_the_loop_is_and_nowhere_else(path: Path) -> None:
    names = {name.split(".")[0] for name in imported(path)}
    if names & {"gevent", "greenlet", "psycogreen"}:
        assert room(path) in GEVENT, f"{path.name} names gevent; only {sorted(GEVENT)} may"


def test_only_serve_and_the_command_lines_patch() -> None:
    patching = {str(path.relative_to(ROOT)) for path in sources() if "patch_all(" in path.read_text()}
    assert patching <= {"serve.py", "portal/__main__.py", "portal/emulator/__main__.py"}
    assert "serve.py" in patching


def test_serve_patches_before_anything_else_is_imported() -> None:
    body = ast.parse((ROOT / "serve.py").read_text()).body
    assert [ast.unparse(node) for node in body[1:5]] == [
        "from gevent import monkey",
        "monkey.patch_all()",
        "from psycogreen.gevent import patch_psycopg",
        "patch_psycopg()",
    ]


def test_nothing_is_patched_late_when_the_program_is_imported() -> None:
    script = (
        "import warnings; warnings.simplefilter('error'); import runpy, sys; sys.argv = ['serve.py', '--version'];\n"
        "try: runpy.run_path('serve.py', run_name='__main__')\n"
        "except SystemExit as done: code = done.code\n"
        "import socket, ssl, threading, psycopg2.extensions as p\n"
        "assert code == 0 and 'gevent' in socket.socket.__module__ and p.get_wait_callback() is not None\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_statements_are_named_once_at_import_and_nowhere_else() -> None:
    seen: dict[str, str] = {}
    for path in sources():
        nodes = list(ast.walk(ast.parse(path.read_text())))
        functions = (node for node in nodes if isinstance(node, ast.FunctionDef))
        inside = {id(call) for function in functions for call in ast.walk(function) if isinstance(call, ast.Call)}
        for node in nodes:
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "sql" and node.args):
                continue
            name = node.args[0]
            assert isinstance(name, ast.Constant), f"{path.name}: a statement's name is written out"
            if room(path) != "store":
                assert id(node) not in inside, (
                    f"{path.name}: {name.value} is made inside a function, so not from constants"
                )
            where = str(path.relative_to(ROOT))
            assert seen.setdefault(str(name.value), where) == where, f"two statements are called {name.value}"


def test_no_statement_is_sent_without_a_name() -> None:
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "text" and room(path) != "store":
                pytest.fail(f"{path.name}:{node.lineno} uses text(); statements are made by store.sql, with a name")


def test_what_gateways_search_for_stands_in_the_wire_alone() -> None:
    """`Auth: ` in any page, header or message is an access bypass: a gateway takes the first it finds."""
    for path in sorted((ROOT / "portal").rglob("*")):
        if path.suffix in (".html", ".po", ".mo", ".css", ".svg", ".txt", ".xml"):
            said = [path.read_bytes()]
        elif path.suffix == ".py" and path != ROOT / "portal/wifidog.py" and room(path) != "emulator":
            said = list(spoken(ast.parse(path.read_text())))
        else:
            continue
        for words in said:
            assert b"Auth: " not in words, path
            assert b"Pong" not in words, path


def spoken(tree: ast.AST) -> Iterator[bytes]:
    """Every string of a module that is not a docstring."""
    nodes = list(ast.walk(tree))
    silent = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in silent:
            yield node.value if isinstance(node.value, bytes) else node.value.encode()


def test_the_lock_files_name_no_registry_and_carry_hashes() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        lock = (ROOT / name).read_text()
        assert "://" not in lock
        assert "index-url" not in lock
        assert lock.count("--hash=") > lock.count("==") > 20


def test_every_requirement_has_its_reason() -> None:
    lines = (ROOT / "setup.cfg").read_text().split("install_requires =\n")[1].split("\n[")[0].splitlines()
    for before, line in zip(lines, lines[1:], strict=False):
        if line.strip() and not line.strip().startswith("#"):
            assert before.strip().startswith("#"), f"{line.strip()} is required without a reason"
