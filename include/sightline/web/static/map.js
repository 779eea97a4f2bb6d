// The map of the embeddings: points on a canvas, to be dragged, zoomed and hovered.
const map = document.getElementById("map");
const canvas = map.querySelector("canvas");
const figure = map.querySelector("figure");
const told = document.getElementById("told");
const pen = canvas.getContext("2d");
const view = { x: 0.5, y: 0.5, zoom: 1 };
const NEAR = 12; // pixels from a point that count as on it
let points = null;
let alone = null;
let colours = [];

// As many hues as there are classes, apart from each other, bright enough on both themes.
function colour(place, count) {
  const light = place % 2 ? 46 : 58;
  return `hsl(${Math.round((360 * place) / count)} 70% ${light}%)`;
}

function scale() {
  return Math.min(canvas.clientWidth, canvas.clientHeight) * 0.94 * view.zoom;
}

function onCanvas(row) {
  return [
    canvas.clientWidth / 2 + (points.x[row] - view.x) * scale(),
    canvas.clientHeight / 2 - (points.y[row] - view.y) * scale(),
  ];
}

function draw() {
  if (!points) return;
  const density = window.devicePixelRatio || 1;
  canvas.width = Math.round(canvas.clientWidth * density);
  canvas.height = Math.round(canvas.clientHeight * density);
  pen.scale(density, density);
  const side = Math.min(9, 2.2 + view.zoom ** 0.5 + (points.x.length < 2000 ? 1.5 : 0));
  for (let row = 0; row < points.x.length; row++) {
    const [x, y] = onCanvas(row);
    if (x < -side || y < -side || x > canvas.clientWidth + side || y > canvas.clientHeight + side) continue;
    const isFaint = alone !== null && points.labels[row] !== alone;
    pen.globalAlpha = isFaint ? 0.08 : 0.75;
    pen.fillStyle = colours[points.labels[row]] ?? "#8b8b95";
    pen.fillRect(x - side / 2, y - side / 2, side, side);
  }
}

let waiting = false;
function drawSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
}

function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const before = scale();
  view.zoom = Math.min(400, Math.max(0.5, view.zoom * factor));
  const after = scale();
  view.x += (x - canvas.clientWidth / 2) * (1 / before - 1 / after);
  view.y -= (y - canvas.clientHeight / 2) * (1 / before - 1 / after);
  hide();
  drawSoon();
}

function nearest(x, y) {
  let found = null;
  let least = NEAR * NEAR;
  for (let row = 0; points && row < points.x.length; row++) {
    if (alone !== null && points.labels[row] !== alone) continue;
    const [px, py] = onCanvas(row);
    const distance = (px - x) ** 2 + (py - y) ** 2;
    if (distance < least) [found, least] = [row, distance];
  }
  return found;
}

function address(pattern, row) {
  return pattern.replace("IMAGE", points.image_ids[row]);
}

function show(row) {
  const [x, y] = onCanvas(row);
  const picture = figure.querySelector("img");
  const label = points.classes[points.labels[row]] ?? "no label";
  const source = address(map.dataset.thumbnail, row);
  if (picture.getAttribute("src") !== source) picture.setAttribute("src", source);
  picture.alt = label;
  figure.querySelector("figcaption").textContent = label;
  figure.hidden = false;
  const right = x + 16 + figure.offsetWidth > canvas.clientWidth ? x - 16 - figure.offsetWidth : x + 16;
  figure.style.left = `${Math.max(0, right)}px`;
  figure.style.top = `${Math.max(0, Math.min(y - 40, canvas.clientHeight - figure.offsetHeight))}px`;
}

function hide() {
  figure.hidden = true;
}

const held = new Map(); // fingers and buttons that are down, by their pointer
let dragged = false;

canvas.addEventListener("pointerdown", (event) => {
  held.set(event.pointerId, [event.offsetX, event.offsetY]);
  canvas.setPointerCapture(event.pointerId);
  dragged = false;
});
canvas.addEventListener("pointermove", (event) => {
  const before = held.get(event.pointerId);
  if (!before) {
    const row = nearest(event.offsetX, event.offsetY);
    return row === null ? hide() : show(row);
  }
  const now = [event.offsetX, event.offsetY];
  const other = [...held].find(([id]) => id !== event.pointerId)?.[1];
  if (other) {
    const apart = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]) || 1;
    zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  } else {
    view.x -= (now[0] - before[0]) / scale();
    view.y += (now[1] - before[1]) / scale();
  }
  if (Math.hypot(now[0] - before[0], now[1] - before[1]) > 1) dragged = true;
  held.set(event.pointerId, now);
  hide();
  drawSoon();
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => held.delete(event.pointerId));
}
canvas.addEventListener("click", (event) => {
  const row = dragged ? null : nearest(event.offsetX, event.offsetY);
  if (row !== null) location.href = address(map.dataset.image, row);
});
canvas.addEventListener("pointerleave", hide);
canvas.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  },
  { passive: false },
);
canvas.addEventListener("keydown", (event) => {
  const step = 40 / scale();
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
  if (event.key === "+" || event.key === "=") zoom(1.5);
  else if (event.key === "-") zoom(1 / 1.5);
  else if (moves[event.key]) {
    view.x += moves[event.key][0];
    view.y += moves[event.key][1];
    drawSoon();
  } else return;
  event.preventDefault();
});
document.getElementById("nearer").addEventListener("click", () => zoom(1.6));
document.getElementById("farther").addEventListener("click", () => zoom(1 / 1.6));
document.getElementById("whole").addEventListener("click", () => {
  Object.assign(view, { x: 0.5, y: 0.5, zoom: 1 });
  drawSoon();
});
new ResizeObserver(drawSoon).observe(canvas);

function legend() {
  const box = document.getElementById("classes");
  points.classes.forEach((label, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    swatch.setAttribute("viewBox", "0 0 10 10");
    swatch.setAttribute("aria-hidden", "true");
    const square = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of [["width", 10], ["height", 10], ["fill", colours[place]]]) square.setAttribute(name, value);
    swatch.append(square);
    const name = document.createElement("bdi");
    name.textContent = label;
    button.append(swatch, name);
    button.addEventListener("click", () => {
      alone = alone === place ? null : place;
      for (const [other, one] of [...box.children].entries()) one.setAttribute("aria-pressed", String(other === alone));
      drawSoon();
    });
    box.append(button);
  });
}

try {
  const answer = await fetch(map.dataset.points, { headers: { Accept: "application/json" } });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.detail);
  points = found;
  colours = points.classes.map((_, place) => colour(place, points.classes.length));
  const shown = points.image_ids.length.toLocaleString("en");
  const all = points.images.toLocaleString("en");
  const which = points.image_ids.length < points.images ? `${shown} of ${all} images, drawn by lot once for all` : `All ${all} images`;
  told.textContent = `${which}; the first two principal components of ${points.components}. Hover to see a photo, click to open it.`;
  legend();
  draw();
} catch (error) {
  told.textContent = error.message;
}
