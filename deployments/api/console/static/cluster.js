// The cluster as it is: figures over time, pools, who drafts for whom, events. It asks only while it is seen.

import { get } from "./api.js";
import { h, number } from "./dom.js";
import { History } from "./history.js";
import { links, poolTable } from "./pools.js";
import { tile } from "./sparkline.js";

const POLL_MS = 2000;

export class ClusterView {
  constructor() {
    this.history = new History();
    this.timer = null;
    this.error = h("p", { class: "error", role: "alert", hidden: true });
    this.tiles = h("div", { class: "tiles" });
    this.links = h("div", { class: "links scrolls", tabindex: "0", role: "group", "aria-label": "Who drafts for whom" });
    this.pools = h("div", { class: "stack large" });
    this.events = h("ol", { class: "events" });
    this.element = h("div", { class: "cluster" }, this.error, this.tiles,
      h("div", { class: "cluster-columns" }, this.pools,
        h("div", { class: "stack large" },
          h("section", { class: "panel", "aria-label": "Drafting" }, h("h2", {}, "Who drafts for whom"), this.links),
          h("section", { class: "panel", "aria-label": "Events" }, h("h2", {}, "Events"),
            h("div", { class: "events-box", role: "log", tabindex: "0", "aria-label": "What happened" }, this.events)))));
  }

  // `seen`: this view is chosen and the page is visible.
  setSeen(seen) {
    if (seen && this.timer === null) this.#ask();
    if (!seen && this.timer !== null) {
      clearTimeout(this.timer);
      this.timer = null;
    }
  }

  async #ask() {
    const mine = this.timer = setTimeout(() => {}, 0);
    try {
      this.#take(await get("v1/cluster"));
      this.error.hidden = true;
    } catch (fault) {
      this.error.textContent = fault.message;
      this.error.hidden = false;
    }
    if (this.timer === mine) this.timer = setTimeout(() => this.#ask(), POLL_MS);
  }

  #take(cluster) {
    this.history.add(cluster, new Date());
    const g = cluster.goodput;
    const series = (name) => this.history.series(name);
    const latest = (name) => series(name).findLast((value) => value !== null && value !== undefined) ?? null;
    const share = (value) => (value === null ? "–" : `${number(100 * value, 0)} %`);
    this.tiles.replaceChildren(
      tile("Goodput", number(g.committed_per_s, 0), "tokens/s", series("goodput"), worth(g)),
      tile("Accepted a step", number(latest("accepted"), 2), "drafted tokens", series("accepted"), `${number(latest("verified"), 1)} verified a step`),
      tile("Price of a node", number(g.price_median, 3), "tokens", series("price"), `floor ${number(g.price_floor, 3)}`),
      tile("Verifiers busy", share(g.verifier_utilisation), "", series("verifiers"), `${g.queue} waiting`),
      tile("Drafters busy", share(g.drafter_utilisation), "", series("drafters"), `${cluster.sessions} sessions`),
      tile("KV in use", share(latest("kv")), "of verifiers", series("kv"), `prefix hits ${share(latest("hits"))} of prompt tokens`));
    this.links.replaceChildren(links(cluster));
    this.pools.replaceChildren(...["verifier", "drafter", "gateway"].map((role) => poolTable(role, cluster)));
    this.#tellEvents();
  }

  #tellEvents() {
    const { events } = this.history;
    if (!events.length) this.events.replaceChildren(h("li", { class: "muted" }, "Nothing has happened since this page was opened."));
    else this.events.replaceChildren(...events.map(({ at, text }) => h("li", {}, h("time", { class: "muted", datetime: at.toISOString() }, at.toLocaleTimeString("en-GB")), h("span", {}, text))));
  }
}

function worth(g) {
  const said = (value) => (value === null ? "?" : `+${number(value, 0)}`);
  return `one more verifier ${said(g.one_more_verifier_per_s)}, drafter ${said(g.one_more_drafter_per_s ?? g.first_drafter_per_s)}`;
}
