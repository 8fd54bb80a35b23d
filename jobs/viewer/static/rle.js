// COCO's compressed run lengths, decoded in the browser: the very pixels of the tables.

/** Run lengths of a crop's pixels, column by column, off first. */
export function decodeRuns(counts) {
  const runs = [];
  let at = 0;
  while (at < counts.length) {
    let value = 0;
    let unit = 1; // arithmetic, not shifts: those end at 32 bits
    let more = true;
    while (more) {
      const six = counts.charCodeAt(at++) - 48;
      value += (six & 31) * unit;
      unit *= 32;
      more = (six & 32) !== 0;
      if (!more && six & 16) value -= unit;
    }
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

/**
 * Write `value` into a layer's labels wherever the mask is on.
 *
 * A layer shows the image from (x, y) on, `step` image pixels a pixel: the one in the middle of each.
 * A mask has its crop's x, y, height and its counts.
 */
export function paint(layer, mask, value) {
  const runs = (mask.runs ??= decodeRuns(mask.counts));
  const half = layer.step >> 1;
  let at = 0;
  for (let number = 0; number < runs.length; number++) {
    const end = at + runs[number];
    if (number % 2 === 1) {
      while (at < end) {
        const column = Math.floor(at / mask.height);
        const stop = Math.min(end, (column + 1) * mask.height);
        paintColumn(layer, half, mask.x + column, mask.y + at - column * mask.height, stop - at, value);
        at = stop;
      }
    }
    at = end;
  }
}

function paintColumn(layer, half, x, top, length, value) {
  const { step, width, height, labels } = layer;
  const across = x - layer.x - half;
  if (across < 0 || across % step !== 0) return;
  const column = across / step;
  if (column >= width) return;
  const first = Math.max(0, Math.ceil((top - layer.y - half) / step));
  const last = Math.min(height - 1, Math.floor((top + length - 1 - layer.y - half) / step));
  for (let row = first, at = first * width + column; row <= last; row++, at += width) labels[at] = value;
}
