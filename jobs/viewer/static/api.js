// What the server is asked. Texts from it reach the page as text only, never as markup.

/** Statuses of the images that have pixels to show. */
export const DECODED = new Set(["ok", "empty"]);

/** JSON of an address; throws the server's own words. */
export async function ask(path, query = {}) {
  const response = await fetch(address(path, query));
  const said = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(said.error ?? `${response.status} ${response.statusText}`);
  return said;
}

/** A picture's pixels. */
export async function picture(path, query = {}) {
  const response = await fetch(address(path, query));
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Error(said.error ?? `${response.status} ${response.statusText}`);
  }
  // Pixels as they are stored: no colour profile, no alpha.
  return createImageBitmap(await response.blob(), { colorSpaceConversion: "none" });
}

/** Path and query; lists repeat their name, what is empty is left out. */
export function address(path, query = {}) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null && one !== "") words.append(name, one);
    }
  }
  const said = words.toString();
  return said ? `${path}?${said}` : path;
}

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "for" || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

export const number = (value) => value.toLocaleString("en");
export const score = (value) => value.toFixed(3);
