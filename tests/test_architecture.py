"""Imports run one way, the core is quiet, and no file hides an installed package."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [path for package in ("apo_edu", "toys", "full") for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_imports_run_one_way(path):
    names = imported(path)
    package = path.relative_to(ROOT).parts[0]
    if package == "apo_edu":
        assert names <= {"torch", "apo_edu"} | set(sys.stdlib_module_names)
    elif package == "toys":
        assert "full" not in names
    else:
        assert "toys" not in names
    assert not names & {"tests", "notebooks"}


def import_graph(package: str) -> dict[str, set[str]]:
    """Module -> the modules of the same package that it imports, inside functions too: there a cycle only hides.

    `from . import name` is the module `name` where there is one, and otherwise the package's own `__init__`.
    """
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / package).rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    return {name: _imports(name, path, modules) for name, path in modules.items()}


def _imports(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                member = ".".join([*base, alias.name])
                found.add(member if member in modules else ".".join(base))
    return found & modules.keys() - {name}


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of the graph as a path that ends where it began, or []."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for following in sorted(graph[node]):
            if found := visit(following, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def by_folder(graph: dict[str, set[str]], package: str) -> dict[str, set[str]]:
    """The same graph between the folders of the package; a file beside them is a folder of its own."""

    def folder(module: str) -> str:
        return ".".join(module.split(".")[:2])

    folders: dict[str, set[str]] = {folder(module): set() for module in graph}
    for module, imports in graph.items():
        folders[folder(module)] |= {folder(other) for other in imports if folder(other) != package} - {folder(module)}
    folders.pop(package, None)
    return folders


@pytest.mark.parametrize("package", ["apo_edu", "full", "toys"])
def test_no_import_cycle_between_files_or_folders(package):
    graph = import_graph(package)
    assert sum(map(len, graph.values())) > 5  # the graph was found
    assert cycle(graph) == []
    assert cycle(by_folder(graph, package)) == []


def test_a_cycle_is_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    # No cycle between files, and one between folders.
    graph = {"x.p.one": {"x.q.one"}, "x.q.one": set(), "x.q.two": {"x.p.two"}, "x.p.two": set(), "x": {"x.p.one"}}
    assert cycle(graph) == []
    assert cycle(by_folder(graph, "x")) == ["x.p", "x.q", "x.p"]


@pytest.mark.parametrize("path", sorted((ROOT / "apo_edu").glob("*.py")), ids=lambda path: path.name)
def test_the_core_neither_prints_nor_touches_files(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "open", "input")


@pytest.mark.parametrize("path", sorted((ROOT / "apo_edu").glob("*.py")), ids=lambda path: path.name)
def test_the_core_is_ascii(path):
    assert path.read_text(encoding="utf-8").isascii()  # alpha, not its Greek letter: it can be typed and searched for


def test_no_file_of_full_hides_an_installed_package():
    # `accelerate launch full/train.py` puts full/ first on the path: full/evaluate.py would shadow Hugging Face's.
    installed = set(packages_distributions()) | set(sys.stdlib_module_names)
    assert not {path.stem for path in (ROOT / "full").iterdir() if not path.name.startswith("_")} & installed


# Told apart from the training path: what only looks at a run.
LOOKS_ON = ("full.report", "full.doctor", "full.peers")
# The commands, and the old places of modules that moved.
EXEMPT = {
    "full.train",
    "full.eval",
    "full.sweep",
    "full.compare",
    "full.page",
    "full.engines.trl_apo",
    "full.engines.verl_apo",
}


def test_the_training_path_does_not_look_on():
    for name, imports in import_graph("full").items():
        if name not in EXEMPT and not name.startswith(LOOKS_ON):
            assert not [module for module in imports if module.startswith(LOOKS_ON)], name


# Where names and what belongs to them are written down, so that nothing else has to know a name.
OWNERS = ("full/engines/__init__.py",)
KINDS = ("objective", "schedule", "engine")


def compared_names(tree: ast.AST) -> list[int]:
    """Lines that compare an objective, a schedule or an engine with a string, or look one up in a dict of strings."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Subscript):
            parts = [node.value, node.slice]
        elif isinstance(node, ast.Match):
            parts = [node.subject, *(case.pattern for case in node.cases)]
        else:
            continue
        if any(names_a_kind(part) for part in parts) and any(holds_text(part) for part in parts):
            lines.append(node.lineno)
    return lines


def names_a_kind(node: ast.AST) -> bool:
    """Whether an expression is config.objective, config["objective"], options.get("objective", ...) or the like."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
        return isinstance(node.args[0], ast.Constant) and node.args[0].value in KINDS
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and node.slice.value in KINDS
    name = getattr(node, "attr", getattr(node, "id", ""))
    return name in KINDS


def holds_text(node: ast.AST) -> bool:
    """Whether an expression is a string, or a collection that holds one as it is written."""
    if isinstance(node, ast.Dict):
        return any(holds_text(key) for key in node.keys if key)
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(map(holds_text, node.elts))
    if isinstance(node, ast.MatchValue):
        return holds_text(node.value)
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_compared_names_are_found():
    for code in (
        "config.objective == 'apo'", "if record.options['schedule'] in ('guarded', 'ess'): pass", "'hf' != engine",
        "summary.get('objective', 'apo') == 'apo'", "{'apo': 1}[config.objective]",
        "match config.engine:\n  case 'hf': pass",
    ):  # fmt: skip
        assert compared_names(ast.parse(code)), code
    for code in ("config.lr_schedule == 'linear'", "config['objective']", "a.objective == b.objective", "record.clips"):
        assert not compared_names(ast.parse(code)), code


@pytest.mark.parametrize(
    "path", sorted((ROOT / "full").rglob("*.py")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_no_tool_compares_names(path):
    if path.relative_to(ROOT).as_posix() not in OWNERS:
        assert not compared_names(ast.parse(path.read_text())), path


def test_no_page_compares_names():
    for path in (ROOT / "full").rglob("*.html"):
        assert not re.search(r"\.(objective|schedule|engine)\s*(==|!=|in)\s", path.read_text())


# Files that judge a run: what they draw a line at stands in apo_edu.Limits or has a name.
JUDGES = (
    "doctor/judge.py",
    "report/console.py",
    "report/html.py",
    "report/statistics.py",
    "report/glossary.py",
    "eval.py",
)
FORMATS = {"number"}  # functions that choose digits, not verdicts


@pytest.mark.parametrize("name", JUDGES)
def test_limits_stand_in_one_table(name):
    tree = ast.parse((ROOT / "full" / name).read_text())
    skipped = {id(n) for f in ast.walk(tree) if getattr(f, "name", "") in FORMATS for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and id(node) not in skipped:
            for part in (node.left, *node.comparators):
                numbers = [
                    n.value for n in ast.walk(part) if isinstance(n, ast.Constant) and isinstance(n.value, float)
                ]
                assert set(numbers) <= {0.0, 0.5, 1.0, 1e-9}, (name, node.lineno, numbers)


def test_no_other_top_level_folders():
    allowed = {"apo_edu", "toys", "full", "notebooks", "tests", ".ci"}
    kept = {"runs", "out", "build", "dist", ".venv", ".git"}  # what the tools make, and git ignores
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert {
        name for name in folders - allowed - kept if not name.startswith((".", "__")) and "egg-info" not in name
    } == set()
