// The grid: thumbnails to filter, sort and page through. The server sends one page at a time.

import { DECODED, ask, make, number, score } from "./api.js";
import { classColour } from "./colours.js";

const SIZE = 60;
const MOST_CLASSES = 300;
const SORTS = {
  order: "plan order",
  name: "name",
  count: "instances",
  best: "best score",
  worst: "lowest score",
  pixels: "size in pixels",
};

export class Grid {
  constructor(runs) {
    this.runs = runs;
    this.run = 0;
    this.page = 0;
    this.found = { total: 0, images: [] };
    this.list = make("ul", { className: "cards" });
    this.count = make("p", { className: "count", role: "status" });
    this.form = make("form", { className: "filters", "aria-label": "filters" });
    this.pager = make("nav", { className: "pager", "aria-label": "pages" });
    this.element = make(
      "div",
      { className: "browse" },
      this.form,
      make("section", { className: "results", "aria-label": "images" }, this.count, this.list, this.pager),
    );
    this.build();
  }

  /** Fields that say what the form says. */
  query() {
    const data = new FormData(this.form);
    const value = (name) => data.get(name) || undefined;
    return {
      status: data.getAll("status"),
      category: data.getAll("category"),
      score_min: value("score_min"),
      score_max: value("score_max"),
      count_min: value("count_min"),
      count_max: value("count_max"),
      text: value("text"),
      sort: value("sort"),
      falling: data.has("falling") ? "true" : undefined,
      page: this.page,
      size: SIZE,
    };
  }

  build() {
    const about = this.runs[this.run];
    this.built = choicesOf(about);
    const fields = [];
    if (this.runs.length > 1) fields.push(this.choices("run", "run", this.runs.map((r, n) => [n, r.uri]), "radio"));
    fields.push(
      field("text", "name or error contains", { type: "search", name: "text" }),
      this.choices("status", "status", Object.entries(about.statuses).filter(([, n]) => n > 0)),
      this.choices("category", "class", Object.entries(about.classes).slice(0, MOST_CLASSES)),
      pair("score", "score", { min: 0, max: 1, step: 0.01 }),
      pair("count", "instances", { min: 0, step: 1 }),
      sorting(),
      make("button", { type: "reset", textContent: "clear" }),
    );
    this.form.replaceChildren(...fields);
    let waiting;
    const later = () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.refresh(0), 200);
    };
    this.form.oninput = (event) => {
      if (event.target.name === "run") this.choose(Number(event.target.value));
      else later();
    };
    this.form.onreset = later;
    this.form.onfocusout = () => setTimeout(() => this.tell());
    this.form.onsubmit = (event) => event.preventDefault();
  }

  /** What is known of the runs has changed: offer what there is to choose, with what is chosen. */
  tell() {
    if (choicesOf(this.runs[this.run]) === this.built || this.form.contains(document.activeElement)) return;
    const said = new FormData(this.form);
    this.build();
    for (const input of this.form.elements) {
      if (!input.name) continue;
      if (input.type === "checkbox" || input.type === "radio") input.checked = said.getAll(input.name).includes(input.value);
      else input.value = said.get(input.name) ?? "";
    }
  }

  choose(run) {
    this.run = run;
    this.build();
    this.form.querySelectorAll("input[name=run]")[run].checked = true;
    this.refresh(0);
  }

  choices(name, title, entries, type = "checkbox") {
    const boxes = entries.map(([value, said], at) => {
      const input = make("input", { type, name, value, checked: type === "radio" && at === this.run });
      const swatch = make("span", { className: "swatch", "aria-hidden": "true" });
      if (name === "category") {
        swatch.style.background = classColour(this.runs[this.run].categories.indexOf(value));
      }
      const words = type === "radio" ? said : `${value} `;
      const amount = type === "radio" ? "" : make("span", { className: "amount" }, number(said));
      return make("label", {}, input, ...(name === "category" ? [swatch] : []), words, amount);
    });
    return make("fieldset", {}, make("legend", { textContent: title }), ...boxes);
  }

  /** Ask for a page and show it; again while the index is being filled. */
  async refresh(page = this.page) {
    this.page = page;
    clearTimeout(this.again);
    const asked = (this.asked = Symbol("request"));
    const run = this.run;
    try {
      const found = await ask(`/api/runs/${run}/images`, this.query());
      if (asked !== this.asked) return;
      this.found = found;
      this.show();
      if (!found.whole && !this.runs[run].error) this.again = setTimeout(() => this.refresh(), 1000);
    } catch (error) {
      if (asked === this.asked) this.count.textContent = error.message;
    }
  }

  show() {
    const { total, images, whole, indexed, shards } = this.found;
    const reading = whole ? "" : ` so far: ${Math.floor((100 * indexed) / shards)} % of the run is read`;
    this.count.textContent = `${number(total)} ${total === 1 ? "image" : "images"}${reading}`;
    const cards = JSON.stringify([this.run, images]);
    if (cards !== this.cards) this.list.replaceChildren(...images.map((row) => this.card(row)));
    this.cards = cards;
    this.showPager(Math.max(1, Math.ceil(total / SIZE)));
    this.element.dispatchEvent(new Event("page"));
  }

  card(row) {
    const decoded = DECODED.has(row.status);
    const href = `#/image/${this.run}/${row.no}`;
    const face = decoded
      ? make("img", { src: `/api/runs/${this.run}/images/${row.no}/thumbnail`, alt: "", loading: "lazy" })
      : make("span", { className: "absent" }, row.error ?? row.status);
    if (decoded) {
      face.addEventListener("error", () => this.explain(face, row), { once: true });
    }
    const best = row.best === null ? "" : ` · best ${score(row.best)}`;
    const said = row.status === "ok" ? `${number(row.hits)} found${best}` : row.status;
    return make(
      "li",
      {},
      make(
        "a",
        { href, className: "card" },
        make("span", { className: "face" }, face),
        make("span", { className: "name" }, row.image_id),
        make("span", { className: `said ${row.status}` }, said),
      ),
    );
  }

  /** Why there is no picture. */
  async explain(face, row) {
    const path = `/api/runs/${this.run}/images/${row.no}/thumbnail`;
    const words = await ask(path).then(() => "", (error) => error.message);
    face.replaceWith(make("span", { className: "absent" }, words || "no picture"));
  }

  showPager(pages) {
    const go = (page, words) =>
      make("button", {
        type: "button",
        textContent: words,
        disabled: page < 0 || page >= pages || page === this.page,
        onclick: () => this.refresh(page).then(() => scrollTo({ top: 0 })),
      });
    this.pager.replaceChildren(
      go(0, "first"),
      go(this.page - 1, "previous"),
      make("span", {}, `page ${number(this.page + 1)} of ${number(pages)}`),
      go(this.page + 1, "next"),
      go(pages - 1, "last"),
    );
  }

  /** The image before (-1) or after (1) one, in the filter's order; undefined at the ends. */
  async beside(no, step) {
    const images = this.found.images;
    const at = images.findIndex((row) => row.no === no);
    if (at < 0) return images[0]?.no;
    if (images[at + step]) return images[at + step].no;
    const page = this.page + step;
    if (page < 0 || page * SIZE >= this.found.total) return undefined;
    await this.refresh(page);
    return this.found.images.at(step > 0 ? 0 : -1)?.no;
  }
}

/** What the form's choices are made of. */
function choicesOf(about) {
  return JSON.stringify([about.statuses, about.classes, about.categories]);
}

function field(id, title, properties) {
  return make("p", {}, make("label", { for: id }, title), make("input", { id, ...properties }));
}

function pair(name, title, properties) {
  const input = (end, words) =>
    make("input", { type: "number", name: `${name}_${end}`, placeholder: words, "aria-label": `${title}, ${words}`, ...properties });
  return make("fieldset", { className: "pair" }, make("legend", {}, title), input("min", "least"), input("max", "most"));
}

function sorting() {
  const select = make("select", { id: "sort", name: "sort" });
  select.append(...Object.entries(SORTS).map(([value, words]) => make("option", { value }, words)));
  const falling = make("label", {}, make("input", { type: "checkbox", name: "falling" }), "largest first");
  return make("p", {}, make("label", { for: "sort" }, "sort by"), select, falling);
}
