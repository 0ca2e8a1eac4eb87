// The player. Nothing moves until it is asked to, which is also what prefers-reduced-motion asks for.
(() => {
  "use strict";
  const root = document.documentElement;
  window.addEventListener("error", (event) => { root.dataset.error = event.message; });
  window.addEventListener("unhandledrejection", (event) => { root.dataset.error = String(event.reason); });
  root.classList.add("script");

  const STEP = 260;   // milliseconds a frame stays
  const HOLD = 1300;  // milliseconds the last frame stays, so that the end can be read
  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("player-data").textContent);
  const player = find("player");
  const slider = find("frame");
  const choice = find("case");  // absent when there is one case
  const panels = [...player.querySelectorAll(".panel")];
  const state = { case: 0, frame: data.first, timer: 0, pointer: null };
  const sheets = new Map();

  async function sheet(source) {
    if (!sheets.has(source)) {
      const image = new Image();
      image.src = source;
      sheets.set(source, image.decode().then(() => image));
    }
    return sheets.get(source);
  }

  // A method has no frames before the start: the observed input stands in its place.
  function place(panel, frame) {
    if (panel === 0 || frame < data.inputs) return [0, frame];
    return [panel, frame - data.inputs];
  }

  async function draw() {
    const shown = data.cases[state.case];
    const frame = state.frame;
    const images = await Promise.all(panels.map((_, panel) => sheet(shown.sprites[place(panel, frame)[0]].source)));
    if (frame !== state.frame || shown !== data.cases[state.case]) return;  // a newer frame is under way
    const lead = data.labels[frame];
    panels.forEach((figure, panel) => {
      const [sprite, index] = place(panel, frame);
      const columns = shown.sprites[sprite].columns;
      const canvas = figure.querySelector("canvas");
      const pen = canvas.getContext("2d", { willReadFrequently: true });
      const x = (index % columns) * data.width;
      const y = Math.floor(index / columns) * data.height;
      pen.imageSmoothingEnabled = false;
      pen.drawImage(images[panel], x, y, data.width, data.height, 0, 0, data.width, data.height);
      canvas.setAttribute("aria-label", `${data.panels[sprite]}, ${lead}, valid ${shown.times[frame]}`);
      canvas.hidden = false;
      figure.querySelector("img").hidden = true;
    });
    const input = frame < data.inputs;
    find("lead").textContent = lead;
    find("kind").textContent = input ? "observed input" : "forecast";
    find("kind").classList.toggle("input", input);
    find("valid").textContent = `valid ${shown.times[frame]}`;
    slider.value = String(frame);
    slider.setAttribute("aria-valuetext", `${lead}, valid ${shown.times[frame]}`);
    read();
    root.dataset.player = "ready";
    root.dataset.shown = `${state.case + 1}/${data.leads[frame]}`;
  }

  function read() {
    for (const figure of panels) {
      const cross = figure.querySelector(".cross");
      const reading = figure.querySelector(".reading");
      cross.hidden = !state.pointer;
      if (!state.pointer) { reading.textContent = ""; continue; }
      const [x, y] = state.pointer;
      cross.style.setProperty("--x", `${100 * x}%`);
      cross.style.setProperty("--y", `${100 * y}%`);
      const pen = figure.querySelector("canvas").getContext("2d", { willReadFrequently: true });
      const pixel = pen.getImageData(Math.floor(x * data.width), Math.floor(y * data.height), 1, 1).data;
      const colour = "#" + [...pixel.slice(0, 3)].map((part) => part.toString(16).padStart(2, "0")).join("");
      reading.textContent = data.classes[colour] ?? "";
    }
  }

  function point(event) {
    const box = event.currentTarget.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width;
    const y = (event.clientY - box.top) / box.height;
    state.pointer = x >= 0 && x < 1 && y >= 0 && y < 1 ? [x, y] : null;
    read();
  }

  function show(frame) {
    state.frame = (frame + data.leads.length) % data.leads.length;
    return draw();
  }

  function note() {  // the address keeps case and lead time, so that a view can be shared
    history.replaceState(null, "", `#case=${state.case + 1}&lead=${data.leads[state.frame]}`);
  }

  function pause() {
    clearTimeout(state.timer);
    state.timer = 0;
    player.classList.remove("playing");
    find("play").setAttribute("aria-label", "Play");
  }

  function play() {
    const last = data.leads.length - 1;
    const tick = () => {
      show(state.frame + 1);
      state.timer = setTimeout(tick, state.frame === last ? HOLD : STEP);
    };
    state.timer = setTimeout(tick, STEP);
    player.classList.add("playing");
    find("play").setAttribute("aria-label", "Pause");
  }

  function toggle() {
    if (state.timer) { pause(); note(); } else { play(); }
  }

  function step(by) {
    pause();
    show(state.frame + by);
    note();
  }

  function restore() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    if (!wanted.has("case") && !wanted.has("lead")) return;
    const shown = Number(wanted.get("case") ?? 1) - 1;
    if (data.cases[shown]) state.case = shown;
    const frame = data.leads.indexOf(Number(wanted.get("lead") ?? NaN));
    if (frame >= 0) state.frame = frame;
    if (choice) choice.value = String(state.case);
  }

  find("play").addEventListener("click", toggle);
  slider.addEventListener("input", () => { pause(); show(Number(slider.value)); });
  slider.addEventListener("change", note);
  choice?.addEventListener("change", () => { state.case = Number(choice.value); draw(); note(); });
  for (const field of player.querySelectorAll(".field")) {
    field.addEventListener("pointermove", point);
    field.addEventListener("pointerdown", point);
    field.addEventListener("pointerleave", () => { state.pointer = null; read(); });
  }
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, .scroll")) return;
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else if (event.key === " " && player.matches(":hover") && !event.target.closest("button, a, summary")) toggle();
    else return;
    event.preventDefault();
  });
  document.addEventListener("visibilitychange", () => { if (document.hidden) pause(); });
  window.addEventListener("hashchange", () => { restore(); draw(); });
  window.addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });

  restore();
  draw();
})();
