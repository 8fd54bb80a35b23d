// An image, or the same image of two runs side by side, with the controls beside it.

import { ask, make, number, score } from "./api.js";
import { classColour } from "./colours.js";
import { Gaze, Pane } from "./pane.js";

const MOST_LISTED = 200;

/** What is shown, kept from image to image. */
const settings = { threshold: 0, hidden: new Set(), masks: true, opacity: 0.5, only: false };

export class Looking {
  constructor(runs, beside) {
    this.runs = runs;
    this.beside = beside;
    this.gaze = new Gaze();
    this.panes = [];
    this.frames = make("div", { className: "frames" });
    this.side = make("aside", { className: "side", "aria-label": "what is shown" });
    this.title = make("h2", { className: "title" });
    this.live = make("p", { className: "live", role: "status" });
    this.element = make(
      "div",
      { className: "looking" },
      make("div", { className: "head" }, this.title, this.steps()),
      make("div", { className: "body" }, this.frames, this.side),
    );
    this.element.addEventListener("keydown", (event) => this.key(event));
  }

  /** Show image `no` of a run; `both` shows the other run's image of that id beside it. */
  async show(run, no, both) {
    this.at = { run, no, both };
    const row = await ask(`/api/runs/${run}/images/${no}`);
    const shown = [[run, row]];
    if (both) {
      const other = 1 - run;
      const asked = { image_id: row.image_id, near: no };
      const found = await ask(`/api/runs/${other}/find`, asked).catch((error) => error.message);
      shown.push([other, found]);
      shown.sort((a, b) => a[0] - b[0]);
    }
    this.title.textContent = row.image_id;
    this.panes = [];
    this.frames.replaceChildren(...shown.map(([number, found]) => this.frame(number, found, both)));
    this.controls(row, run);
    await Promise.all(this.panes.map((pane) => pane.show(pane.wanted)));
    this.panes[0]?.fit();
    this.list();
  }

  frame(run, row, named) {
    const about = this.runs[run];
    const caption = make("figcaption", {}, named ? about.uri : "", make("span", { className: "tally" }));
    if (typeof row === "string") {
      return make("figure", { className: "frame" }, caption, make("p", {}, row));
    }
    const pane = new Pane(run, about, settings, this.gaze);
    pane.wanted = row;
    pane.addEventListener("update", () => {
      const shown = pane.shown().length;
      caption.lastChild.textContent = ` ${number(shown)} of ${number(pane.total)} instances shown`;
      this.live.textContent = this.panes.map((p) => `${number(p.shown().length)} instances shown`).join("; ");
    });
    pane.addEventListener("select", () => this.tellSelected(pane));
    this.panes.push(pane);
    return make("figure", { className: "frame" }, pane.element, caption);
  }

  tellSelected(pane) {
    const found = pane.instances[pane.selected];
    for (const button of this.side.querySelectorAll("button[data-index]")) {
      button.setAttribute("aria-pressed", String(pane === this.panes[0] && Number(button.dataset.index) === pane.selected));
    }
    if (found) {
      const cut = found.truncated ? ", cut by the image's edge" : "";
      this.live.textContent = `#${found.id} ${found.category}, score ${score(found.score)}, ${number(found.area)} pixels${cut}`;
    }
  }

  controls(row, run) {
    const redraw = () => {
      cancelAnimationFrame(this.drawing);
      this.drawing = requestAnimationFrame(() => {
        for (const pane of this.panes) pane.update();
        this.list();
      });
    };
    const threshold = slider("threshold", "least score", settings.threshold, (value) => {
      settings.threshold = value;
      redraw();
    });
    const opacity = slider("opacity", "opacity", settings.opacity, (value) => {
      settings.opacity = value;
      redraw();
    });
    const toggles = [
      tick("masks", "masks", settings.masks, (on) => ((settings.masks = on), redraw())),
      tick("only", "only the selected", settings.only, (on) => ((settings.only = on), redraw())),
    ];
    const names = [...new Set(this.panes.flatMap((pane) => this.runs[pane.run].categories))];
    const classes = names.map((name) =>
      tick(
        undefined,
        name,
        !settings.hidden.has(name),
        (on) => {
          if (on) settings.hidden.delete(name);
          else settings.hidden.add(name);
          redraw();
        },
        classColour(this.runs[run].categories.indexOf(name)),
      ),
    );
    this.listing = make("ol", { className: "listing" });
    this.side.replaceChildren(
      this.live,
      threshold,
      opacity,
      ...toggles,
      make("fieldset", {}, make("legend", {}, "classes"), ...classes),
      this.zooms(),
      facts(row),
      make("h3", {}, "instances"),
      this.listing,
    );
  }

  zooms() {
    const pane = () => this.panes[0];
    const middle = () => [pane().element.clientWidth / 2, pane().element.clientHeight / 2];
    const button = (words, label, act) =>
      make("button", { type: "button", "aria-label": label, textContent: words, onclick: () => pane() && act() });
    return make(
      "p",
      { className: "zooms" },
      button("+", "zoom in", () => this.gaze.zoom(1.5, ...middle())),
      button("−", "zoom out", () => this.gaze.zoom(1 / 1.5, ...middle())),
      button("fit", "fit the image", () => pane().fit()),
      button("1:1", "1:1, one pixel a pixel", () => this.gaze.zoom(1 / this.gaze.scale, ...middle())),
    );
  }

  /** The instances as a list, for the keyboard and for reading. */
  list() {
    const pane = this.panes[0];
    if (!pane) return;
    const entries = pane.shown().slice(0, MOST_LISTED).map((instance) => {
      const button = make("button", {
        type: "button",
        textContent: `#${instance.id} ${instance.category} ${score(instance.score)}`,
        onclick: () => {
          pane.select(instance.index);
          pane.approach(instance.index);
        },
      });
      button.dataset.index = instance.index;
      button.setAttribute("aria-pressed", String(instance.index === pane.selected));
      return make("li", {}, button);
    });
    this.listing.replaceChildren(...entries);
  }

  steps() {
    const go = (step) => this.step(step);
    const button = (words, step) => make("button", { type: "button", textContent: words, onclick: () => go(step) });
    const nav = make("nav", { className: "steps", "aria-label": "images" });
    nav.append(make("a", { href: "#/" }, "all images"), button("previous", -1), button("next", 1));
    if (this.runs.length > 1) {
      nav.append(make("button", { type: "button", className: "both", textContent: "side by side", onclick: () => this.toggle() }));
    }
    return nav;
  }

  toggle() {
    const { run, no, both } = this.at;
    location.hash = both ? `#/image/${run}/${no}` : `#/compare/${run}/${no}`;
  }

  async step(step) {
    const { run, no, both } = this.at;
    const next = await this.beside(no, step);
    if (next !== undefined) location.hash = `#/${both ? "compare" : "image"}/${run}/${next}`;
    else this.live.textContent = step > 0 ? "this is the last image" : "this is the first image";
  }

  key(event) {
    if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "n") this.step(1);
    else if (event.key === "p") this.step(-1);
    else if (event.key === "m") this.side.querySelector("#masks").click();
    else return;
    event.preventDefault();
  }
}

function slider(id, title, value, act) {
  const shown = make("output", { for: id }, value.toFixed(2));
  const input = make("input", { id, type: "range", min: 0, max: 1, step: 0.01, value });
  input.oninput = () => {
    shown.textContent = Number(input.value).toFixed(2);
    act(Number(input.value));
  };
  return make("p", { className: "slider" }, make("label", { for: id }, title), shown, input);
}

function tick(id, title, on, act, colour) {
  const input = make("input", { type: "checkbox", checked: on, onchange: () => act(input.checked) });
  if (id) input.id = id;
  const swatch = make("span", { className: "swatch", "aria-hidden": "true" });
  if (colour) swatch.style.background = colour;
  return make("label", { className: "tick" }, input, ...(colour ? [swatch] : []), title);
}

function facts(row) {
  const size = row.width ? `${number(row.width)} × ${number(row.height)} pixels` : "";
  const pairs = [["status", row.status], ["size", size], ["error", row.error]].filter(([, said]) => said);
  return make("dl", {}, ...pairs.flatMap(([name, said]) => [make("dt", {}, name), make("dd", {}, said)]));
}
