"""The house's rules of import, kept true: data flows one way, imports point down, heavy packages wait."""

import ast
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
PACKAGE = HOME / "include" / "sightline"
MODULES = sorted(PACKAGE.rglob("*.py"))

FOUNDATIONS = {
    "errors", "settings", "config", "backbone_names", "storage", "schemas", "tables", "catalog",
    "images", "progress", "spark", "source_config", "fine_tune_config", "batches", "classifiers",
    "lookup", "provenance", "column_lineage", "parquet", "hashing", "spark_workers",
    "schema_evolution", "quality_config", "view_hashes", "image_properties", "labels_config",
    "licence_config", "spreadsheets", "delta", "removals", "keep_config", "compaction",
    "leftovers", "spark_cluster", "memory",
    "compute_config", "shipping", "emr", "shared_files",
}  # fmt: skip
MIDDLE = {
    "sources", "backbones", "models", "ledger", "rejection", "principal_components", "embeddings",
    "metrics", "slices", "wanted_images", "near_duplicates", "split_groups", "split_balance",
    "issue_scores", "conflicts", "exclusions", "discriminant", "confident_learning", "tombstones",
    "erasure", "traces", "take_down", "rights", "attribution", "readmission", "label_overrides",
}  # fmt: skip
STAGES = {
    "ingestion", "featurization", "splitting", "reduction", "training", "evaluation", "gating",
    "publishing", "validation", "reporting", "lineage", "preflight", "fine_tuning", "predicting",
    "submission", "tracking", "inspection", "label_audit", "drift",
}  # fmt: skip
KNOW_AIRFLOW = {
    "airflow_access", "alerting", "connections_check", "work", "operators", "emr_operators",
    "orchestration", "stages",
}  # fmt: skip
KNOW_TORCH = {
    "backbones", "featurization", "fine_tuning", "exporting", "worker_daemon", "serving",
}  # fmt: skip


def package_name(path: Path) -> str:
    """The module, or the package that holds it."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path, at_top_level_only: bool = False) -> set[str]:
    """Dotted names of what a file imports; imports for type checkers alone do not count."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    nodes = tree.body if at_top_level_only else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(path: Path) -> set[str]:
    """Which of our own modules or packages a file imports."""
    found = {name.split(".")[1] for name in imported(path) if name.startswith("sightline.")}
    return found - {package_name(path), "__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    name = package_name(path)
    if name == "preflight":  # which asks the training itself how much memory it takes
        assert ours(path) <= FOUNDATIONS | MIDDLE | {"fine_tuning"}
        return
    allowed = {
        **dict.fromkeys(FOUNDATIONS, FOUNDATIONS),
        **dict.fromkeys(MIDDLE, FOUNDATIONS | MIDDLE),
        **dict.fromkeys(STAGES, FOUNDATIONS | MIDDLE),
    }.get(name)
    if allowed is not None:
        assert ours(path) <= allowed, f"{name} may not import {sorted(ours(path) - allowed)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_modules_named_for_it_know_airflow_and_torch(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    if package_name(path) not in KNOW_AIRFLOW | {"lineage"}:
        assert "airflow" not in roots
    if package_name(path) not in KNOW_TORCH:
        assert not roots & {"torch", "torchvision", "timm"}
    if package_name(path) != "validation":
        assert "great_expectations" not in roots


def test_dags_and_jobs_stay_thin() -> None:
    for folder in ("dags", "spark_jobs"):
        for path in (HOME / folder).glob("*.py"):
            lines = path.read_text().splitlines()
            assert len(lines) <= 80, path
            assert ast.get_docstring(ast.parse(path.read_text())), path


def test_the_plugin_which_each_task_imports_is_light() -> None:
    for path in (HOME / "plugins").glob("*.py"):
        roots = {name.split(".")[0] for name in imported(path, at_top_level_only=True)}
        assert roots <= {"airflow", "functools", "typing", "urllib"}, path


def test_nothing_is_broadcast_through_the_heap_of_the_drivers_jvm() -> None:
    """Large objects are files that workers read (shared_files)."""
    for path in MODULES:
        assert "ontext.broadcast(" not in path.read_text(), path


def test_every_module_says_what_it_is_and_stays_readable() -> None:
    for path in MODULES:
        if path.name == "__init__.py" and path.stat().st_size == 0:
            continue
        assert ast.get_docstring(ast.parse(path.read_text())), path
        assert len(path.read_text().splitlines()) <= 450, path


def test_nothing_names_a_secret_or_a_machine() -> None:
    for path in [*MODULES, *(HOME / "dags").glob("*.py"), HOME / "Makefile", HOME / "README.md"]:
        assert "/root/" not in path.read_text(), path
