// The browser's side of PromptCanvas (canvas.py): it paints what Python says and tells Python what the user does.
//
// Three systems of coordinates: the image's, in which u = 0 is the left edge of the first pixel and u = 0.5 its centre;
// pixel indices, floor(u), which go to Python; the canvas's own device pixels. Pointer positions are turned into
// fractions of the canvas's rectangle first, so that neither CSS size nor devicePixelRatio matters.

const DRAG = 4; // CSS pixels from which on a click is a drag
const REACH = { mouse: 10, touch: 22 }; // CSS pixels from a point within which a press takes hold of it
const PREVIEW = 60; // milliseconds from one preview to the next, at least
const MOST_ZOOM = 16;
const PART = 1 << 20; // bytes of an upload in one message
const PATIENCE = 4000; // milliseconds without an answer after which the user is told

const HINT = "Click on an object, or drag a box around it. More by mouse, touch and keys";
const HELP = `
  <ul>
    <li>Mouse: left click: object; right click or Shift: not the object; drag: box. Wheel: zoom; middle button: move.
      Drag a point elsewhere, or click on it to select it.</li>
    <li>Touch: tap: point; drag: box; two fingers: zoom and move.</li>
    <li>Keys, on the picture: arrows (with Shift: by one pixel) move a crosshair; Enter sets a point, or picks one up
      and puts it down; B sets a corner of a box, and the one across.</li>
    <li>X object or not, Delete the selected point, C or Delete all prompts, 1 2 3 masks, N next object,
      Ctrl+Z undo, Ctrl+Shift+Z redo, M mask, P preview, + and − zoom, Escape: not that.</li>
  </ul>`;

const LAYOUT = `
  <div class="pc-row pc-choosers">
    <label>Image <select data-control="image"></select></label>
    <button type="button" data-control="upload">Upload…</button>
    <input type="file" accept="image/*" aria-label="Picture to upload" hidden>
    <label data-control="model-label">Model <select data-control="model"></select></label>
  </div>
  <canvas tabindex="0" role="application"></canvas>
  <div class="pc-row">
    <span class="pc-group" role="group" aria-label="What a click says">
      <button type="button" data-control="plus" title="Clicks are on the object (X)">+ Object</button>
      <button type="button" data-control="minus" title="Clicks are not on the object (X)">− Not object</button>
    </span>
    <button type="button" data-control="undo" title="Undo (Ctrl+Z)">Undo</button>
    <button type="button" data-control="redo" title="Redo (Ctrl+Shift+Z)">Redo</button>
    <button type="button" data-control="delete" title="Delete the selected point (Delete)">Delete point</button>
    <button type="button" data-control="clear" title="Clear all prompts of this image (C)">Clear</button>
  </div>
  <div class="pc-row">
    <button type="button" data-control="mask" title="Show or hide the masks (M)" aria-pressed="true">Mask</button>
    <button type="button" data-control="preview" title="Show what a click would give (P)" aria-pressed="true">
      Preview</button>
    <label>Opacity <input type="range" min="0" max="1" step="0.05" data-control="opacity"></label>
    <span class="pc-group" role="group" aria-label="Zoom">
      <button type="button" data-control="out" aria-label="Zoom out" title="Zoom out">−</button>
      <button type="button" data-control="fit" aria-label="Whole image" title="Whole image">Fit</button>
      <button type="button" data-control="in" aria-label="Zoom in" title="Zoom in">+</button>
    </span>
  </div>
  <div class="pc-row" role="group" aria-label="Masks to choose from" data-control="candidates"></div>
  <div class="pc-row">
    <label>Label <select data-control="label"></select></label>
    <button type="button" data-control="keep" title="Keep the mask with this label, go on to the next object (N)">
      Next object</button>
    <button type="button" data-control="export" title="Download masks, label maps (VOC) and COCO JSON as zip">
      Export</button>
  </div>
  <div class="pc-row" role="group" aria-label="Objects kept" data-control="objects"></div>
  <div class="pc-row pc-readouts" role="status" aria-live="polite">
    <span data-readout="clicks"></span><span data-readout="iou"></span><span data-readout="latency"></span>
    <span data-readout="class"></span><span data-readout="crosshair"></span>
  </div>
  <p class="pc-message" role="alert"></p>
  <details class="pc-help"><summary>${HINT}</summary>${HELP}</details>`;

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
    this.root.querySelector(".pc-help ul").id = `pc-help-${this.name}`;
    this.canvas.setAttribute("aria-describedby", `pc-help-${this.name}`);
    options(this.control("label"), model.get("_look").labels, model.get("_look").labels[0]);
    this.showMask = true;
    this.showPreview = true;
    this.sign = 1; // what a click says: 1 object, 0 not the object
    this.pointers = new Map(); // pressed ones by id, and where they are
    this.drag = null; // what the only pressed pointer does
    this.selected = null; // index of a point
    this.crosshair = null; // {x, y}, the pixel at which keys act
    this.corner = null; // {x, y}, of a box that keys draw
    this.wanted = null; // the click whose mask the user would like to see,
    this.asked = null; // the one that Python was asked for last, until the next may be asked for,
    this.preview = null; // and what it said
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
    this.onMessage = (message, buffers) => this.receive(message, buffers);
    this.model.on("msg:custom", this.onMessage);
    this.observer = new ResizeObserver(() => this.paint());
    this.observer.observe(this.canvas);
    this.watchDensity();
    for (const [name, action] of Object.entries({
      undo: () => this.send("undo"),
      redo: () => this.send("redo"),
      clear: () => this.send("clear"),
      delete: () => this.deletePoint(),
      plus: () => this.setSign(1),
      minus: () => this.setSign(0),
      keep: () => this.keep(),
      export: () => this.send("export"),
      mask: () => this.toggleMask(),
      preview: () => this.togglePreview(),
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
    this.canvas.addEventListener("pointerdown", (event) => this.down(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerup", (event) => this.up(event));
    this.canvas.addEventListener("pointercancel", (event) => this.cancel(event));
    this.canvas.addEventListener("pointerleave", () => this.ask(null));
    this.canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.canvas.addEventListener("contextmenu", (event) => {
      event.preventDefault();
      event.stopPropagation(); // the notebook's own menu
    });
  }

  /** The same size on a denser screen is no resize, but more pixels. */
  watchDensity() {
    this.density = window.matchMedia(`(resolution: ${window.devicePixelRatio}dppx)`);
    this.onDensity = () => {
      this.watchDensity();
      this.paint();
    };
    this.density.addEventListener("change", this.onDensity, { once: true });
  }

  remove() {
    this.density.removeEventListener("change", this.onDensity);
    this.model.off("change:_sequence", this.onState);
    this.model.off("msg:custom", this.onMessage);
    window.removeEventListener("keydown", this.onKey, { capture: true });
    this.observer.disconnect();
    clearTimeout(this.waiting);
    clearTimeout(this.again);
  }

  read() {
    const before = JSON.stringify([this.state?.image, this.state?.points]);
    this.state = this.model.get("_state");
    if (JSON.stringify([this.state.image, this.state.points]) !== before) this.selected = null;
    this.wanted = this.preview = null; // it was of what there was before
    const handled = String(this.state.handled).split(":");
    if (handled[0] === this.name) {
      this.pending = this.pending.filter((event) => event.number > Number(handled[1]));
    }
    if (this.pending.length === 0) clearTimeout(this.waiting);
    this.message.textContent = this.state.message;
    this.readPicture();
    this.readObjects();
    this.mask = this.layers(this.model.get("_mask"), this.colours.mask);
    this.label();
    this.paint();
  }

  async readPicture() {
    const bytes = this.model.get("_picture");
    if (bytes === this.bytes) return;
    this.bytes = bytes;
    const [width, height] = this.state.size;
    Object.assign(this, { width, height, picture: null, zoom: 1, left: 0, top: 0, crosshair: null, corner: null });
    this.canvas.style.aspectRatio = `${width} / ${height}`;
    this.canvas.style.maxWidth = `calc(var(--pc-height) * ${width / height})`;
    const picture = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
    if (bytes !== this.bytes) return; // another image came in the meantime
    this.picture = picture;
    this.paint();
  }

  async readObjects() {
    const bytes = this.model.get("_objects");
    if (bytes === this.objectBytes) return;
    this.objectBytes = bytes;
    const objects = bytes.byteLength ? await createImageBitmap(new Blob([bytes], { type: "image/png" })) : null;
    if (bytes !== this.objectBytes) return;
    this.objects = objects;
    this.paint();
  }

  /** A mask and its outline, each as a canvas of the image's size. */
  layers(packed, colour) {
    const { width, height } = this; // of `packed`, a DataView, the highest bit of each byte comes first
    const inside = new Uint8Array(width * height);
    for (let i = 0; i < inside.length; i++) inside[i] = (packed.getUint8(i >> 3) >> (7 - (i & 7))) & 1;
    const fill = new ImageData(width, height);
    const edge = new ImageData(width, height);
    const fillColour = Number(`0x${colour.slice(1)}ff`);
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
    return { fill: layer(fill), edge: layer(edge) };
  }

  label() {
    const { state } = this;
    const focused = this.root.querySelector(":focus");
    options(this.control("image"), state.images, state.image);
    options(this.control("model"), state.models, state.model);
    this.control("model-label").hidden = state.models.length < 2;
    this.control("undo").disabled = !state.can_undo;
    this.control("redo").disabled = !state.can_redo;
    this.control("clear").disabled = state.points.length === 0 && !state.box;
    this.control("keep").disabled = state.candidates.length === 0;
    this.press("plus", this.sign === 1);
    this.press("minus", this.sign === 0);
    this.labelCandidates();
    this.labelObjects();
    if (state.class_name !== this.className) {
      this.className = state.class_name; // of a network that knows classes: most likely the label
      if (this.model.get("_look").labels.includes(state.class_name)) this.control("label").value = state.class_name;
    }
    const count = state.points.length;
    const clicks = `${count} ${count === 1 ? "click" : "clicks"}`;
    this.readout("clicks", !state.box ? clicks : count ? `${clicks} and a box` : "a box");
    const answered = state.latency_ms !== null; // GrabCut answers, and says nothing about how well
    this.readout("iou", answered ? `predicted IoU ${state.predicted_iou?.toFixed(2) ?? "–"}` : "");
    this.readout("latency", answered ? `${state.latency_ms.toFixed(0)} ms` : "");
    this.readout("class", state.class_name ?? "");
    const { crosshair } = this;
    this.readout("crosshair", crosshair ? `crosshair at ${crosshair.x}, ${crosshair.y}` : "");
    this.control("delete").disabled = this.selected === null;
    this.canvas.setAttribute("aria-label", `Picture ${state.image}: click on what to segment`);
    // Keys go on being the canvas's where the button that was pressed last can be pressed no longer.
    if (focused && (focused.disabled || !focused.isConnected)) this.canvas.focus({ preventScroll: true });
  }

  labelCandidates() {
    const { candidates, chosen } = this.state;
    const group = this.control("candidates");
    buttons(group, candidates.length > 1 ? candidates.length : 0, (index) => this.send("choose", { index }));
    [...group.children].forEach((button, index) => {
      button.textContent = `Mask ${index + 1}: ${candidates[index]?.toFixed(2) ?? "–"}`;
      button.title = `Predicted IoU of mask ${index + 1} (${index + 1})`;
      button.setAttribute("aria-pressed", String(index === chosen));
    });
  }

  labelObjects() {
    const group = this.control("objects");
    buttons(group, this.state.objects.length, (index) => this.send("delete_object", { index }));
    [...group.children].forEach((button, index) => {
      const { label, colour } = this.state.objects[index];
      button.textContent = `${index + 1} ${label} ×`;
      button.title = "Delete this object";
      button.setAttribute("aria-label", `${index + 1} ${label}: delete this object`);
      button.style.borderLeft = `10px solid ${colour}`;
    });
  }

  press(control, pressed) {
    this.control(control).setAttribute("aria-pressed", String(pressed));
  }

  readout(name, text) {
    const place = this.root.querySelector(`[data-readout=${name}]`);
    if (place.textContent !== text) place.textContent = text; // else a screen reader would say it again
  }

  // To Python

  send(action, args = {}, buffers = []) {
    this.selected = this.corner = null;
    this.ask(null);
    this.pending.push({ number: this.sent + 1, action, arguments: args });
    this.post(action, args, buffers);
    clearTimeout(this.waiting);
    const late = () => (this.message.textContent = "Python is busy with something else, or not running.");
    this.waiting = setTimeout(late, PATIENCE);
    this.label();
    this.paint();
  }

  /** Send an event, and return its id. */
  post(action, args, buffers = []) {
    this.sent += 1;
    const id = `${this.name}:${this.sent}`;
    this.model.send({ id, action, image: this.state.image, arguments: args }, undefined, buffers);
    return id;
  }

  deletePoint() {
    if (this.selected !== null) this.send("delete_point", { index: this.selected });
  }

  keep() {
    if (this.state.candidates.length) this.send("keep", { label: this.control("label").value });
  }

  /** Ask for the mask that a click would give, or for none: one question at a time, and the last one counts. */
  ask(click) {
    this.wanted = this.showPreview && !this.drag && this.pending.length === 0 ? click : null;
    if (!this.wanted && this.preview) {
      this.preview = null;
      this.paint();
    }
    if (this.wanted && !this.asked) {
      this.asked = { click, id: this.post("preview", click), time: performance.now() };
      this.askAgain(PATIENCE); // should no answer come
    }
  }

  askAgain(milliseconds) {
    clearTimeout(this.again);
    this.again = setTimeout(() => {
      const { click } = this.asked;
      this.asked = null;
      if (this.wanted !== click) this.ask(this.wanted);
    }, milliseconds);
  }

  receive(message, buffers) {
    const bytes = buffers?.[0];
    if (message.preview && message.preview === this.asked?.id) {
      if (this.wanted && bytes.byteLength) {
        const { buffer, byteOffset, byteLength } = bytes;
        this.preview = this.layers(new DataView(buffer, byteOffset, byteLength), this.colours.preview);
        this.paint();
      }
      this.askAgain(Math.max(0, PREVIEW - (performance.now() - this.asked.time)));
    } else if (message.export?.startsWith(`${this.name}:`)) {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([bytes], { type: "application/zip" }));
      link.download = "masks.zip";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), PATIENCE);
    }
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

  /** Where a pixel is in the window, in CSS pixels. */
  place({ x, y }) {
    const box = this.canvas.getBoundingClientRect();
    return {
      clientX: box.left + ((x + 0.5 - this.left) * this.zoom * box.width) / this.width,
      clientY: box.top + ((y + 0.5 - this.top) * this.zoom * box.height) / this.height,
    };
  }

  /** The index of the nearest point within reach; null if there is none, or points may be about to change. */
  pointAt({ clientX, clientY }, reach) {
    if (this.pending.length) return null;
    const distances = this.state.points.map(([x, y]) => {
      const place = this.place({ x, y });
      return Math.hypot(place.clientX - clientX, place.clientY - clientY);
    });
    const nearest = Math.min(...distances);
    return nearest <= reach ? distances.indexOf(nearest) : null;
  }

  down(event) {
    this.canvas.focus({ preventScroll: true });
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    if (event.isPrimary) this.pointers.clear(); // should the end of an earlier one have been missed
    this.pointers.set(event.pointerId, event);
    this.crosshair = this.corner = this.drag = null;
    this.ask(null);
    if (this.pointers.size === 1) {
      const background = event.button === 2 || event.shiftKey || event.ctrlKey; // Ctrl+click is a Mac's right click
      this.drag = {
        id: event.pointerId,
        start: this.position(event),
        clientX: event.clientX,
        clientY: event.clientY,
        button: event.button,
        label: background ? 0 : this.sign,
        point: background || event.button ? null : this.pointAt(event, REACH[event.pointerType] ?? REACH.mouse),
        moved: false,
      };
    }
    this.label();
    this.paint(); // without the box of a first finger that a second one has joined
  }

  move(event) {
    const { drag } = this;
    if (!this.pointers.has(event.pointerId)) return this.hover(event);
    if (this.pointers.size > 1) return this.pinch(event);
    this.pointers.set(event.pointerId, event);
    if (drag?.id !== event.pointerId) return; // a finger that is left of two
    drag.moved ||= Math.hypot(event.clientX - drag.clientX, event.clientY - drag.clientY) >= DRAG;
    if (!drag.moved) return;
    const now = this.position(event);
    if (drag.button === 1) {
      this.look(this.zoom, this.left + drag.start.u - now.u, this.top + drag.start.v - now.v);
    } else if (drag.point !== null) {
      drag.place = this.pixel(now);
      this.paint();
    } else if (drag.button === 0) {
      drag.box = boxOf(this.pixel(drag.start), this.pixel(now));
      this.paint();
    }
  }

  up(event) {
    const { drag } = this;
    this.pointers.delete(event.pointerId);
    if (drag?.id !== event.pointerId) return;
    this.drag = null;
    if (event.button === drag.button && drag.button !== 1) this.finish(drag, event);
    this.label();
    this.paint();
  }

  finish(drag, event) {
    const now = this.position(event);
    if (drag.point !== null && drag.moved) {
      this.send("move_point", { index: drag.point, ...this.pixel(now) });
    } else if (drag.point !== null) {
      this.selected = this.selected === drag.point ? null : drag.point;
    } else if (drag.button === 0 && drag.moved) {
      this.send("add_box", boxOf(this.pixel(drag.start), this.pixel(now)));
    } else {
      this.send("add_point", { ...this.pixel(drag.start), label: drag.label });
    }
  }

  cancel(event) {
    this.pointers.delete(event.pointerId);
    if (this.drag?.id === event.pointerId) this.drag = null;
    this.paint();
  }

  /** A pointer that is not pressed. */
  hover(event) {
    const { clientX, clientY } = event;
    if (event.pointerType === "touch" || (clientX === this.hoverX && clientY === this.hoverY)) return;
    Object.assign(this, { hoverX: clientX, hoverY: clientY });
    const held = this.pointAt(event, REACH.mouse) !== null;
    this.canvas.style.cursor = held ? "grab" : "";
    const label = event.shiftKey || event.ctrlKey ? 0 : this.sign;
    this.ask(held ? null : { ...this.pixel(this.position(event)), label });
  }

  /** What was between two fingers stays between them. */
  pinch(event) {
    const span = () => {
      const [a, b] = this.pointers.values();
      const distance = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
      return { clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2, distance };
    };
    const before = span();
    this.pointers.set(event.pointerId, event);
    const after = span();
    this.zoomBy(after.distance / Math.max(before.distance, 1), this.position(before));
    const [from, to] = [this.position(before), this.position(after)];
    this.look(this.zoom, this.left + from.u - to.u, this.top + from.v - to.v);
  }

  key(event) {
    const command = event.ctrlKey || event.metaKey;
    if (!command && (event.altKey || event.target.matches("select, input"))) return;
    const cancel = this.drag || this.corner || this.selected !== null;
    const actions = command
      ? { z: () => this.send(event.shiftKey ? "redo" : "undo"), y: () => this.send("redo") }
      : {
          c: () => this.send("clear"),
          delete: () => this.deleteKey(),
          backspace: () => this.deleteKey(),
          x: () => this.setSign(1 - this.sign),
          n: () => this.keep(),
          m: () => this.toggleMask(),
          p: () => this.togglePreview(),
          "+": () => this.zoomBy(1.5),
          "=": () => this.zoomBy(1.5),
          "-": () => this.zoomBy(1 / 1.5),
          ...(cancel && { escape: () => this.letGo() }),
          ...(event.target === this.canvas && this.crosshairKeys(event)),
          ...Object.fromEntries(
            this.state.candidates.map((_, index) => [String(index + 1), () => this.send("choose", { index })]),
          ),
        };
    const action = actions[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation(); // in Jupyter, M would also make this a Markdown cell
    action();
  }

  crosshairKeys(event) {
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(this.width / this.zoom / 40));
    const by = (x, y) => () => this.moveCrosshair(x * step, y * step);
    const enter = () => this.enter(event.shiftKey ? 0 : this.sign);
    const arrows = { arrowleft: by(-1, 0), arrowright: by(1, 0), arrowup: by(0, -1), arrowdown: by(0, 1) };
    return { ...arrows, enter, " ": enter, b: () => this.enterCorner() };
  }

  /** Where the crosshair is; at first, in the middle of what is seen. */
  aim() {
    this.crosshair ??= this.pixel({
      u: this.left + this.width / this.zoom / 2,
      v: this.top + this.height / this.zoom / 2,
    });
    return this.crosshair;
  }

  moveCrosshair(byX, byY) {
    const { x, y } = this.aim();
    this.crosshair = this.pixel({ u: x + byX, v: y + byY });
    // What is seen follows it.
    const low = { u: this.crosshair.x + 1 - this.width / this.zoom, v: this.crosshair.y + 1 - this.height / this.zoom };
    const left = Math.min(Math.max(this.left, low.u), this.crosshair.x);
    const top = Math.min(Math.max(this.top, low.v), this.crosshair.y);
    this.look(this.zoom, left, top);
    this.ask(this.corner || this.selected !== null ? null : { ...this.crosshair, label: this.sign });
    this.label();
  }

  /** Set a point at the crosshair, or pick up the one that is there, or put down the one that was picked up. */
  enter(label) {
    const here = this.aim();
    const point = this.pointAt(this.place(here), REACH.mouse);
    if (this.corner) this.enterCorner();
    else if (this.selected !== null) this.send("move_point", { index: this.selected, ...here });
    else if (point === null) this.send("add_point", { ...here, label });
    else this.selected = point;
    this.label();
    this.paint();
  }

  enterCorner() {
    const here = this.aim();
    if (this.corner) this.send("add_box", boxOf(this.corner, here));
    else this.corner = here;
    this.label();
    this.paint();
  }

  deleteKey() {
    if (this.selected === null && this.crosshair) {
      this.selected = this.pointAt(this.place(this.crosshair), REACH.mouse);
    }
    if (this.selected === null) this.send("clear");
    else this.deletePoint();
  }

  /** Forget what was begun. */
  letGo() {
    this.drag = this.corner = this.selected = null;
    this.label();
    this.paint();
  }

  setSign(sign) {
    this.sign = sign;
    this.ask(null);
    this.label();
  }

  toggleMask() {
    this.showMask = !this.showMask;
    this.press("mask", this.showMask);
    this.paint();
  }

  togglePreview() {
    this.showPreview = !this.showPreview;
    this.press("preview", this.showPreview);
    this.ask(null);
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
    context.imageSmoothingEnabled = scaleX < 1;
    const overlays = [this.showMask && this.objects, this.showMask && this.mask.fill, this.preview?.fill];
    for (const overlay of overlays.filter(Boolean)) {
      context.globalAlpha = this.opacity;
      context.drawImage(overlay, 0, 0);
      context.globalAlpha = 1;
    }
    if (this.showMask) context.drawImage(this.mask.edge, 0, 0);
    if (this.preview) context.drawImage(this.preview.edge, 0, 0);
    context.setTransform(1, 0, 0, 1, 0, 0);

    const dash = [5 * unit, 4 * unit];
    if (state.box) this.paintBox(state.box, place, unit, []);
    if (this.drag?.box) this.paintBox(Object.values(this.drag.box), place, unit, dash);
    if (this.corner) this.paintBox(Object.values(boxOf(this.corner, this.crosshair)), place, unit, dash);
    state.points.forEach(([x, y, label], index) => {
      const held = this.drag?.place && index === this.drag.point;
      this.paintPoint(place(x + 0.5, y + 0.5), label, unit, held ? 0.5 : 1);
      if (index === this.selected) this.paintRing(place(x + 0.5, y + 0.5), unit);
      if (held) this.paintPoint(place(this.drag.place.x + 0.5, this.drag.place.y + 0.5), label, unit, 1);
    });
    for (const { action, arguments: args } of this.pending) {
      if (action === "add_point" || action === "move_point") {
        const label = args.label ?? state.points[args.index]?.[2];
        this.paintPoint(place(args.x + 0.5, args.y + 0.5), label, unit, 0.5);
      }
      if (action === "add_box") this.paintBox(Object.values(args), place, unit, dash);
    }
    if (this.crosshair) this.paintCrosshair(place(this.crosshair.x + 0.5, this.crosshair.y + 0.5), unit);
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

  /** Around the selected point. */
  paintRing([x, y], unit) {
    const { context } = this;
    for (const [colour, width] of [["#000000", 4], [this.colours.box, 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * unit;
      context.beginPath();
      context.arc(x, y, 11 * unit, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  paintCrosshair([x, y], unit) {
    const { context, canvas } = this;
    for (const [colour, width] of [["#000000", 3], ["#ffffff", 1]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * unit;
      context.beginPath();
      // Open in the middle, so that what it points at is seen.
      for (const [from, to] of [[0, x - 5 * unit], [x + 5 * unit, canvas.width]]) {
        context.moveTo(from, y);
        context.lineTo(to, y);
      }
      for (const [from, to] of [[0, y - 5 * unit], [y + 5 * unit, canvas.height]]) {
        context.moveTo(x, from);
        context.lineTo(x, to);
      }
      context.stroke();
    }
  }
}

/** A box from two opposite pixels. */
function boxOf(a, b) {
  return { x0: Math.min(a.x, b.x), y0: Math.min(a.y, b.y), x1: Math.max(a.x, b.x), y1: Math.max(a.y, b.y) };
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

/** Make this many buttons the content of a group; those that are there stay, and with them the focus. */
function buttons(group, count, click) {
  while (group.children.length > count) group.lastChild.remove();
  for (let index = group.children.length; index < count; index++) {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.addEventListener("click", () => click(index));
    group.append(button);
  }
}

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.remove();
  },
};
