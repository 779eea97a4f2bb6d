"""Nothing that is read from storage can run code: no pickle and its like anywhere in the product."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
FOLDERS = ("include", "dags", "plugins", "spark_jobs", "scripts")
PRODUCT = sorted(path for folder in FOLDERS for path in (HOME / folder).rglob("*.py"))

MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
CALLS = {"eval", "exec", "read_pickle", "to_pickle", "pickleFile", "unsafe_load", "full_load"}
# A call that is safe with one of these arguments alone.
ONLY_WITH = {
    "torch.load": ("weights_only", {"True"}),
    "numpy.load": ("allow_pickle", {"False"}),
    "np.load": ("allow_pickle", {"False"}),
    "yaml.load": ("Loader", {"yaml.CSafeLoader", "yaml.SafeLoader"}),
}


def dangers(code: str) -> Iterator[str]:
    """What could run code that a file brings along."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            yield from _danger_of_call(node)


def _danger_of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    last = name.rsplit(".", 1)[-1]
    is_method = isinstance(call.func, ast.Attribute)
    if last in CALLS and not (is_method and last in ("eval", "exec")):  # model.eval() is torch's
        yield name
    if name in ONLY_WITH:
        argument, safe = ONLY_WITH[name]
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if given.get(argument) not in safe:
            yield f"{name} without {argument}={min(safe)}"


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(HOME)))
def test_nothing_is_unpickled(path: Path) -> None:
    assert list(dangers(path.read_text())) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load(stream)",
        "torch.load(stream, weights_only=False)",
        "numpy.load(path)",
        "yaml.load(text, Loader=yaml.Loader)",
        "frame = pandas.read_pickle(path)",
        "eval(text)",
    ],
)
def test_what_would_is_seen(code: str) -> None:
    assert list(dangers(code))


def test_what_is_safe_passes() -> None:
    safe = "model.eval()\ntorch.load(s, weights_only=True)\nyaml.load(t, Loader=yaml.CSafeLoader)"
    assert list(dangers(safe)) == []
