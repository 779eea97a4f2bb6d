// The cards' runs and buttons. Both speak to Airflow's public API with the visitor's own login: what Airflow
// would not let this person do there, it does not let them do here.
import { askAirflow, attempt, say } from "./asking.js";

const LATEST = 5;
const POLL_MILLISECONDS = 5000;
const AT_WORK = ["queued", "running", "restarting"];
const LOOKS = { success: "is-good", failed: "is-bad", queued: "is-busy", running: "is-busy" };

const paused = new Map(); // by DAG, as Airflow said last

for (const card of document.querySelectorAll("[data-dataset]")) watch(card);

async function watch(card) {
  if (!card.querySelector("[data-runs]")) return; // no Airflow around, or a broken dataset file
  const isBusy = await refresh(card);
  if (isBusy || card.dataset.asked) setTimeout(() => watch(card), POLL_MILLISECONDS);
  delete card.dataset.asked;
}

async function refresh(card) {
  const shown = [...card.querySelectorAll("[data-runs]")].map(showRuns);
  const asked = dagsOf(card).map(async (dagId) => note(dagId, await read(`/dags/${dagId}`)));
  await Promise.all(asked);
  showPaused(card);
  return (await Promise.all(shown)).some(Boolean);
}

// The training first: a paused DAG misses the news of new features.
function dagsOf(card) {
  return ["train", "ingest"].map((kind) => `${kind}_${card.dataset.dataset}`);
}

function note(dagId, dag) {
  if (dag) paused.set(dagId, dag.is_paused);
}

async function showRuns(place) {
  const dagId = place.dataset.runs;
  const found = await read(`/dags/${dagId}/dagRuns?order_by=-run_after&limit=${LATEST}`);
  const runs = found?.dag_runs ?? [];
  place.replaceChildren(...(runs.length ? runs.reverse().map(badge) : [text("none yet")]));
  return runs.some((run) => AT_WORK.includes(run.state));
}

function badge(run) {
  const link = document.createElement("a");
  link.href = `${document.body.dataset.airflow}/dags/${run.dag_id}/runs/${encodeURIComponent(run.dag_run_id)}`;
  link.dataset.out = "";
  link.className = `badge ${LOOKS[run.state] ?? ""}`;
  link.textContent = run.state;
  link.title = run.partition_key ?? run.run_after ?? run.dag_run_id;
  link.setAttribute("aria-label", `${run.dag_id}, ${link.title}: ${run.state}`);
  return link;
}

function text(words) {
  const span = document.createElement("span");
  span.className = "muted";
  span.textContent = words;
  return span;
}

function showPaused(card) {
  const [train, ingest] = dagsOf(card).map((dagId) => paused.get(dagId));
  const badge = card.querySelector("[data-paused]");
  badge.hidden = !(train || ingest);
  badge.textContent = ingest ? "paused" : "training paused";
  const button = card.querySelector("[data-do=pause]");
  if (!button || ingest === undefined) return;
  button.hidden = false;
  button.firstChild.data = isPaused(card) ? "Unpause" : "Pause";
}

function isPaused(card) {
  return dagsOf(card).some((dagId) => paused.get(dagId));
}

// What cannot be read just now is left as it stands; a button's refusal is told.
async function read(path) {
  return askAirflow(path, { method: "GET" }).catch(() => null);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (!button) return;
  const card = button.closest("[data-dataset]");
  const dagId = `ingest_${card.dataset.dataset}`;
  if (button.dataset.do === "pause") attempt(button, () => (isPaused(card) ? letRun(card) : pause(card, dagId)));
  else open(document.getElementById(button.dataset.do), button, card, dagId);
});

// No schedule starts it any more; a training that is due goes on.
async function pause(card, dagId) {
  note(dagId, await setPaused(dagId, true));
  showPaused(card);
  return `${dagId} is paused.`;
}

async function letRun(card) {
  for (const dagId of dagsOf(card)) note(dagId, await setPaused(dagId, false));
  showPaused(card);
  return `${dagsOf(card).join(" and ")} are let run.`;
}

function setPaused(dagId, isPaused) {
  return askAirflow(`/dags/${dagId}`, { method: "PATCH", json: { is_paused: isPaused } });
}

function open(dialog, button, card, dagId) {
  const form = dialog.querySelector("form");
  form.reset();
  say("");
  const yesterday = new Date(Date.now() - 86_400_000).toISOString().slice(0, 10);
  for (const input of form.querySelectorAll("input[type=date]")) input.value = input.max = yesterday;
  for (const name of dialog.querySelectorAll("[data-name]")) name.textContent = card.dataset.dataset;
  const isDaily = "daily" in card.dataset;
  show(dialog, "[data-day]", isDaily);
  show(dialog, "[data-whole]", !isDaily);
  show(dialog, "[data-unpause]", isPaused(card));
  dialog.onclose = () => {
    if (dialog.returnValue !== "go") return;
    attempt(button, () => start(dialog.id, new FormData(form), card, dagId, isDaily));
  };
  dialog.returnValue = "";
  dialog.showModal();
}

function show(dialog, what, isShown) {
  const part = dialog.querySelector(what);
  if (part) part.hidden = !isShown;
}

async function start(kind, filled, card, dagId, isDaily) {
  if (isPaused(card) && filled.get("unpause")) await letRun(card);
  const said = kind === "run" ? await run(dagId, isDaily ? filled.get("day") : null) : await backfill(dagId, filled);
  card.dataset.asked = "yes";
  watch(card);
  return said;
}

async function run(dagId, day) {
  const json = { logical_date: null, partition_key: day, conf: {} };
  const started = await askAirflow(`/dags/${dagId}/dagRuns`, { json });
  return `${dagId} was started${day ? ` for ${day}` : ""}: ${started.dag_run_id}`;
}

async function backfill(dagId, filled) {
  const [first, last] = [filled.get("first"), filled.get("last")];
  if (last < first) throw new Error(`The backfill ends on ${last}, before it begins on ${first}.`);
  const json = {
    dag_id: dagId,
    from_date: `${first}T00:00:00Z`,
    to_date: `${last}T23:59:59Z`,
    reprocess_behavior: filled.get("again") ? "completed" : "failed",
    max_active_runs: 4,
  };
  await askAirflow("/backfills", { json });
  return `A backfill of ${dagId} from ${first} to ${last} was started.`;
}
