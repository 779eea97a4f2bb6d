// Parts of a page that take longer than the page: each is fetched from the address in its data-load.
for (const part of document.querySelectorAll("[data-load]")) {
  part.setAttribute("aria-busy", "true");
  fetch(part.dataset.load, { headers: { Accept: "text/html" } })
    .then(async (answer) => {
      if (!answer.ok) throw new Error(`This part could not be made (${answer.status}).`);
      part.innerHTML = await answer.text();
    })
    .catch((error) => {
      part.textContent = error.message;
    })
    .finally(() => part.removeAttribute("aria-busy"));
}
