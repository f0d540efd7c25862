"""The architecture, read from the source: which layer may import which, and where each outside package is used."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[2] / "batchgen"

# Each package or module of the top level and what it may import, for types too: no cycle, no import upwards.
LAYERS = {
    "redaction": "",
    "formatting": "",
    "money": "",
    "descriptors": "",
    "clocks": "",
    "errors": "redaction",
    "shards": "errors",
    "jobs": "errors",
    "source": "errors",
    "templates": "errors",
    "apis": "errors templates",
    "catalog": "jobs money source",
    "storage": "errors jobs descriptors",
    "http": "errors jobs clocks descriptors redaction",
    "workers": "errors jobs http storage",
    "manifest": "errors jobs shards source templates apis catalog storage",
    "matrix": "jobs source templates manifest",
    "checks": "errors jobs storage templates manifest matrix",
    "ledger": "errors jobs shards redaction storage",
    "image_checks": "",
    "budget": "errors jobs money catalog ledger",
    "reports": "errors jobs money formatting manifest ledger storage",
    "export": "errors ledger storage reports",
    "reconcile": "errors formatting jobs money ledger storage reports",
    "planning": "errors jobs money budget catalog manifest matrix ledger reconcile",
    "providers": "errors jobs templates apis catalog redaction http",
    "callbacks": "errors",
    "engine": "errors jobs clocks money formatting budget catalog ledger providers",
    "sandbox": "errors apis catalog",
    "app": "descriptors errors jobs shards source money formatting budget catalog storage manifest matrix checks ledger"
    " reports image_checks reconcile planning http providers callbacks engine sandbox workers",
}
ENTRANCES = {"cli", "__main__", "__init__"}  # these may import everything

# Outside packages that only some layers may import: layers, or single modules of them.
HOMES = {
    "yaml": "source",
    "jsonschema": "manifest.schema manifest.schema_errors",
    "jsonschema_rs": "manifest.schema",
    "jinja2": "templates reports.page",
    "pygal": "reports.charts",
    "shtab": "cli.completion",
    "prometheus_client": "cli.metrics",
    "jmespath": "apis.selectors",
    "sqlite3": "ledger",
    "aiohttp": "http callbacks sandbox app.gallery_server",
    "aiolimiter": "engine.limits",
    "tqdm": "cli",
    "PIL": "sandbox image_checks export.pixels export.contact_sheet reports.gallery.thumbnails",
    "pyarrow": "export.folder_formats",
    "fpdf": "export.contact_sheet",
    "fontTools": "export.contact_sheet",
    "pypdfium2": "export.contact_sheet",
    "jwt": "providers sandbox",
}


class Import(NamedTuple):
    """One import of a whole module, and where it stands."""

    place: str
    by: str
    of: str
    at_start: bool  # it runs when the module is loaded: not within a function, not for types alone

    def __str__(self):
        return f"{self.place}: {self.by} imports {self.of}"


MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def layer_of(module):
    """`batchgen.app.run` is in `app`; the package's own file is `__init__`."""
    return [*module.split("."), "__init__"][1]


@cache
def imports():
    """All imports of the package, in TYPE_CHECKING blocks and in functions too."""
    return [found for name, path in MODULES.items() for found in imports_of(name, path)]


def imports_of(name, path):
    def walk(node, *, at_start):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                place = f"{path.parent.name}/{path.name}:{child.lineno}"
                for module in modules_of(child, name, is_package=path.name == "__init__.py"):
                    yield Import(place, name, module, at_start)
            else:
                later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                yield from walk(child, at_start=at_start and not later and not types)

    return list(walk(ast.parse(path.read_text(encoding="utf-8")), at_start=True))


def modules_of(node, importer, *, is_package):
    """`from batchgen.engine import run` imports the module `batchgen.app.run`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    above = importer.split(".")[: (-node.level or None) if not is_package else (1 - node.level or None)]
    base = ".".join([*(above if node.level else []), *(node.module or "").split(".")]).strip(".")
    return [full if (full := f"{base}.{alias.name}") in MODULES else base for alias in node.names]


def is_ours(module):
    return module.split(".")[0] == "batchgen"


# --- layers --------------------------------------------------------------------------------------------------


def test_every_module_is_in_a_known_layer():
    assert {layer_of(name) for name in MODULES} <= LAYERS.keys() | ENTRANCES


def test_the_layers_have_no_cycle():
    TopologicalSorter({layer: may.split() for layer, may in LAYERS.items()}).prepare()


def test_no_import_points_up():
    wrong = [
        str(found)
        for found in imports()
        if is_ours(found.of)
        and (layer := layer_of(found.by)) not in ENTRANCES
        and layer_of(found.of) not in {layer, *LAYERS[layer].split(), "__init__"}
    ]
    assert wrong == []


def test_the_package_itself_is_imported_only_for_its_version():
    wrong = [
        f"{path}:{node.lineno}"
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and node.module == "batchgen"
        and any(f"batchgen.{alias.name}" not in MODULES and alias.name != "__version__" for alias in node.names)
    ]
    assert wrong == []


def test_no_modules_wait_for_each_other_when_they_are_loaded():
    graph = {name: {i.of for i in imports() if i.by == name and i.at_start and i.of in MODULES} for name in MODULES}
    graph = {name: needs - {name} for name, needs in graph.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' → '.join(error.args[1])}")


def test_an_outside_package_has_one_home():
    wrong = [
        str(found)
        for found in imports()
        if (home := HOMES.get(found.of.split(".")[0])) is not None
        and not {layer_of(found.by), found.by.removeprefix("batchgen.")} & set(home.split())
    ]
    assert wrong == []


def test_what_a_layer_may_import_and_where_a_package_has_its_home_is_used():
    used = {layer: {layer_of(i.of) for i in imports() if is_ours(i.of) and layer_of(i.by) == layer} for layer in LAYERS}
    unused = {layer: left for layer, may in LAYERS.items() if (left := set(may.split()) - used[layer])}
    homes = {name: [i.by for i in imports() if i.of.split(".")[0] == name] for name in HOMES}
    homes = {
        name: {each for by in users for each in (layer_of(by), by.partition(".")[2])} for name, users in homes.items()
    }
    unused |= {package: left for package, home in HOMES.items() if (left := set(home.split()) - homes[package])}
    assert unused == {}, "take out of LAYERS and HOMES what nobody imports"


def test_no_module_imports_anothers_underscore_names():
    wrong = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {alias.name}"
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("batchgen")
        for alias in node.names
        if alias.name.startswith("_") and alias.name != "__version__"
    ]
    assert wrong == []


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [p for p in MODULES.values() if p.name == "__init__.py"], ids=str)
def test_the_file_of_a_package_imports_nothing(path):
    name = next(module for module, file in MODULES.items() if file == path)
    assert [str(i) for i in imports() if i.by == name and i.at_start and i.of not in {"__future__", "typing"}] == []


def test_the_file_of_an_inner_package_holds_a_docstring_alone():
    inner = [p for p in MODULES.values() if p.name == "__init__.py" and p.parent != PACKAGE]
    assert inner
    wrong = [
        str(p) for p in inner if len(body := ast.parse(p.read_text(encoding="utf-8")).body) != 1 or not is_text(body[0])
    ]
    assert wrong == []


def is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def test_no_module_is_longer_than_400_lines():
    lengths = {str(p.relative_to(PACKAGE)): len(p.read_text(encoding="utf-8").splitlines()) for p in MODULES.values()}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_a_name_says_what_a_module_owns():
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}
    assert [name for name in MODULES if vague & set(name.replace("_", ".").split("."))] == []


def test_every_module_says_what_it_is_for_and_puts_off_its_annotations():
    for path in MODULES.values():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        assert (
            len(tree.body) == 1
            or path.name == "__main__.py"
            or "from __future__ import annotations" in ast.unparse(tree)
        ), path


# --- this test can fail -------------------------------------------------------------------------------------


def test_imports_of_every_kind_are_seen(tmp_path):
    source = tmp_path / "module.py"
    source.write_text(
        "import a.b, c\n"
        "from d import e\n"
        "from batchgen import jobs, __version__\n"
        "from . import sister\n"
        "from ..jobs import Job\n"
        "if TYPE_CHECKING:\n    from f import g\n"
        "def later():\n    import h\n"
        "class Now:\n    import i\n"
        "try:\n    import j\nexcept ImportError:\n    k = None\n",
        encoding="utf-8",
    )
    found = imports_of("batchgen.storage.images", source)
    now = ["a.b", "c", "d", "batchgen.jobs", "batchgen", "batchgen.storage", "batchgen.jobs", "i", "j"]
    assert sorted(i.of for i in found if i.at_start) == sorted(now)
    assert sorted(i.of for i in found if not i.at_start) == ["f", "h"]
