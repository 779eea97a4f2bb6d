"""Where the data of a dataset lives, in the order in which it flows; no other module builds a path.

<storage>/<dataset>/
    manifest images rejects issues features drift splits label_overrides suspicious_labels exclusions
    reduced scores predictions metrics answers scaling    Delta tables
    tombstones readmissions check_results    Delta tables, too
    models/<version>/   plan.json, model.json, weights.safetensors, decision.json
    models/champion.json    the model that serves, and those before it
    predicted/          answers of a model as a file, and its submission
    exports/            models for elsewhere
    reports/            one page a trained model, latest.html
    checks/             Great Expectations' Data Docs
    runs/               what each task of each run read, wrote and took
    newest/             the same of each task's last run, and which run of a DAG began last
    staging/            work lists of running jobs
    source/             what a source keeps of what it has downloaded
    take_downs/         take-downs at work, each a list of what has to go; empty otherwise
    remakes/<version>/  a model made again to be compared, with tables and models of its own
"""

from dataclasses import dataclass

import pyarrow as pa

from sightline import schemas, storage
from sightline.settings import load_settings
from sightline.tables import Table


@dataclass(frozen=True)
class Catalog:
    """The places of one dataset."""

    dataset: str
    root: str
    source_root: str | None = None  # of what a training reads; default: root

    @property
    def manifest(self) -> Table:
        """Images that the source says exist."""
        return self._source("manifest", schemas.MANIFEST, "partition")

    @property
    def images(self) -> Table:
        """Images that we hold."""
        return self._source("images", schemas.IMAGES, "partition")

    @property
    def rejects(self) -> Table:
        """Images that we could not take, and why."""
        return self._source("rejects", schemas.REJECTS, "partition")

    @property
    def issues(self) -> Table:
        """What may be wrong with images that we hold."""
        return self._table("issues", schemas.ISSUES, "partition")

    @property
    def features(self) -> Table:
        """Embeddings."""
        return self._source("features", schemas.FEATURES, "backbone_id")

    @property
    def drift(self) -> Table:
        """How far each partition is from what was there before."""
        return self._table("drift", schemas.DRIFT, "partition")

    @property
    def splits(self) -> Table:
        """The split of each image, for good."""
        return self._source("splits", schemas.SPLITS, None)

    @property
    def label_overrides(self) -> Table:
        """Labels that people have accepted or corrected."""
        return self._source("label_overrides", schemas.LABEL_OVERRIDES, None)

    @property
    def suspicious_labels(self) -> Table:
        """Labels that the other images speak against, worst first, by plan."""
        return self._table("suspicious_labels", schemas.SUSPICIOUS_LABELS, "model_version")

    @property
    def exclusions(self) -> Table:
        """Images that the models of a plan leave out, and why."""
        return self._source("exclusions", schemas.EXCLUSIONS, "model_version")

    @property
    def reduced(self) -> Table:
        """Principal components of the embeddings, by the model they were fitted for."""
        return self._table("reduced", schemas.REDUCED, "model_version")

    @property
    def scores(self) -> Table:
        """Probabilities of a fine-tuned network, by model."""
        return self._table("scores", schemas.SCORES, "model_version")

    @property
    def predictions(self) -> Table:
        """Predictions on the test split, by model."""
        return self._table("predictions", schemas.PREDICTIONS, "model_version")

    @property
    def metrics(self) -> Table:
        """Numbers that say how good a model is."""
        return self._table("metrics", schemas.METRICS, "model_version")

    @property
    def answers(self) -> Table:
        """Predictions of images that nobody has labelled, by model."""
        return self._table("answers", schemas.ANSWERS, "model_version")

    @property
    def scaling(self) -> Table:
        """What scaling studies measured, by study."""
        return self._table("scaling", schemas.SCALING, "study")

    @property
    def tombstones(self) -> Table:
        """What was taken down and may not come back."""
        return self._table("tombstones", schemas.TOMBSTONES, None)

    @property
    def readmissions(self) -> Table:
        """Rejects that a person wants to be tried again."""
        return self._table("readmissions", schemas.READMISSIONS, None)

    @property
    def check_results(self) -> Table:
        """What became of each expectation, by validation."""
        return self._table("check_results", schemas.CHECK_RESULTS, "validation")

    @property
    def tables(self) -> list[Table]:
        """All tables in flow order."""
        return [
            self.manifest,
            self.images,
            self.rejects,
            self.issues,
            self.features,
            self.drift,
            self.splits,
            self.label_overrides,
            self.suspicious_labels,
            self.exclusions,
            self.reduced,
            self.scores,
            self.predictions,
            self.metrics,
            self.answers,
            self.scaling,
            self.tombstones,
            self.readmissions,
            self.check_results,
        ]

    @property
    def models(self) -> str:
        """Folder of the models."""
        return storage.join(self.root, "models")

    @property
    def champion(self) -> str:
        """The file that names the model that serves."""
        return storage.join(self.models, "champion.json")

    @property
    def predicted(self) -> str:
        """Folder of the files of answers; `predictions` is a table, whose folder is its own."""
        return storage.join(self.root, "predicted")

    @property
    def exports(self) -> str:
        """Folder of the exported models."""
        return storage.join(self.root, "exports")

    @property
    def reports(self) -> str:
        """Folder of the report pages."""
        return storage.join(self.root, "reports")

    @property
    def checks(self) -> str:
        """Folder of Great Expectations' Data Docs."""
        return storage.join(self.root, "checks")

    @property
    def runs(self) -> str:
        """Folder of the run records."""
        return storage.join(self.root, "runs")

    @property
    def staging(self) -> str:
        """Folder for what a running job needs and nobody else reads."""
        return storage.join(self.root, "staging")

    @property
    def source(self) -> str:
        """Folder for what a source keeps of what it has downloaded."""
        return storage.join(self.root, "source")

    @property
    def take_downs(self) -> str:
        """Folder of the take-downs at work."""
        return storage.join(self.root, "take_downs")

    @property
    def remakes(self) -> str:
        """Folder of the models made again to be compared."""
        return storage.join(self.root, "remakes")

    def model(self, version: str) -> str:
        """Folder of one model."""
        return storage.join(self.models, version)

    def newest(self, dag_id: str, name: str) -> str:
        """The file that holds a task's record of its last run; `run` names the run that began last."""
        return storage.join(self.root, "newest", dag_id, f"{name}.json")

    def run(self, dag_id: str, run_id: str) -> str:
        """Folder of one run's records; run ids hold characters that paths should not."""
        return storage.join(self.runs, dag_id, storage.safe_name(run_id))

    def remake(self, version: str) -> "Catalog":
        """Places apart from ours, in which a model is made again of our images, features and splits."""
        return Catalog(self.dataset, storage.join(self.remakes, version), self.root)

    def _source(self, name: str, schema: pa.Schema, partition_by: str | None) -> Table:
        root = self.source_root or self.root
        return Table(name, storage.join(root, name), schema, partition_by)

    def _table(self, name: str, schema: pa.Schema, partition_by: str | None) -> Table:
        return Table(name, storage.join(self.root, name), schema, partition_by)


def open_catalog(dataset: str) -> Catalog:
    """The catalog of a dataset under SIGHTLINE_STORAGE."""
    return Catalog(dataset, storage.join(load_settings().storage, dataset))
