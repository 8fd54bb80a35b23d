// A rectangle of the image on the page: its picture, and above it the masks, one canvas pixel a pixel.

import { colourOf } from "./colours.js";
import { paint } from "./rle.js";

/** Whether a canvas pixel of a mask is on can be read back from its alpha: 255 or 0. */
export class Layer {
  /** `x`, `y`: its top left in the image; `width`, `height` in its own pixels of `step` image pixels. */
  constructor(x, y, width, height, step) {
    Object.assign(this, { x, y, width, height, step });
    this.labels = new Uint32Array(width * height);
    this.picture = canvas("picture", width, height);
    this.masks = canvas("masks", width, height);
    this.element = document.createElement("div");
    this.element.className = "layer";
    this.element.append(this.picture, this.masks);
    Object.assign(this.element.style, {
      left: `${x}px`,
      top: `${y}px`,
      width: `${width * step}px`,
      height: `${height * step}px`,
    });
  }

  /** Take the picture in. */
  draw(bitmap) {
    this.picture.getContext("2d").drawImage(bitmap, 0, 0, this.width, this.height);
  }

  /** Draw the masks of `shown` (the best first, so it is drawn last); `colours` by instance. */
  drawMasks(shown) {
    this.labels.fill(0);
    for (let at = shown.length - 1; at >= 0; at--) paint(this, shown[at], shown[at].index + 1);
    const pixels = new ImageData(this.width, this.height);
    const words = new Uint32Array(pixels.data.buffer);
    const colours = new Map();
    for (const instance of shown) colours.set(instance.index + 1, word(instance));
    const labels = this.labels;
    let last = 0;
    let colour = 0;
    for (let at = 0; at < labels.length; at++) {
      const label = labels[at];
      if (label === 0) continue;
      if (label !== last) {
        last = label;
        colour = colours.get(label);
      }
      words[at] = colour;
    }
    this.masks.getContext("2d").putImageData(pixels, 0, 0);
  }

  /** The index of the instance on top at a place in the image; -1 where there is none. */
  at(x, y) {
    const column = Math.floor((x - this.x) / this.step);
    const row = Math.floor((y - this.y) / this.step);
    if (column < 0 || row < 0 || column >= this.width || row >= this.height) return -1;
    return this.labels[row * this.width + column] - 1;
  }
}

/** The outline of an instance, as a canvas over its crop; every pixel is one of the mask's own. */
export function outline(instance) {
  const { x, y, width, height } = instance;
  const step = Math.max(1, Math.ceil(Math.max(width, height) / 2048));
  const size = [Math.ceil(width / step), Math.ceil(height / step)];
  const crop = { x: x - (step >> 1), y: y - (step >> 1), step, width: size[0], height: size[1] };
  crop.labels = new Uint32Array(size[0] * size[1]);
  paint(crop, instance, 1);
  const drawn = canvas("outline", ...size);
  const context = drawn.getContext("2d");
  const pixels = context.createImageData(...size);
  const words = new Uint32Array(pixels.data.buffer);
  const on = (column, row) =>
    column >= 0 && row >= 0 && column < size[0] && row < size[1] && crop.labels[row * size[0] + column];
  for (let row = 0; row < size[1]; row++) {
    for (let column = 0; column < size[0]; column++) {
      if (!on(column, row)) continue;
      const inside = on(column - 1, row) && on(column + 1, row) && on(column, row - 1) && on(column, row + 1);
      words[row * size[0] + column] = inside ? 0x55ffffff : 0xffffffff;
    }
  }
  context.putImageData(pixels, 0, 0);
  Object.assign(drawn.style, {
    left: `${x}px`,
    top: `${y}px`,
    width: `${size[0] * step}px`,
    height: `${size[1] * step}px`,
  });
  return drawn;
}

function word(instance) {
  const [red, green, blue] = colourOf(instance.label, instance.id);
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

function canvas(name, width, height) {
  const made = document.createElement("canvas");
  made.className = name;
  made.width = width;
  made.height = height;
  return made;
}
