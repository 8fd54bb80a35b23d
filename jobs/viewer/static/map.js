// The map of a georeferenced run: its own images and outlines, no tiles from anywhere.

import { ask, make, number, score } from "./api.js";
import { classColour } from "./colours.js";

const EMPTY = { type: "FeatureCollection", features: [] };
const PICTURES = 1024; // pixels of an image's longest edge under the map

export class GroundMap {
  constructor(run, about) {
    Object.assign(this, { run, about, pictures: new Set(), least: 0, ready: false });
    this.plate = make("div", { className: "plate" });
    this.live = make("p", { className: "live", role: "status" });
    const shown = make("output", { for: "map-score" }, "0.00");
    const slider = make("input", { id: "map-score", type: "range", min: 0, max: 1, step: 0.01, value: 0 });
    slider.oninput = () => {
      this.least = Number(slider.value);
      shown.textContent = this.least.toFixed(2);
      clearTimeout(this.waiting);
      this.waiting = setTimeout(() => this.refresh(), 150);
    };
    this.element = make(
      "div",
      { className: "mapping" },
      make(
        "div",
        { className: "head" },
        make("h2", { className: "title" }, "map"),
        make("p", { className: "slider" }, make("label", { for: "map-score" }, "least score"), shown, slider),
        this.live,
      ),
      this.plate,
    );
  }

  /** Build the map; its element has to be on the page. Throws where the browser has no WebGL. */
  async open() {
    if (!this.about.bounds) throw new Error("the run's instances have no place on a map");
    const library = await import("./vendor/maplibre-gl/maplibre-gl.mjs");
    this.library = library;
    const [west, south, east, north] = this.about.bounds;
    this.map = new library.Map({
      container: this.plate,
      style: style(this.about.categories),
      bounds: [west, south, east, north],
      fitBoundsOptions: { padding: 40, maxZoom: 20 },
      attributionControl: false,
      dragRotate: false,
      maxZoom: 24,
      renderWorldCopies: false,
      canvasContextAttributes: { preserveDrawingBuffer: true },
    });
    this.map.addControl(new library.NavigationControl({ showCompass: false }));
    this.map.addControl(new library.ScaleControl());
    await new Promise((resolve) => this.map.once("load", resolve));
    this.ready = true;
    this.map.on("moveend", () => this.refresh());
    for (const layer of ["areas", "points", "cells"]) {
      this.map.on("click", layer, (event) => this.pick(event.features[0], event.lngLat));
      this.map.on("mouseenter", layer, () => (this.map.getCanvas().style.cursor = "pointer"));
      this.map.on("mouseleave", layer, () => (this.map.getCanvas().style.cursor = ""));
    }
    await this.refresh();
  }

  /** More of the run is read: show it. */
  tell() {
    if (this.ready) this.refresh();
  }

  async refresh() {
    const asked = (this.asked = Symbol("request"));
    const box = this.map.getBounds();
    const query = { west: box.getWest(), south: box.getSouth(), east: box.getEast(), north: box.getNorth() };
    try {
      const found = await ask(`/api/runs/${this.run}/map`, { ...query, score: this.least });
      if (asked !== this.asked) return;
      this.found = found;
      this.map.getSource("found").setData(found.features);
      for (const image of found.images) this.lay(image);
      const how = found.kind === "cells" && found.total ? ", counted by cells; zoom in to see each" : "";
      this.live.textContent = `${number(found.total)} instances in sight${how}`;
    } catch (error) {
      this.live.textContent = error.message;
    }
  }

  /** Lay an image under the outlines, once. */
  async lay({ no, corners }) {
    if (this.pictures.has(no)) return;
    this.pictures.add(no);
    const path = `/api/runs/${this.run}/images/${no}`;
    const row = await ask(path).catch(() => null);
    if (!row?.width) return;
    const step = Math.max(1, Math.ceil(Math.max(row.width, row.height) / PICTURES));
    const url = new URL(`${path}/pixels?step=${step}`, location.href).href;
    if (!(await fetch(url)).ok) return; // an image that cannot be had leaves its place bare
    this.map.addSource(`image-${no}`, { type: "image", url, coordinates: corners });
    this.map.addLayer({ id: `image-${no}`, type: "raster", source: `image-${no}` }, "areas");
  }

  pick(feature, at) {
    const said = feature.properties;
    if (said.no === undefined) {
      this.map.easeTo({ center: at, zoom: this.map.getZoom() + 2 });
      return;
    }
    const words = `${said.category} ${score(said.score)}`;
    const link = make("a", { href: `#/image/${this.run}/${said.no}` }, "open its image");
    const content = make("div", { className: "pick" }, make("strong", {}, words), link);
    this.popup?.remove();
    this.popup = new this.library.Popup({ focusAfterOpen: true }).setLngLat(at).setDOMContent(content).addTo(this.map);
    this.live.textContent = `#${said.instance_id} ${words}`;
  }

  close() {
    this.map?.remove();
  }
}

function style(categories) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const colour = categories.length
    ? ["match", ["get", "category"], ...categories.flatMap((name, label) => [name, classColour(label).replaceAll(" ", ",")]), "#888"]
    : "#888";
  const single = ["has", "no"];
  const area = ["==", ["geometry-type"], "Polygon"];
  return {
    version: 8,
    sources: { found: { type: "geojson", data: EMPTY } },
    layers: [
      { id: "ground", type: "background", paint: { "background-color": dark ? "#16201a" : "#e8eee6" } },
      { id: "areas", type: "fill", source: "found", filter: area, paint: { "fill-color": colour, "fill-opacity": 0.45 } },
      { id: "edges", type: "line", source: "found", filter: area, paint: { "line-color": colour, "line-width": 1.5 } },
      {
        id: "points",
        type: "circle",
        source: "found",
        filter: ["all", single, ["==", ["geometry-type"], "Point"]],
        paint: { "circle-color": colour, "circle-radius": 5, "circle-stroke-width": 1, "circle-stroke-color": "#fff" },
      },
      {
        id: "cells",
        type: "circle",
        source: "found",
        filter: ["!", single],
        paint: {
          "circle-color": "#2a6fad",
          "circle-opacity": 0.7,
          "circle-radius": ["min", 24, ["+", 3, ["*", 1.5, ["ln", ["get", "hits"]]]]],
        },
      },
    ],
  };
}
