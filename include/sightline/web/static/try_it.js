// Try it: a photo that is dropped, pasted, chosen or taken goes to the champion; what it says is shown in place.
import { ask, say } from "./asking.js";

const find = (id) => document.getElementById(id);
const form = find("asking");
const drop = find("drop");
let last = null; // the photo that was handed in last

for (const id of ["file", "camera"]) {
  find(id).addEventListener("change", (event) => {
    hand(event.target.files[0]);
    event.target.value = ""; // the same photo may be chosen again
  });
}
find("augmented")?.addEventListener("change", () => hand(last));
form.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("paste", (event) => hand(event.clipboardData.files[0]));
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("is-over", name === "dragenter" || name === "dragover");
    if (name === "drop") hand(event.dataTransfer.files[0]);
  });
}

// What is smaller than this is enlarged with its pixels to be seen.
const PIXEL_ART_SIDE = 56;
for (const image of [find("photo"), find("seen")]) {
  image.addEventListener("load", () => {
    const isSmall = Math.max(image.naturalWidth, image.naturalHeight) <= PIXEL_ART_SIDE;
    image.classList.toggle("is-pixel-art", isSmall);
  });
}

let turn = 0; // of several photos in a row, the last one's answer is shown

async function hand(photo) {
  if (!photo) return;
  last = photo;
  const most = Number(form.dataset.mostBytes);
  if (photo.size > most) return say(`This file is larger than ${most / 2 ** 20} MiB; hand in a smaller photo.`, true);
  const mine = ++turn;
  say("");
  find("busy").hidden = false;
  try {
    const answer = await ask(form.action, { form: question(photo) });
    if (mine === turn) show(answer, photo);
  } catch (error) {
    if (mine === turn) {
      find("result").hidden = true;
      say(error.message, true);
    }
  } finally {
    if (mine === turn) find("busy").hidden = true;
  }
}

function question(photo) {
  const asked = new FormData();
  asked.set("dataset", form.dataset.dataset);
  asked.set("pictures", "true");
  asked.set("neighbours", form.dataset.neighbours);
  if (find("augmented")) asked.set("augmented", find("augmented").checked);
  asked.set("file", photo);
  return asked;
}

function show(answer, photo) {
  const [best] = answer.top;
  find("verdict").textContent = `${best.label}, ${percent(best.probability)}`;
  find("top").replaceChildren(...answer.top.map(bar));
  find("facts").textContent = facts(answer);
  URL.revokeObjectURL(find("photo").src);
  find("photo").src = URL.createObjectURL(photo);
  find("seen").src = answer.seen;
  find("alike").hidden = answer.neighbours.length === 0;
  find("neighbours").replaceChildren(...answer.neighbours.map(tile));
  find("result").hidden = false;
  find("verdict").focus({ preventScroll: true });
  find("result").scrollIntoView({ block: "nearest" });
}

function bar({ label, probability }) {
  const item = document.createElement("li");
  const filled = element("span", "fill", "");
  filled.style.inlineSize = `${100 * probability}%`;
  const track = element("span", "track", "");
  track.append(filled);
  item.append(element("span", "name", label), track, element("span", "share number", percent(probability)));
  return item;
}

function tile({ label, similarity, picture, image_id }) {
  const item = element("li", "tile", "");
  if (picture) {
    const image = document.createElement("img");
    image.src = picture;
    image.alt = `Training photo of ${label}`;
    image.classList.toggle("is-pixel-art", picture.startsWith("data:image/png"));
    item.append(image);
  }
  item.append(element("strong", "", label), element("span", "muted", `similarity ${similarity.toFixed(2)}`));
  item.title = image_id;
  return item;
}

function facts(answer) {
  const views = answer.views > 1 ? `, mean of ${answer.views} views` : "";
  const took = `${Math.max(1, Math.round(answer.seconds * 1000))} ms`;
  return `${took}${views}; ${answer.format}, ${answer.width} × ${answer.height} pixels; model ${answer.version}`;
}

function percent(share) {
  if (share > 0 && share < 0.0005) return "<0.1%";
  if (share < 1 && share >= 0.9995) return ">99.9%";
  return `${(100 * share).toFixed(1)}%`;
}

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}
