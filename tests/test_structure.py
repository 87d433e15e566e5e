"""The shape of the code: layers, no cycles, short files, what an import loads, what is public."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

import pytest

import iteralign

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "iteralign"

# Top to bottom (DESIGN §3): a lower line may import a higher one, never the reverse. Names on one line stand side by
# side: they do not import each other, but a package's own modules may.
LAYERS = """
    errors
    records
    seeds
    config
    stats similarity
    agreement
    calibrated
    downloads
    package_index
    sources
    sizes
    prompts
    constitutions packs
    store
    ledger
    data
    models
    judges
    stages
    training
    runs
    evals
    recipes
    tally
    training_plan
    walk
    plan
    report
    review
    tracking
    doctor live
    iteralign
    cli_options
    cli_judge cli_constitution cli_eval cli_export cli_pack cli_probe cli_review
    cli
"""
ORDER = {name: n for n, line in enumerate(LAYERS.split("\n")) for name in line.split()}
PUBLIC = ["IteralignError", "RunConfig", "load_config", "run"]

FILES = {".".join(p.relative_to(SOURCE.parent).with_suffix("").parts): p for p in sorted(SOURCE.rglob("*.py"))}
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}


def layer(module: str) -> str:
    """iteralign.models.base → models; iteralign itself, the public face, stands above the commands alone."""
    return module.split(".")[1] if "." in module else module


def imports(module: str) -> set[str]:
    """Modules of ours that this one imports: at its top, inside a function, or for the type checker alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import; name the module in full"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in found if name.split(".")[0] == "iteralign"}


GRAPH = {module: imports(module) for module in MODULES}


def test_every_module_has_its_line_in_the_table() -> None:
    assert {layer(m) for m in MODULES} - set(ORDER) == set(), "new: say in LAYERS where it stands"


def test_a_module_imports_only_what_stands_above_it() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in sorted(others)
        if layer(other) != layer(module) and ORDER[layer(other)] >= ORDER[layer(module)]
    ]
    assert wrong == []


def test_there_are_no_import_cycles() -> None:
    left = {module: set(others) & set(GRAPH) - {module} for module, others in GRAPH.items()}
    while free := [module for module, others in left.items() if not others]:
        for module in free:
            del left[module]
        for others in left.values():
            others.difference_update(free)
    assert left == {}


def test_no_file_is_over_400_lines() -> None:
    sizes = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert {module: size for module, size in sizes.items() if size > 400} == {}


def test_every_module_says_what_it_is() -> None:
    silent = [
        m
        for m, path in MODULES.items()
        if (text := path.read_text()).strip() and not ast.get_docstring(ast.parse(text))
    ]
    assert silent == []


@pytest.mark.parametrize("module", ["iteralign", "iteralign.config", "iteralign.cli", "iteralign.plan"])
def test_no_torch_is_loaded_before_it_is_needed(module: str) -> None:
    heavy = "{'torch', 'transformers', 'trl', 'peft', 'datasets', 'xllamacpp'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_those_that_we_promised() -> None:
    assert sorted(iteralign.__all__) == sorted(PUBLIC)
    assert [name for name in PUBLIC if not hasattr(iteralign, name)] == []


def test_no_file_of_ours_names_a_build_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    # written so that this file does not name one itself
    machine = re.compile(rf"(?<![\w.])/(?:{'|'.join(['work', 'tmp/lab', 'root', 'home/[a-z]+', 'Users/[A-Za-z]+'])})/")
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        for line in path.read_text(encoding="utf-8", errors="ignore").splitlines() if path.is_file() else ():
            found[name] += machine.findall(line)
    assert {name: hits for name, hits in found.items() if hits} == {}


def test_sizes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, not enforced (STYLE 8)."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in MODULES.values()]
    functions = [n for t in trees for n in ast.walk(t) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions}
    parameters = {f.name: len([*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]) for f in functions}
    files = [size for p in MODULES.values() if (size := len(p.read_text(encoding="utf-8").splitlines()))]
    most = max(parameters, key=lambda name: parameters[name])
    with capsys.disabled():
        print(
            f"\nsrc: {len(files)} files, {sum(files)} lines, median {median(files):.0f}, longest {max(files)}; "
            f"{len(functions)} functions, {sum(n > 60 for n in lengths.values())} over 60 lines; "
            f"most parameters: {most} ({parameters[most]})"
        )
    assert functions
