// The console: three views, one at a time, and the API key.

import { get, key } from "./api.js";
import { ClusterView } from "./cluster.js";
import { Playground } from "./playground.js";
import { TreeView } from "./tree_view.js";

const VIEWS = ["playground", "tree", "cluster"];

class Console {
  constructor() {
    this.model = "";
    this.cluster = new ClusterView();
    this.tree = new TreeView();
    this.playground = new Playground(() => this.model, {
      open: (run, step) => { this.tree.show(run, step); location.hash = "tree"; },
      onRun: (run) => this.tree.show(run),
      onStep: (run, step) => this.tree.show(run, step),
      onError: (error) => { if (error.status === 401) this.#askKey(error.message); },
    });
    for (const name of VIEWS) document.getElementById(`view-${name}`).append(this[name].element);
    this.dialog = document.getElementById("key-dialog");
    this.dialog.addEventListener("close", () => this.#takeKey());
    for (const button of this.dialog.querySelectorAll("button[type=button]")) button.addEventListener("click", () => this.dialog.close(button.value));
    document.getElementById("key-button").addEventListener("click", () => this.#askKey());
    addEventListener("hashchange", () => this.#show());
    document.addEventListener("visibilitychange", () => this.#watch());
    this.#show();
    this.#loadModel();
  }

  get view() {
    const named = location.hash.slice(1);
    return VIEWS.includes(named) ? named : VIEWS[0];
  }

  #show() {
    for (const name of VIEWS) document.getElementById(`view-${name}`).hidden = name !== this.view;
    for (const link of document.querySelectorAll(".tabs a")) {
      if (link.hash === `#${this.view}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (this.view === "tree") this.tree.update(true);
    this.#watch();
  }

  #watch() {
    this.cluster.setSeen(this.view === "cluster" && document.visibilityState === "visible");
  }

  async #loadModel() {
    try {
      const { data: [card] } = await get("v1/models");
      this.model = card.id;
      document.getElementById("model").textContent = `${card.id} · ${card.max_model_len.toLocaleString("en")} tokens`;
      this.playground.form.setDefaults(card.sampling_defaults);
    } catch (error) {
      if (error.status === 401) this.#askKey(error.message);
      else this.playground.form.showError(error);
    }
  }

  #askKey(why = "") {
    const said = document.getElementById("key-why");
    said.dataset.usual ??= said.textContent;
    said.textContent = why ? `${why}. ${said.dataset.usual}` : said.dataset.usual;
    document.getElementById("key-input").value = key.get();
    this.dialog.returnValue = "";
    if (!this.dialog.open) this.dialog.showModal();
  }

  #takeKey() {
    const choice = this.dialog.returnValue;
    if (choice === "use") key.set(document.getElementById("key-input").value.trim());
    if (choice === "forget") key.set("");
    if (choice === "use") this.#loadModel();
  }
}

new Console();
