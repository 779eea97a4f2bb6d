// Models: two chosen ones are compared, a person lets one serve, and approves or rejects what the gate let pass.
import { ask, askAirflow, attempt, say } from "./asking.js";

const PARKED = ["deferred", "awaiting_input"]; // states of a task that waits for a person

const comparing = document.getElementById("comparing");
comparing?.addEventListener("submit", (event) => {
  event.preventDefault();
  const chosen = [...comparing.elements.version].filter((box) => box.checked).map((box) => box.value);
  if (chosen.length !== 2) return say(`Choose two models to compare; ${chosen.length} chosen.`, true);
  const [right, left] = chosen; // the newer one stands on the right
  location.href = `${comparing.action}?${new URLSearchParams({ left, right })}`;
});

const dialog = document.getElementById("serving");
for (const button of document.querySelectorAll("[data-serve]")) {
  button.addEventListener("click", () => {
    const form = dialog.querySelector("form");
    form.reset();
    document.getElementById("serving-what").textContent = button.dataset.what;
    document.getElementById("serving-explain").textContent = button.dataset.explain;
    dialog.returnValue = "";
    dialog.onclose = () => {
      if (dialog.returnValue === "go") serve(button, form.elements.reason.value);
    };
    dialog.showModal();
  });
}

function serve(button, reason) {
  attempt(button, async () => {
    const { detail } = await ask(button.dataset.serve, { json: { reason } });
    setTimeout(() => location.reload(), 1500); // the page tells who serves
    return detail;
  });
}

const approvals = document.getElementById("approvals");
if (approvals) showWaiting();

// Airflow's own list of what waits for a person, asked with the login that the browser has.
async function showWaiting() {
  const path = `/dags/${approvals.dataset.dag}/dagRuns/~/hitlDetails?response_received=false`;
  const found = await askAirflow(path, { method: "GET" }).catch(() => ({ hitl_details: [] }));
  const waiting = found.hitl_details.filter(({ task_instance: { state } }) => PARKED.includes(state));
  approvals.replaceChildren(...waiting.map(card));
  approvals.hidden = waiting.length === 0;
  approvals.dataset.asked = "yes";
}

function card(asked) {
  const made = element("article", "card");
  const heading = element("h2", "", asked.subject);
  const details = element("pre", "", asked.body ?? "");
  made.append(heading, details);
  if (approvals.dataset.mayAct) {
    const row = element("div", "row");
    row.append(...asked.options.map((option, place) => answerButton(asked, option, place === 0)));
    made.append(row);
  }
  return made;
}

function answerButton(asked, option, isMain) {
  const button = element("button", isMain ? "is-main" : "", option);
  button.addEventListener("click", () => attempt(button, () => answer(asked, option)));
  return button;
}

async function answer({ task_instance: task }, option) {
  const run = encodeURIComponent(task.dag_run_id);
  const path = `/dags/${task.dag_id}/dagRuns/${run}/taskInstances/${task.task_id}/${task.map_index}/hitlDetails`;
  await askAirflow(path, { method: "PATCH", json: { chosen_options: [option], params_input: {} } });
  await showWaiting();
  return `Your answer, ${option}, is with Airflow; the run goes on.`;
}

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}
