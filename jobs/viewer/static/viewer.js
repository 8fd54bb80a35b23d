// The page: which of grid, image, comparison and map is shown, by the address's fragment.

import { ask, make, number } from "./api.js";
import { Grid } from "./grid.js";
import { Looking } from "./looking.js";
import { GroundMap } from "./map.js";

const main = document.querySelector("main");
const runs = await ask("/api/runs");
const grid = new Grid(runs);
const looking = new Looking(runs, (no, step) => grid.beside(no, step));
let map;

/** Title and counts. */
function head() {
  const named = runs.map((run) => run.name || run.uri).join(" and ");
  document.title = `${named} · condinst`;
  document.querySelector("#named").textContent = named;
  const said = runs.map((run) => {
    const state = run.complete ? "" : ", not complete";
    const counted = run.counted ? "" : " so far, counting";
    const trouble = run.error ? `; reading it ended early: ${run.error}` : "";
    return `${run.uri}: ${number(run.images)} images, ${number(run.instances)} instances${counted}${state}${trouble}`;
  });
  document.querySelector("#about").textContent = said.join(" · ");
}

function links() {
  const made = [make("a", { href: "#/" }, "images")];
  runs.forEach((run, at) => {
    if (run.georeferenced) made.push(make("a", { href: `#/map/${at}` }, runs.length > 1 ? `map ${at + 1}` : "map"));
  });
  document.querySelector("#links").replaceChildren(...made);
}

function mark() {
  for (const link of document.querySelectorAll("#links a")) {
    if (link.getAttribute("href") === (location.hash || "#/")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

const reading = (run) => !run.error && !(run.counted && run.indexed === run.shards);
const pause = () => new Promise((resolve) => setTimeout(resolve, 1000));

/** Follow what becomes known of the runs while the server reads them. */
async function watch() {
  while (runs.some(reading)) {
    await pause();
    const told = await ask("/api/runs").catch(() => []);
    told.forEach((run, at) => Object.assign(runs[at], run));
    head();
    grid.tell();
    map?.tell();
  }
}

/** A run as it is known once an instance has a place or all is read; undefined when another page is asked for. */
async function placed(at) {
  const asked = location.hash;
  const waiting = make("p", { className: "live", role: "status" });
  main.replaceChildren(waiting);
  while (location.hash === asked) {
    const about = (await ask("/api/runs"))[at]; // its bounds grow while the run is read
    if (!about) throw new Error("there is no such run here");
    if (about.bounds || !reading(about)) return about;
    waiting.textContent = `reading where instances lie: ${number(about.indexed)} of ${number(about.shards)} shards`;
    await pause();
  }
  return undefined;
}

async function route() {
  const [, kind, run, no] = location.hash.split("/");
  map?.close();
  map = undefined;
  mark();
  try {
    if (kind === "image" || kind === "compare") {
      main.replaceChildren(looking.element);
      await looking.show(Number(run), Number(no), kind === "compare");
    } else if (kind === "map") {
      const about = await placed(Number(run));
      if (!about) return;
      map = new GroundMap(Number(run), about);
      main.replaceChildren(map.element);
      await map.open();
    } else {
      main.replaceChildren(grid.element);
      await grid.refresh();
    }
    main.dataset.shown = location.hash || "#/";
  } catch (error) {
    main.replaceChildren(make("p", { className: "trouble", role: "alert" }, error.message));
  }
}

head();
links();
addEventListener("hashchange", route);
watch();
await route();

// For whoever works on the page, in the browser's console.
globalThis.viewer = { runs, grid, looking, map: () => map };
