// The browser's side of PromptCanvas (canvas.py): it paints what Python says and tells Python what the user does.
//
// Three systems of coordinates: the image's, in which u = 0 is the left edge of the first pixel and u = 0.5 its centre;
// pixel indices, floor(u), which go to Python; the canvas's own device pixels. Pointer positions are turned into
// fractions of the canvas's rectangle first, so that neither CSS size nor devicePixelRatio matters.

const DRAG = 4; // CSS pixels from which on a click is a drag
const MOST_ZOOM = 16;
const PART = 1 << 20; // bytes of an upload in one message
const PATIENCE = 4000; // milliseconds without an answer after which the user is told

const HELP =
  "Left click: object. Right click or Shift: not the object. Drag: box. Wheel: zoom; middle button or arrows: move. " +
  "Ctrl+Z undo, Ctrl+Shift+Z redo, C clear, M mask.";

const LAYOUT = `
  <div class="pc-row pc-choosers">
    <label>Image <select data-control="image"></select></label>
    <button type="button" data-control="upload">Upload…</button>
    <input type="file" accept="image/*" aria-label="Picture to upload" hidden>
    <label data-control="model-label">Model <select data-control="model"></select></label>
  </div>
  <canvas tabindex="0" role="application"></canvas>
  <div class="pc-row">
    <button type="button" data-control="undo" title="Undo (Ctrl+Z)">Undo</button>
    <button type="button" data-control="redo" title="Redo (Ctrl+Shift+Z)">Redo</button>
    <button type="button" data-control="clear" title="Clear all prompts of this image (C)">Clear</button>
    <button type="button" data-control="mask" title="Show or hide the mask (M)" aria-pressed="true">Mask</button>
    <label>Opacity <input type="range" min="0" max="1" step="0.05" data-control="opacity"></label>
    <span class="pc-group" role="group" aria-label="Zoom">
      <button type="button" data-control="out" aria-label="Zoom out" title="Zoom out">−</button>
      <button type="button" data-control="fit" aria-label="Whole image" title="Whole image">Fit</button>
      <button type="button" data-control="in" aria-label="Zoom in" title="Zoom in">+</button>
    </span>
  </div>
  <div class="pc-row pc-readouts" role="status" aria-live="polite">
    <span data-readout="clicks"></span><span data-readout="iou"></span><span data-readout="latency"></span>
    <span data-readout="class"></span>
  </div>
  <p class="pc-message" role="alert"></p>
  <p class="pc-help">${HELP}</p>`;

class View {
  constructor(model, el) {
    this.model = model;
    this.root = document.createElement("div");
    this.root.className = "prompt-canvas";
    this.root.innerHTML = LAYOUT;
    this.canvas = this.root.querySelector("canvas");
    this.context = this.canvas.getContext("2d");
    this.message = this.root.querySelector(".pc-message");
    this.file = this.root.querySelector("input[type=file]");
    this.colours = model.get("_look").colours;
    this.opacity = model.get("_look").opacity;
    this.control("opacity").value = this.opacity;

    this.name = Math.random().toString(36).slice(2); // several views may show one model
    this.sent = 0;
    this.pending = []; // events without an answer: {number, action, arguments}
    this.root.querySelector(".pc-help").id = `pc-help-${this.name}`;
    this.canvas.setAttribute("aria-describedby", `pc-help-${this.name}`);
    this.showMask = true;
    this.drag = null;
    this.zoom = 1;
    this.left = this.top = 0; // image coordinates of the canvas's corner

    this.listen();
    el.append(this.root);
    this.read();
  }

  control(name) {
    return this.root.querySelector(`[data-control=${name}]`);
  }

  // From Python

  listen() {
    this.onState = () => this.read();
    this.model.on("change:_sequence", this.onState);
    this.observer = new ResizeObserver(() => this.paint());
    this.observer.observe(this.canvas);
    for (const [name, action] of Object.entries({
      undo: () => this.send("undo"),
      redo: () => this.send("redo"),
      clear: () => this.send("clear"),
      mask: () => this.toggleMask(),
      out: () => this.zoomBy(1 / 1.5),
      in: () => this.zoomBy(1.5),
      fit: () => this.zoomBy(0),
      upload: () => this.file.click(),
    })) {
      this.control(name).addEventListener("click", action);
    }
    this.control("opacity").addEventListener("input", (event) => {
      this.opacity = Number(event.target.value);
      this.paint();
    });
    this.control("image").addEventListener("change", (e) => this.send("switch_image", { name: e.target.value }));
    this.control("model").addEventListener("change", (e) => this.send("switch_model", { name: e.target.value }));
    this.file.addEventListener("change", () => this.upload());
    // On the way down from the window: Notebook 7 takes keys before they reach the canvas.
    this.onKey = (event) => this.root.contains(event.target) && this.key(event);
    window.addEventListener("keydown", this.onKey, { capture: true });
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerup", (event) => this.release(event));
    this.canvas.addEventListener("pointercancel", () => this.letGo());
    this.canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.canvas.addEventListener("contextmenu", (event) => {
      event.preventDefault();
      event.stopPropagation(); // the notebook's own menu
    });
  }

  remove() {
    this.model.off("change:_sequence", this.onState);
    window.removeEventListener("keydown", this.onKey, { capture: true });
    this.observer.disconnect();
    clearTimeout(this.waiting);
  }

  read() {
    this.state = this.model.get("_state");
    const handled = String(this.state.handled).split(":");
    if (handled[0] === this.name) {
      this.pending = this.pending.filter((event) => event.number > Number(handled[1]));
    }
    if (this.pending.length === 0) clearTimeout(this.waiting);
    this.message.textContent = this.state.message;
    this.readPicture();
    this.readMask();
    this.label();
    this.paint();
  }

  async readPicture() {
    const bytes = this.model.get("_picture");
    if (bytes === this.bytes) return;
    this.bytes = bytes;
    const [width, height] = this.state.size;
    Object.assign(this, { width, height, picture: null, zoom: 1, left: 0, top: 0 });
    this.canvas.style.aspectRatio = `${width} / ${height}`;
    this.canvas.style.maxWidth = `calc(var(--pc-height) * ${width / height})`;
    const picture = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
    if (bytes !== this.bytes) return; // another image came in the meantime
    this.picture = picture;
    this.paint();
  }

  /** The mask and its outline, each as a canvas of the image's size. */
  readMask() {
    const { width, height } = this;
    const packed = this.model.get("_mask"); // a DataView; the highest bit of each byte comes first
    const inside = new Uint8Array(width * height);
    for (let i = 0; i < inside.length; i++) inside[i] = (packed.getUint8(i >> 3) >> (7 - (i & 7))) & 1;
    const fill = new ImageData(width, height);
    const edge = new ImageData(width, height);
    const fillColour = Number(`0x${this.colours.mask.slice(1)}ff`);
    const fills = new DataView(fill.data.buffer);
    const edges = new DataView(edge.data.buffer);
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        if (!inside[i]) continue;
        fills.setUint32(4 * i, fillColour);
        const whole =
          (x === 0 || inside[i - 1]) &&
          (x === width - 1 || inside[i + 1]) &&
          (y === 0 || inside[i - width]) &&
          (y === height - 1 || inside[i + width]);
        if (!whole) edges.setUint32(4 * i, 0xffffffff);
      }
    }
    this.fill = layer(fill);
    this.edge = layer(edge);
  }

  label() {
    const { state } = this;
    options(this.control("image"), state.images, state.image);
    options(this.control("model"), state.models, state.model);
    this.control("model-label").hidden = state.models.length < 2;
    this.control("undo").disabled = !state.can_undo;
    this.control("redo").disabled = !state.can_redo;
    this.control("clear").disabled = state.points.length === 0 && !state.box;
    const count = state.points.length;
    const clicks = `${count} ${count === 1 ? "click" : "clicks"}`;
    this.readout("clicks", !state.box ? clicks : count ? `${clicks} and a box` : "a box");
    const answered = state.latency_ms !== null; // GrabCut answers, and says nothing about how well
    this.readout("iou", answered ? `predicted IoU ${state.predicted_iou?.toFixed(2) ?? "–"}` : "");
    this.readout("latency", answered ? `${state.latency_ms.toFixed(0)} ms` : "");
    this.readout("class", state.class_name ?? "");
    this.canvas.setAttribute("aria-label", `Picture ${state.image}: click on what to segment`);
  }

  readout(name, text) {
    this.root.querySelector(`[data-readout=${name}]`).textContent = text;
  }

  // To Python

  send(action, args = {}, buffers = []) {
    this.sent += 1;
    this.pending.push({ number: this.sent, action, arguments: args });
    const event = { id: `${this.name}:${this.sent}`, action, image: this.state.image, arguments: args };
    this.model.send(event, undefined, buffers);
    clearTimeout(this.waiting);
    const late = () => (this.message.textContent = "Python is busy with something else, or not running.");
    this.waiting = setTimeout(late, PATIENCE);
    this.paint();
  }

  async upload() {
    const file = this.file.files[0];
    this.file.value = ""; // so that the same file may be chosen again
    if (!file) return;
    const limit = this.model.get("_look").upload_bytes;
    if (file.size > limit) {
      const size = `${(file.size / 1e6).toFixed(1)} MB, more than ${limit / 1e6} MB`;
      this.message.textContent = `${file.name} has ${size}: choose a smaller one.`;
      return;
    }
    const bytes = await file.arrayBuffer();
    for (let start = 0; start === 0 || start < bytes.byteLength; start += PART) {
      const last = start + PART >= bytes.byteLength;
      this.send("upload", { name: file.name, first: start === 0, last }, [bytes.slice(start, start + PART)]);
    }
  }

  // Pointer and keys

  /** Where the pointer is on the image. */
  position(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      u: this.left + ((event.clientX - box.left) / box.width) * (this.width / this.zoom),
      v: this.top + ((event.clientY - box.top) / box.height) * (this.height / this.zoom),
    };
  }

  /** The index of the pixel at an image position; beyond the edge, of the last one. */
  pixel({ u, v }) {
    const x = Math.min(Math.max(Math.floor(u), 0), this.width - 1);
    const y = Math.min(Math.max(Math.floor(v), 0), this.height - 1);
    return { x, y };
  }

  press(event) {
    this.canvas.focus({ preventScroll: true });
    if (this.drag) return; // a second button
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.drag = {
      start: this.position(event),
      clientX: event.clientX,
      clientY: event.clientY,
      button: event.button,
      background: event.button === 2 || event.shiftKey || event.ctrlKey, // Ctrl+click is a Mac's right click
      moved: false,
    };
  }

  move(event) {
    const { drag } = this;
    if (!drag) return;
    drag.moved ||= Math.hypot(event.clientX - drag.clientX, event.clientY - drag.clientY) >= DRAG;
    if (!drag.moved) return;
    const now = this.position(event);
    if (drag.button === 1) {
      this.look(this.zoom, this.left + drag.start.u - now.u, this.top + drag.start.v - now.v);
    } else if (drag.button === 0) {
      drag.box = this.boxTo(now);
      this.paint();
    }
  }

  release(event) {
    const { drag } = this;
    if (!drag || event.button !== drag.button) return;
    if (drag.button === 0 && drag.moved) {
      this.send("add_box", this.boxTo(this.position(event)));
    } else if (drag.button === 0 || drag.button === 2) {
      this.send("add_point", { ...this.pixel(drag.start), label: drag.background ? 0 : 1 });
    }
    this.letGo();
  }

  letGo() {
    this.drag = null;
    this.paint();
  }

  boxTo(end) {
    const [a, b] = [this.pixel(this.drag.start), this.pixel(end)];
    return { x0: Math.min(a.x, b.x), y0: Math.min(a.y, b.y), x1: Math.max(a.x, b.x), y1: Math.max(a.y, b.y) };
  }

  key(event) {
    const command = event.ctrlKey || event.metaKey;
    if (!command && (event.altKey || event.target.matches("select, input"))) return;
    const step = this.width / this.zoom / 8;
    const move = (x, y) => () => this.look(this.zoom, this.left + x * step, this.top + y * step);
    const actions = command
      ? { z: () => this.send(event.shiftKey ? "redo" : "undo"), y: () => this.send("redo") }
      : {
          c: () => this.send("clear"),
          delete: () => this.send("clear"),
          m: () => this.toggleMask(),
          "+": () => this.zoomBy(1.5),
          "=": () => this.zoomBy(1.5),
          "-": () => this.zoomBy(1 / 1.5),
          ...(this.drag && { escape: () => this.letGo() }),
          ...(this.zoom > 1 && { arrowleft: move(-1, 0), arrowright: move(1, 0) }),
          ...(this.zoom > 1 && { arrowup: move(0, -1), arrowdown: move(0, 1) }),
        };
    const action = actions[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation(); // in Jupyter, M would also make this a Markdown cell
    action();
  }

  toggleMask() {
    this.showMask = !this.showMask;
    this.control("mask").setAttribute("aria-pressed", String(this.showMask));
    this.paint();
  }

  wheel(event) {
    if (event.deltaY === 0 || (event.deltaY > 0 && this.zoom === 1)) return; // the page scrolls on
    event.preventDefault();
    this.zoomBy(Math.exp(-Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 100) / 400), this.position(event));
  }

  /** Zoom about a position, which stays where it is: the middle, if none is given. A factor of 0 shows the whole. */
  zoomBy(factor, about) {
    const { u, v } = about ?? {
      u: this.left + this.width / this.zoom / 2,
      v: this.top + this.height / this.zoom / 2,
    };
    const zoom = Math.min(Math.max(this.zoom * factor, 1), MOST_ZOOM);
    this.look(zoom, u - ((u - this.left) * this.zoom) / zoom, v - ((v - this.top) * this.zoom) / zoom);
  }

  look(zoom, left, top) {
    this.zoom = zoom;
    this.left = Math.min(Math.max(left, 0), this.width - this.width / zoom);
    this.top = Math.min(Math.max(top, 0), this.height - this.height / zoom);
    this.paint();
  }

  // Painting

  /** Device pixels of a CSS pixel; the canvas has as many pixels as the screen shows of it. */
  fitScreen() {
    const { canvas } = this;
    const box = canvas.getBoundingClientRect();
    const width = Math.round(box.width * window.devicePixelRatio);
    const height = Math.round(box.height * window.devicePixelRatio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    return width / box.width;
  }

  paint() {
    const { context, canvas, state } = this;
    const unit = this.fitScreen();
    if (!this.picture || !canvas.width || !canvas.height) return; // not decoded yet, or not in sight
    const scaleX = (canvas.width / this.width) * this.zoom;
    const scaleY = (canvas.height / this.height) * this.zoom;
    const place = (x, y) => [(x - this.left) * scaleX, (y - this.top) * scaleY];

    context.setTransform(scaleX, 0, 0, scaleY, -this.left * scaleX, -this.top * scaleY);
    context.imageSmoothingEnabled = scaleX < 4; // beyond, show the pixels
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture, 0, 0, this.width, this.height);
    if (this.showMask) {
      context.imageSmoothingEnabled = scaleX < 1;
      context.globalAlpha = this.opacity;
      context.drawImage(this.fill, 0, 0);
      context.globalAlpha = 1;
      context.drawImage(this.edge, 0, 0);
    }
    context.setTransform(1, 0, 0, 1, 0, 0);

    const dash = [5 * unit, 4 * unit];
    if (state.box) this.paintBox(state.box, place, unit, []);
    if (this.drag?.box) this.paintBox(Object.values(this.drag.box), place, unit, dash);
    for (const [x, y, label] of state.points) this.paintPoint(place(x + 0.5, y + 0.5), label, unit, 1);
    for (const { action, arguments: args } of this.pending) {
      if (action === "add_point") this.paintPoint(place(args.x + 0.5, args.y + 0.5), args.label, unit, 0.5);
      if (action === "add_box") this.paintBox(Object.values(args), place, unit, dash);
    }
    this.root.toggleAttribute("data-busy", this.pending.length > 0);
    // What tests and the benchmark wait for: which answer is on the screen.
    canvas.dataset.painted = this.model.get("_sequence");
  }

  paintBox([x0, y0, x1, y1], place, unit, dash) {
    const { context } = this;
    const [left, top] = place(x0, y0);
    const [right, bottom] = place(x1 + 1, y1 + 1);
    for (const [colour, width] of [["#000000", 4], [this.colours.box, 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * unit;
      context.setLineDash(dash);
      context.strokeRect(left, top, right - left, bottom - top);
    }
    context.setLineDash([]);
  }

  /** A disc with a plus, or with a minus: colour is not the only sign. */
  paintPoint([x, y], label, unit, alpha) {
    const { context } = this;
    const arm = 3.5 * unit;
    context.globalAlpha = alpha;
    context.fillStyle = label ? this.colours.foreground : this.colours.background;
    context.strokeStyle = "#ffffff";
    context.lineWidth = 2 * unit;
    context.beginPath();
    context.arc(x, y, 7 * unit, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
    context.beginPath();
    context.moveTo(x - arm, y);
    context.lineTo(x + arm, y);
    if (label) {
      context.moveTo(x, y - arm);
      context.lineTo(x, y + arm);
    }
    context.stroke();
    context.globalAlpha = 1;
  }
}

/** Pixels as something that can be drawn at any scale. */
function layer(pixels) {
  const canvas = document.createElement("canvas");
  canvas.width = pixels.width;
  canvas.height = pixels.height;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

/** Make these the options of a chooser, the current one chosen. */
function options(select, names, current) {
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === current)));
}

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.remove();
  },
};
