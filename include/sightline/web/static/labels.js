// What a person says of a label: kept by a POST, told in the page.
import { ask, attempt, say } from "./asking.js";

for (const form of document.querySelectorAll("form[data-decide]")) {
  const decide = async (label) => {
    await ask(form.dataset.decide, { json: { label } });
    if (form.dataset.then === "reload") location.reload();
    const card = form.closest("li");
    const next = card?.nextElementSibling?.querySelector("button") ?? document.querySelector("h1");
    card?.remove();
    next?.focus();
    return label === null ? "Taken back; the source's label counts again." : `Kept: it is ${label}.`;
  };
  for (const button of form.querySelectorAll("button[type=button]")) {
    const label = "withdraw" in button.dataset ? null : button.value;
    button.addEventListener("click", () => attempt(button, () => decide(label)));
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const label = form.elements.label.value.trim();
    if (!label) return say("Say which class it is.", true);
    attempt(event.submitter, () => decide(label));
  });
}
