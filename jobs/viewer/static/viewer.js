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

function head() {
  const named = runs.map((run) => run.name || run.uri).join(" and ");
  document.title = `${named} · condinst`;
  document.querySelector("#named").textContent = named;
  const said = runs.map((run) => {
    const state = run.complete ? "" : ", not complete";
    return `${run.uri}: ${number(run.images)} images, ${number(run.instances)} instances${state}`;
  });
  document.querySelector("#about").textContent = said.join(" · ");
  const links = [make("a", { href: "#/" }, "images")];
  runs.forEach((run, at) => {
    if (run.georeferenced) links.push(make("a", { href: `#/map/${at}` }, runs.length > 1 ? `map ${at + 1}` : "map"));
  });
  document.querySelector("#links").replaceChildren(...links);
}

async function route() {
  const [, kind, run, no] = location.hash.split("/");
  map?.close();
  map = undefined;
  for (const link of document.querySelectorAll("#links a")) {
    if (link.getAttribute("href") === (location.hash || "#/")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    if (kind === "image" || kind === "compare") {
      main.replaceChildren(looking.element);
      await looking.show(Number(run), Number(no), kind === "compare");
    } else if (kind === "map") {
      const about = (await ask("/api/runs"))[Number(run)]; // its bounds grow while the run is read
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
addEventListener("hashchange", route);
await route();

// For whoever works on the page, in the browser's console.
globalThis.viewer = { runs, grid, looking, map: () => map };
