// One image with its masks: zoom to pixels, hover, select. Two panes may share where they look.

import { DECODED, ask, make, number, picture, score } from "./api.js";
import { Layer, outline } from "./layer.js";

const LONGEST = 4096; // pixels of a layer's edge; a larger image is shown smaller, its parts on zooming in
const CLOSEST = 64; // screen pixels an image pixel

/** Where panes look: image coordinates of the screen's top left, and screen pixels an image pixel. */
export class Gaze extends EventTarget {
  constructor() {
    super();
    Object.assign(this, { x: 0, y: 0, scale: 1 });
  }

  look(x, y, scale) {
    Object.assign(this, { x, y, scale });
    this.dispatchEvent(new Event("look"));
  }

  /** Zoom by a factor, the image's point under screen position (left, top) staying where it is. */
  zoom(factor, left, top) {
    const scale = Math.min(CLOSEST, Math.max(1e-3, this.scale * factor));
    this.look(this.x + left / this.scale - left / scale, this.y + top / this.scale - top / scale, scale);
  }
}

export class Pane extends EventTarget {
  /** `settings`: what is shown, shared by panes: threshold, hidden (a Set of classes), masks, opacity, only. */
  constructor(run, about, settings, gaze) {
    super();
    Object.assign(this, { run, about, settings, gaze });
    this.instances = [];
    this.total = 0;
    this.selected = -1;
    this.hovered = -1;
    this.stage = make("div", { className: "stage" });
    this.tip = make("div", { className: "tip", hidden: true });
    this.note = make("p", { className: "note", hidden: true });
    this.element = make(
      "div",
      { className: "pane", tabIndex: 0, role: "application", "aria-roledescription": "image with masks" },
      this.stage,
      this.tip,
      this.note,
    );
    this.gaze.addEventListener("look", () => this.place());
    this.listen();
  }

  /** Load an image and its instances, `row` as the server lists it. */
  async show(row) {
    this.row = row;
    this.element.setAttribute("aria-label", `${row.image_id}: arrow keys move, plus and minus zoom, 0 fits`);
    const width = row.width ?? 1;
    const height = row.height ?? 1;
    const step = 2 ** Math.max(0, Math.ceil(Math.log2(Math.max(width, height) / LONGEST)));
    this.base = new Layer(0, 0, Math.ceil(width / step), Math.ceil(height / step), step);
    this.detail?.element.remove();
    this.detail = undefined;
    this.mark = undefined;
    this.stage.replaceChildren(this.base.element);
    Object.assign(this.stage.style, { width: `${width}px`, height: `${height}px` });
    const path = `/api/runs/${this.run}/images/${row.no}`;
    const [found, bitmap] = await Promise.allSettled([
      ask(`${path}/instances`),
      // What was not decoded has no pixels to ask for, but a reason.
      DECODED.has(row.status)
        ? picture(`${path}/pixels`, { step })
        : Promise.reject(new Error(row.error ? `${row.status}: ${row.error}` : row.status)),
    ]);
    if (this.row !== row) return;
    if (bitmap.status === "fulfilled") this.base.draw(bitmap.value);
    if (found.status === "fulfilled") this.take(found.value);
    const trouble = [bitmap, found].find((result) => result.status === "rejected");
    this.tell(trouble ? trouble.reason.message : this.cut());
    this.select(-1);
    this.fit();
    this.update();
  }

  cut() {
    const drawn = this.instances.length;
    return drawn < this.total
      ? `the best ${number(drawn)} of ${number(this.total)} instances; zoom in to see them all`
      : "";
  }

  tell(words) {
    this.note.textContent = words;
    this.note.hidden = !words;
  }

  take(found) {
    this.total = found.total;
    this.instances = this.listed(found);
  }

  listed(found) {
    return found.id.map((id, index) => ({
      index,
      id,
      category: found.category[index],
      label: this.about.categories.indexOf(found.category[index]),
      score: found.score[index],
      area: found.area[index],
      truncated: found.truncated[index],
      x: found.x[index],
      y: found.y[index],
      width: found.width[index],
      height: found.height[index],
      counts: found.counts[index],
    }));
  }

  /** The instances that the settings show, the best first. */
  shown(instances = this.instances) {
    const { threshold, hidden, only } = this.settings;
    if (only && this.selected >= 0) return instances.filter((i) => i.id === this.instances[this.selected].id);
    return instances.filter((i) => i.score >= threshold && !hidden.has(i.category));
  }

  /** Draw again what the settings show. */
  update() {
    if (!this.base) return;
    this.base.drawMasks(this.shown());
    this.detail?.drawMasks(this.shown(this.detail.instances));
    this.stage.style.setProperty("--masks", this.settings.masks ? this.settings.opacity : 0);
    this.dispatchEvent(new Event("update"));
  }

  fit() {
    const { clientWidth, clientHeight } = this.element;
    const { width, height } = this.row;
    const scale = Math.min(clientWidth / (width ?? 1), clientHeight / (height ?? 1)) || 1;
    this.gaze.look(
      ((width ?? 1) - clientWidth / scale) / 2,
      ((height ?? 1) - clientHeight / scale) / 2,
      scale,
    );
  }

  /** Zoom so that an instance fills some of the pane. */
  approach(index) {
    const { x, y, width, height } = this.instances[index];
    const { clientWidth, clientHeight } = this.element;
    const scale = Math.min(16, (0.4 * clientWidth) / width, (0.4 * clientHeight) / height);
    this.gaze.look(x + width / 2 - clientWidth / scale / 2, y + height / 2 - clientHeight / scale / 2, scale);
  }

  place() {
    const { x, y, scale } = this.gaze;
    this.stage.style.transform = `scale(${scale}) translate(${-x}px, ${-y}px)`;
    this.stage.classList.toggle("close", scale > 1.5);
    clearTimeout(this.settling);
    if (this.base && this.base.step > 1) this.settling = setTimeout(() => this.sharpen(), 200);
  }

  /** Of an image that is shown smaller, the part in sight at its own pixels. */
  async sharpen() {
    const { x, y, scale } = this.gaze;
    const step = 2 ** Math.max(0, Math.floor(Math.log2(1 / scale)));
    if (step >= this.base.step) return;
    const left = Math.floor(Math.max(0, x));
    const top = Math.floor(Math.max(0, y));
    const right = Math.min(this.row.width, x + this.element.clientWidth / scale, left + LONGEST * step);
    const bottom = Math.min(this.row.height, y + this.element.clientHeight / scale, top + LONGEST * step);
    const size = [Math.ceil((right - left) / step), Math.ceil((bottom - top) / step)];
    if (size[0] < 1 || size[1] < 1) return;
    const layer = new Layer(left, top, ...size, step);
    const part = { x: left, y: top, width: size[0] * step, height: size[1] * step };
    part.width = Math.min(part.width, this.row.width - left);
    part.height = Math.min(part.height, this.row.height - top);
    const path = `/api/runs/${this.run}/images/${this.row.no}`;
    const row = this.row;
    try {
      const [bitmap, found] = await Promise.all([
        picture(`${path}/pixels`, { ...part, step }),
        ask(`${path}/instances`, part),
      ]);
      if (row !== this.row || x !== this.gaze.x || y !== this.gaze.y || scale !== this.gaze.scale) return;
      layer.draw(bitmap);
      layer.instances = this.listed(found);
      layer.drawMasks(this.shown(layer.instances));
      this.detail?.element.remove();
      this.detail = layer;
      this.base.element.after(layer.element);
    } catch (error) {
      this.tell(error.message);
    }
  }

  /** The instance on top at a place of the screen. */
  under(left, top) {
    const x = this.gaze.x + left / this.gaze.scale;
    const y = this.gaze.y + top / this.gaze.scale;
    if (!this.base || !this.settings.masks) return undefined;
    const fine = this.detail?.at(x, y) ?? -1;
    if (fine >= 0) return this.detail.instances[fine];
    return this.instances[this.base.at(x, y)];
  }

  hover(left, top) {
    const found = this.under(left, top);
    this.tip.hidden = !found;
    if (found) {
      this.tip.textContent = `${found.category} ${score(found.score)}`;
      const beyond = left > this.element.clientWidth - 180;
      this.tip.style.transform = `translate(${left + (beyond ? -12 : 12)}px, ${top + 14}px)`;
      this.tip.classList.toggle("left", beyond);
    }
    const index = found ? this.instances.findIndex((i) => i.id === found.id) : -1;
    if (index === this.hovered) return;
    this.hovered = index;
    this.highlight();
  }

  select(index) {
    this.selected = index;
    this.highlight();
    if (this.settings.only) this.update();
    this.dispatchEvent(new Event("select"));
  }

  highlight() {
    this.mark?.remove();
    const index = this.hovered >= 0 ? this.hovered : this.selected;
    this.mark = index >= 0 ? outline(this.instances[index]) : undefined;
    if (this.mark) this.stage.append(this.mark);
  }

  listen() {
    const pane = this.element;
    const fingers = new Map();
    let moved = 0;
    const at = (event) => {
      const box = pane.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const spread = () => {
      const [a, b] = [...fingers.values()];
      return Math.hypot(a[0] - b[0], a[1] - b[1]);
    };
    pane.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.gaze.zoom(Math.exp(-event.deltaY / 400), ...at(event));
    }, { passive: false });
    pane.addEventListener("pointerdown", (event) => {
      fingers.set(event.pointerId, at(event));
      moved = 0;
      pane.setPointerCapture(event.pointerId);
    });
    pane.addEventListener("pointermove", (event) => {
      const [left, top] = at(event);
      const before = fingers.get(event.pointerId);
      if (!before) return this.hover(left, top);
      const wide = fingers.size === 2 ? spread() : 0;
      fingers.set(event.pointerId, [left, top]);
      moved += Math.abs(left - before[0]) + Math.abs(top - before[1]);
      const { x, y, scale } = this.gaze;
      const share = scale * fingers.size;
      this.gaze.look(x - (left - before[0]) / share, y - (top - before[1]) / share, scale);
      if (wide) this.gaze.zoom(spread() / wide, left, top);
    });
    const end = (event) => {
      if (fingers.delete(event.pointerId) && moved < 4 && event.type === "pointerup") {
        const found = this.under(...at(event));
        this.select(found ? this.instances.findIndex((i) => i.id === found.id) : -1);
      }
    };
    pane.addEventListener("pointerup", end);
    pane.addEventListener("pointercancel", end);
    pane.addEventListener("pointerleave", () => {
      this.tip.hidden = true;
      this.hovered = -1;
      this.highlight();
    });
    pane.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.gaze.dispatchEvent(new Event("look"))).observe(pane);
  }

  key(event) {
    const { x, y, scale } = this.gaze;
    const { clientWidth, clientHeight } = this.element;
    const far = 80 / scale;
    const moves = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) this.gaze.look(x + moves[event.key][0], y + moves[event.key][1], scale);
    else if (event.key === "+" || event.key === "=") this.gaze.zoom(1.5, clientWidth / 2, clientHeight / 2);
    else if (event.key === "-") this.gaze.zoom(1 / 1.5, clientWidth / 2, clientHeight / 2);
    else if (event.key === "0") this.fit();
    else if (event.key === "1") this.gaze.zoom(1 / scale, clientWidth / 2, clientHeight / 2);
    else if (event.key === "Escape") this.select(-1);
    else return;
    event.preventDefault();
  }
}
