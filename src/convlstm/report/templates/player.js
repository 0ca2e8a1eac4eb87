// The players. Nothing moves until it is asked to, which is also what prefers-reduced-motion asks for.
(() => {
  "use strict";
  const root = document.documentElement;
  window.addEventListener("error", (event) => { root.dataset.error = event.message; });
  window.addEventListener("unhandledrejection", (event) => { root.dataset.error = String(event.reason); });
  if (!("DecompressionStream" in window)) return;  // the still maps remain
  root.classList.add("script");

  const STEP = 260;   // milliseconds a frame stays at normal speed
  const HOLD = 1300;  // milliseconds the last frame stays, so that the end can be read
  const SAVED_WIDTH = 360;  // pixels of a map in a saved image, at least
  const dark = matchMedia("screen and (prefers-color-scheme: dark)");
  const places = JSON.parse(document.getElementById("places").textContent);

  // The codes of all frames of one panel: high bytes, then low bytes, compressed.
  async function unpack(text) {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    const codes = new Uint16Array(bytes.length / 2);
    for (let k = 0; k < codes.length; k++) codes[k] = (bytes[k] << 8) | bytes[k + codes.length];
    return codes;
  }

  const signed = (text) => text.replace("-", "−");

  // A colour scale: the value of a code as text, and its colour as a pixel.
  class Scale {
    constructor(given) {
      Object.assign(this, given);
      this.last = given.runs.reduce((sum, run) => sum + run[2], 0);
    }

    text(code) {
      if (code === 0) return "no data";
      let place = code - 1;
      for (const [start, step, count, decimals] of this.runs) {
        if (place < count) {
          const number = signed((start + step * place).toFixed(decimals));
          const value = this.units && this.units !== "1" ? `${number} ${this.units}` : number;
          if (code === 1 && this.open[0]) return `${value} or less`;
          return code === this.last && this.open[1] ? `${value} or more` : value;
        }
        place -= count;
      }
      return "";
    }

    colours(isDark) {
      return isDark ? this.dark : this.palette;
    }

    pixels(isDark) {
      const colours = this.colours(isDark).map((colour) => {
        const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
        return (255 << 24) | (blue << 16) | (green << 8) | red;  // little-endian, as every browser today
      });
      const pixels = new Uint32Array(this.last + 1);
      let kind = 0;
      for (let code = 1; code <= this.last; code++) {
        while (kind < this.firsts.length && code >= this.firsts[kind]) kind++;
        pixels[code] = colours[kind];
      }
      pixels[0] = colours[colours.length - 1];
      return pixels;
    }
  }

  // Interpolated between the nodes of a coordinate.
  function coordinate(axis, row, column) {
    const between = (nodes, place) => {
      let k = 0;
      while (k < nodes.length - 2 && place > nodes[k + 1]) k++;
      if (nodes.length === 1) return [0, 0, 0];
      return [k, k + 1, Math.min(Math.max((place - nodes[k]) / (nodes[k + 1] - nodes[k]), 0), 1)];
    };
    const [top, bottom, down] = between(axis.rows, row);
    const [left, right, across] = between(axis.columns, column);
    const at = (r, c) => axis.values[r * axis.columns.length + c];
    const mix = (a, b, share) => a + (b - a) * share;
    return mix(mix(at(top, left), at(top, right), across), mix(at(bottom, left), at(bottom, right), across), down);
  }

  function placeText(row, column) {
    if (!places) return `row ${Math.round(row) + 1}, column ${Math.round(column) + 1}`;
    const texts = places.axes.map((axis) => {
      let value = coordinate(axis, row, column);
      if (!axis.negative) return `${axis.name} ${signed(value.toFixed(axis.decimals))} ${axis.units}`;
      if (axis.positive !== "° N") value = ((value + 540) % 360) - 180;
      return Math.abs(value).toFixed(axis.decimals) + (value < 0 ? axis.negative : axis.positive);
    });
    return (places.axes[0].negative ? texts : texts.reverse()).join(", ");
  }

  class Player {
    constructor(element) {
      this.element = element;
      this.data = JSON.parse(this.find(".player-data").textContent);
      this.scales = this.data.scales.map((scale) => new Scale(scale));
      this.panels = [...element.querySelectorAll(".panel")];
      this.legends = [...element.querySelectorAll(".legend-of")];
      this.slider = this.find(".frame");
      this.chooser = this.find(".choose");  // absent when there is one choice
      this.choice = 0;
      this.frame = this.data.first;
      this.timer = 0;
      this.mark = null;     // column and row of the marked cell
      this.pinned = false;  // whether the mark stays when the pointer leaves
      this.unpacked = null;  // of one choice at a time, because all of them may be large
      this.listen();
    }

    find(selector) { return this.element.querySelector(selector); }

    sheets() {
      if (this.unpacked?.choice !== this.choice) {
        this.unpacked = { choice: this.choice, sheets: this.data.choices[this.choice].sheets.map(unpack) };
      }
      return Promise.all(this.unpacked.sheets);
    }

    // A method has no frames before the start: the first panel's are shown instead.
    place(panel, frame) {
      if (panel === 0 || frame < this.data.inputs) return [0, frame];
      return [panel, frame - this.data.inputs];
    }

    get scale() { return this.scales[this.data.choices[this.choice].scale]; }

    async draw(isDark = dark.matches) {
      const [frame, choice] = [this.frame, this.choice];
      const sheets = await this.sheets();
      if (frame !== this.frame || choice !== this.choice) return;  // a newer frame is under way
      const { width, height, labels } = this.data;
      const shown = this.data.choices[choice];
      const pixels = this.scale.pixels(isDark);
      const size = width * height;
      const valid = shown.times.length ? `, valid ${shown.times[frame]}` : "";
      this.codes = this.panels.map((_, panel) => {
        const [sheet, index] = this.place(panel, frame);
        return sheets[sheet].subarray(index * size, (index + 1) * size);
      });
      this.panels.forEach((figure, panel) => {
        const canvas = figure.querySelector("canvas");
        const image = new ImageData(width, height);
        const cells = new Uint32Array(image.data.buffer);
        this.codes[panel].forEach((code, cell) => { cells[cell] = pixels[code]; });
        canvas.getContext("2d").putImageData(image, 0, 0);
        const name = this.data.panels[this.place(panel, frame)[0]];
        canvas.setAttribute("aria-label", `${name}, ${labels[frame]}${valid}`);
        canvas.hidden = false;
        figure.querySelector("picture").hidden = true;
      });
      this.describe(frame, shown, valid);
      this.read();
    }

    describe(frame, shown, valid) {
      const lead = this.data.labels[frame];
      const kind = this.find(".kind");
      this.find(".lead").textContent = lead;
      if (kind) {
        kind.textContent = frame < this.data.inputs ? "observed input" : "forecast";
        kind.classList.toggle("input", frame < this.data.inputs);
      }
      if (valid) this.find(".valid").textContent = valid.slice(2);
      this.legends.forEach((legend, scale) => { legend.hidden = scale !== shown.scale; });
      this.slider.value = String(frame);
      this.slider.setAttribute("aria-valuetext", lead + valid);
      this.element.dataset.shown = `${this.choice + 1}/${this.data.leads[frame]}`;
      root.dataset.player = "ready";
    }

    read() {
      const { width, height } = this.data;
      const position = this.find(".position");
      this.panels.forEach((figure, panel) => {
        const cross = figure.querySelector(".cross");
        cross.hidden = !this.mark;
        const text = this.mark ? this.scale.text(this.codes[panel][this.mark[1] * width + this.mark[0]]) : "";
        figure.querySelector(".reading").textContent = text;
        if (!this.mark) return;
        cross.style.setProperty("--x", `${(100 * (this.mark[0] + 0.5)) / width}%`);
        cross.style.setProperty("--y", `${(100 * (this.mark[1] + 0.5)) / height}%`);
      });
      position.textContent = this.mark ? `Cell at ${placeText(this.mark[1], this.mark[0])}` : "\u00a0";
    }

    point(event) {
      if (!this.codes) return;
      if (event.type === "pointermove" && this.pinned) return;
      const box = event.currentTarget.getBoundingClientRect();
      const x = Math.floor(((event.clientX - box.left) / box.width) * this.data.width);
      const y = Math.floor(((event.clientY - box.top) / box.height) * this.data.height);
      const inside = x >= 0 && x < this.data.width && y >= 0 && y < this.data.height;
      const same = this.mark && this.mark[0] === x && this.mark[1] === y;
      if (event.type === "pointerdown") this.pinned = inside && !(this.pinned && same);
      this.mark = inside ? [x, y] : null;
      this.read();
    }

    moveMark(dx, dy) {
      const { width, height } = this.data;
      const [x, y] = this.mark ?? [Math.floor(width / 2) - dx, Math.floor(height / 2) - dy];
      const within = (place, size) => Math.min(Math.max(place, 0), size - 1);
      this.mark = [within(x + dx, width), within(y + dy, height)];
      this.pinned = true;
      this.read();
    }

    show(frame) {
      this.frame = (frame + this.data.leads.length) % this.data.leads.length;
      return this.draw();
    }

    note() {  // the address keeps case and lead time, so that a view can be shared
      if (this.element.id !== "player-cases") return;
      history.replaceState(null, "", `#case=${this.choice + 1}&lead=${this.data.leads[this.frame]}`);
    }

    pause() {
      clearTimeout(this.timer);
      this.timer = 0;
      this.element.classList.remove("playing");
      this.find(".play").setAttribute("aria-label", "Play");
    }

    play() {
      const speed = () => Number(this.find(".speed").value);
      const last = this.data.leads.length - 1;
      const tick = () => {
        this.show(this.frame + 1);
        this.timer = setTimeout(tick, (this.frame === last ? HOLD : STEP) / speed());
      };
      this.timer = setTimeout(tick, STEP / speed());
      this.element.classList.add("playing");
      this.find(".play").setAttribute("aria-label", "Pause");
    }

    toggle() { if (this.timer) { this.pause(); this.note(); } else { this.play(); } }

    go(frame) { this.pause(); this.show(frame); this.note(); }

    clear() { this.pause(); this.mark = null; this.pinned = false; if (this.codes) this.read(); }

    // The height in pixels of the part of the maps that is in the window; 0 if less than half of it.
    inView() {
      const box = this.find(".panels").getBoundingClientRect();
      const seen = Math.min(box.bottom, innerHeight) - Math.max(box.top, 0);
      return seen >= Math.min(box.height, innerHeight) / 2 ? seen : 0;
    }

    listen() {
      this.find(".play").addEventListener("click", () => this.toggle());
      this.find(".save").addEventListener("click", () => this.save());
      this.slider.addEventListener("input", () => { this.pause(); this.show(Number(this.slider.value)); });
      this.slider.addEventListener("change", () => this.note());
      this.chooser?.addEventListener("change", () => {
        this.choice = Number(this.chooser.value);
        this.draw();
        this.note();
      });
      for (const field of this.element.querySelectorAll(".field")) {
        field.addEventListener("pointermove", (event) => this.point(event));
        field.addEventListener("pointerdown", (event) => this.point(event));
        field.addEventListener("pointerleave", (event) => {
          if (this.pinned || event.pointerType === "touch") return;
          this.mark = null;
          if (this.codes) this.read();
        });
      }
    }

    // One image of all panels with their names, the time and the colour scale.
    save() {
      const { width, height, labels, panels } = this.data;
      const times = Math.max(1, Math.ceil(SAVED_WIDTH / width));
      const [w, h, gap, top, foot] = [width * times, height * times, 16, 64, 56];
      const sheet = document.createElement("canvas");
      sheet.width = gap + panels.length * (w + gap);
      sheet.height = top + h + foot;
      const pen = sheet.getContext("2d");
      const style = getComputedStyle(document.body);
      const shown = this.data.choices[this.choice];
      pen.fillStyle = style.backgroundColor;
      pen.fillRect(0, 0, sheet.width, sheet.height);
      pen.fillStyle = style.color;
      pen.imageSmoothingEnabled = false;
      pen.font = `600 16px ${style.fontFamily}`;
      const valid = shown.times.length ? `, valid ${shown.times[this.frame]}` : "";
      pen.fillText(`${shown.label}, ${labels[this.frame]}${valid}`, gap, 26, sheet.width - 2 * gap);
      pen.font = `14px ${style.fontFamily}`;
      this.panels.forEach((figure, panel) => {
        pen.fillText(panels[panel], gap + panel * (w + gap), 54, w);
        pen.drawImage(figure.querySelector("canvas"), gap + panel * (w + gap), top, w, h);
      });
      this.saveColours(pen, gap, top + h + 12, Math.min(sheet.width - 2 * gap, 2 * w));
      sheet.toBlob((blob) => {
        const link = document.createElement("a");
        link.href = URL.createObjectURL(blob);
        link.download = `${shown.label} ${labels[this.frame]}`.replace(/[^\w+.-]+/g, "-") + ".png";
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 1000);
      });
    }

    saveColours(pen, left, top, width) {
      const colours = this.scale.colours(dark.matches).slice(0, -1);
      const text = pen.fillStyle;
      colours.forEach((colour, k) => {
        pen.fillStyle = colour;
        pen.fillRect(left + (k * width) / colours.length, top, Math.ceil(width / colours.length), 12);
      });
      pen.fillStyle = text;
      pen.textAlign = "center";
      pen.font = pen.font.replace("14px", "12px");
      for (const [share, mark] of this.scale.marks) pen.fillText(mark, left + share * width, top + 28);
      pen.textAlign = "left";
      pen.fillText(this.scale.title, left + width + 12, top + 11);
    }
  }

  const players = [...document.querySelectorAll(".player")].map((element) => new Player(element));
  const cases = players.find((player) => player.element.id === "player-cases");

  // Keys are for the player that has the focus, else for the one in view if nothing else has the focus.
  function addressed() {
    const focused = players.find((player) => player.element.contains(document.activeElement));
    if (focused || document.activeElement?.closest("a, button, input, select, summary, .scroll")) return focused;
    const inView = players.filter((player) => player.inView());
    return inView.sort((a, b) => b.inView() - a.inView())[0];
  }

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function press(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.defaultPrevented) return;
    const player = addressed();
    if (!player || event.target.closest("select")) return;
    const last = player.data.leads.length - 1;
    if (event.key === "Escape") player.clear();
    else if (event.shiftKey && ARROWS[event.key]) player.moveMark(...ARROWS[event.key]);
    else if (event.shiftKey) return;
    else if (event.key === " " && !event.target.closest("button, a, summary")) player.toggle();
    else if (event.target === player.slider) return;  // the browser moves it, and Home and End too
    else if (event.key === "ArrowLeft") player.go(player.frame - 1);
    else if (event.key === "ArrowRight") player.go(player.frame + 1);
    else if (event.key === "Home") player.go(0);
    else if (event.key === "End") player.go(last);
    else return;
    event.preventDefault();
  }

  function restore() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    if (!wanted.has("case") && !wanted.has("lead")) return false;
    const shown = Number(wanted.get("case") ?? 1) - 1;
    if (cases.data.choices[shown]) cases.choice = shown;
    const frame = cases.data.leads.indexOf(Number(wanted.get("lead") ?? NaN));
    if (frame >= 0) cases.frame = frame;
    if (cases.chooser) cases.chooser.value = String(cases.choice);
    return true;
  }

  function open(link) {
    cases.choice = Number(link.dataset.case);
    if (cases.chooser) cases.chooser.value = link.dataset.case;
    cases.go(cases.data.first);
    cases.find(".panels").focus({ preventScroll: true });
    cases.element.scrollIntoView({ block: "center" });
  }

  document.addEventListener("keydown", press);
  document.addEventListener("visibilitychange", () => { if (document.hidden) players.forEach((p) => p.pause()); });
  window.addEventListener("hashchange", () => { if (restore()) cases.draw(); });
  dark.addEventListener("change", () => players.forEach((player) => player.draw()));
  for (const link of document.querySelectorAll("a[data-case]")) {
    link.addEventListener("click", (event) => { event.preventDefault(); open(link); });
  }
  window.addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
    players.forEach((player) => { player.pause(); player.draw(false); });
  });
  window.addEventListener("afterprint", () => players.forEach((player) => player.draw()));

  restore();
  players.forEach((player) => player.draw());
})();
