// Pools and their replicas, and which drafters work for which verifiers.

import { cut, h, number, plural, svg } from "./dom.js";

const NAMES = { verifier: "Verifiers", drafter: "Drafters", gateway: "Gateways" };
const LOADS = { verifier: "Requests", drafter: "Sessions", gateway: "Requests" };

export function poolTable(role, cluster) {
  const replicas = cluster.pools[role] ?? [], size = cluster.sizes?.[role];
  const withKv = role !== "gateway";
  const heads = ["Replica", LOADS[role], withKv ? "KV slots" : "Set aside", role === "drafter" ? "A pass" : role === "verifier" ? "Goodput" : "Loop lag", "Up"];
  const said = size ? `${size.actual} of ${size.desired} · ${size.reason}` : plural(replicas.length, "replica");
  return h("section", { class: "panel", "aria-label": NAMES[role] },
    h("div", { class: "split" }, h("h2", {}, NAMES[role]), h("p", { class: "muted" }, said)),
    replicas.length
      ? h("div", { class: "scrolls", tabindex: "0", role: "group", "aria-label": `${NAMES[role]}, table` }, h("table", { class: "pool" },
        h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
        h("tbody", {}, replicas.map((replica) => row(role, replica)))))
      : h("p", { class: "muted" }, "none"));
}

function row(role, replica) {
  const { gauges } = replica;
  const last = { verifier: `${number(gauges.goodput, 0)} tokens/s`, drafter: `${number(gauges.pass_ms, 1)} ms`, gateway: `${number(1000 * (gauges.loop_lag_s ?? 0), 1)} ms` }[role];
  const aside = Object.keys(replica.set_aside ?? {}).length;
  return h("tr", {},
    h("th", { scope: "row" }, h("span", { class: "name" }, replica.replica), replica.draining ? h("span", { class: "badge" }, "drains") : null,
      h("span", { class: "muted block" }, [replica.forward, replica.address].filter(Boolean).join(" · "))),
    h("td", {}, meter(replica.load, replica.capacity)),
    h("td", {}, role === "gateway" ? (aside ? plural(aside, "verifier") : "none") : meter(gauges.kv_slots_used, gauges.kv_slots, gauges.kv_slots_cached)),
    h("td", { class: "number" }, last), h("td", { class: "number" }, since(replica.started)));
}

// `more`: what is in use only for as long as no one needs it.
function meter(used = 0, all = 0, more = 0) {
  const share = (value) => `${all ? Math.min(100, (100 * value) / all) : 0}%`;
  return h("div", { class: "meter" }, h("span", { class: "meter-text" }, `${number(used, 0)} of ${number(all, 0)}`, more ? h("span", { class: "muted" }, `, ${number(more, 0)} cached`) : null),
    h("span", { class: "track", "aria-hidden": "true", style: { "--used": share(used), "--more": share(used + more) } }));
}

function since(started) {
  const seconds = Math.max(0, Date.now() / 1000 - started);
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 129600 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

// Verifiers on the left, drafters on the right, a line for each pair: thicker for a drafter that is trusted more.
export function links(cluster) {
  const verifiers = cluster.pools.verifier ?? [], drafters = cluster.pools.drafter ?? [];
  if (!drafters.length) return h("p", { class: "muted" }, "There are no drafters: stages in the verifiers draft alone.");
  const high = 46, wide = 150, gap = 130, rows = Math.max(verifiers.length, drafters.length);
  const width = 2 * wide + gap, height = rows * high;
  const y = (list, i) => ((i + 0.5) * height) / list.length;
  const lines = [], words = [];
  for (const { verifier, drafters: paired } of cluster.pairs ?? []) {
    const from = verifiers.findIndex((each) => each.replica === verifier);
    for (const name of paired) {
      const to = drafters.findIndex((each) => each.replica === name);
      if (from < 0 || to < 0) continue;
      const { gauges } = verifiers[from];
      const trust = gauges[`trust.${name}`] ?? 1, banned = gauges[`banned.${name}`] > 0, seconds = gauges[`round_trip_seconds.${name}`];
      const [a, b] = [y(verifiers, from), y(drafters, to)];
      lines.push(svg("path", { class: `link${banned ? " banned" : ""}`, "stroke-width": (1 + 3 * Math.min(1, trust)).toFixed(1), d: `M${wide} ${a}C${wide + gap / 2} ${a} ${wide + gap / 2} ${b} ${wide + gap} ${b}` }));
      const trip = seconds === undefined ? "" : `, ${number(1000 * seconds, 1)} ms`;
      words.push(h("li", {}, `${name} drafts for ${verifier}: ${number(100 * trust, 0)} % of its promises came true${trip}${banned ? "; left alone for a while" : ""}`));
    }
  }
  const box = (replica, x, at) => svg("g", { transform: `translate(${x} ${at - 16})` }, svg("rect", { class: "link-box", width: wide, height: 32, rx: 7 }),
    svg("text", { class: "link-name", x: 12, y: 21 }, cut(replica.replica, 14)), svg("text", { class: "link-load", x: wide - 12, y: 21, "text-anchor": "end" }, String(replica.load)));
  const drawing = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...lines,
    ...verifiers.map((replica, i) => box(replica, 0, y(verifiers, i))), ...drafters.map((replica, i) => box(replica, wide + gap, y(drafters, i))));
  return h("div", {}, drawing, h("ul", { class: "plain muted" }, words));
}
