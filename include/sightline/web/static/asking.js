// Changes are asked for from here: a POST to a route of ours, or a call of Airflow's public API with the login
// that the browser holds already. What comes of it is said in the page, and read out.

export function say(sentence, isError = false) {
  const said = document.getElementById("said");
  said.textContent = sentence;
  said.classList.toggle("is-error", isError);
}

// The answer's JSON; an Error with a sentence where it was refused.
export async function ask(url, { method = "POST", json, form } = {}) {
  const options = { method, body: form, headers: { Accept: "application/json" } };
  if (json !== undefined) {
    options.body = JSON.stringify(json);
    options.headers["Content-Type"] = "application/json";
  }
  const answer = await fetch(url, options).catch(() => {
    throw new Error("The server does not answer.");
  });
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(sentence(found.detail) ?? `The server refused (${answer.status}).`);
  return found;
}

export function askAirflow(path, options) {
  return ask(`${document.body.dataset.airflow}/api/v2${path}`, options);
}

// Does what a button asks for: the button rests meanwhile, and a refusal is told.
export async function attempt(button, work) {
  button.disabled = true;
  try {
    say(await work());
  } catch (error) {
    say(error.message, true);
  } finally {
    button.disabled = false;
  }
}

function sentence(detail) {
  if (typeof detail === "string") return detail;
  if (Array.isArray(detail) && detail.length) return detail.map((one) => one.msg).join(" ");
  return detail?.reason ?? detail?.message;
}
