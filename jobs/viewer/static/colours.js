// The colours of jobs/overlay.py: a class chooses the hue, an instance a shade near it.

const GOLDEN = 0.618034;
const PLASTIC = 0.754878;

/** [red, green, blue] of instance `number` of the class `label`. */
export function colourOf(label, number) {
  const hue = 0.55 + label * GOLDEN + 0.16 * (((number * GOLDEN) % 1) - 0.5);
  return rgb(((hue % 1) + 1) % 1, 0.45 + 0.2 * ((number * PLASTIC) % 1), 0.95);
}

/** The class's colour as CSS. */
export function classColour(label) {
  return `rgb(${rgb((0.55 + label * GOLDEN) % 1, 0.5, 0.95).join(" ")})`;
}

function rgb(hue, lightness, saturation) {
  const reach = saturation * Math.min(lightness, 1 - lightness);
  return [0, 8, 4].map((shift) => {
    const k = (shift + hue * 12) % 12;
    return Math.round(255 * (lightness - reach * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}
