// What the cluster's answers say over time: figures for the sparklines, and events from differences between two answers.

const KEPT = 300;
const EVENTS = 100;

export class History {
  constructor() {
    Object.assign(this, { samples: [], events: [], former: null });
  }

  add(cluster, at) {
    this.samples.push({ at, ...figures(cluster, this.former) });
    if (this.samples.length > KEPT) this.samples.shift();
    if (this.former) this.events.unshift(...changes(this.former, cluster).map((text) => ({ at, text })));
    this.events.length = Math.min(this.events.length, EVENTS);
    this.former = cluster;
  }

  series(name) {
    return this.samples.map((sample) => sample[name]);
  }
}

function figures(now, former) {
  const verifiers = now.pools.verifier;
  const sum = (name) => verifiers.reduce((total, replica) => total + (replica.gauges[name] ?? 0), 0);
  const delta = (name) => Math.max(0, (now.totals.verifier[name] ?? 0) - (former?.totals.verifier[name] ?? now.totals.verifier[name] ?? 0));
  const steps = delta("steps"), prompt = delta("prompt_tokens") + delta("cached_tokens");
  return {
    goodput: now.goodput.committed_per_s, price: now.goodput.price_median, queue: now.goodput.queue, sessions: now.sessions,
    accepted: steps ? delta("accepted") / steps : null, verified: steps ? delta("verified") / steps : null,
    verifiers: now.goodput.verifier_utilisation, drafters: now.goodput.drafter_utilisation,
    kv: sum("kv_slots") ? sum("kv_slots_used") / sum("kv_slots") : null, hits: prompt ? delta("cached_tokens") / prompt : null,
  };
}

// What happened between two answers, in words.
export function changes(former, now) {
  const found = [];
  for (const [role, replicas] of Object.entries(now.pools)) {
    const before = new Map((former.pools[role] ?? []).map((replica) => [replica.replica, replica]));
    for (const replica of replicas) {
      const was = before.get(replica.replica);
      before.delete(replica.replica);
      if (!was) found.push(`${replica.replica} joined the ${role} pool`);
      else found.push(...changed(was, replica));
    }
    for (const name of before.keys()) found.push(`${name} left the ${role} pool`);
  }
  const more = (role, name, one, many) => {
    const count = (now.totals[role]?.[name] ?? 0) - (former.totals[role]?.[name] ?? 0);
    if (count > 0) found.push(`${count} ${count === 1 ? one : many}`);
  };
  more("gateway", "failovers", "request went on at another verifier after a failure", "requests went on at other verifiers after a failure");
  for (const why of ["drain", "room", "spread"]) more("gateway", `moves.${why}`, `request moved to another verifier (${why})`, `requests moved to other verifiers (${why})`);
  more("gateway", "outcome.failed", "request failed", "requests failed");
  more("gateway", "outcome.refused", "request was refused: no room", "requests were refused: no room");
  more("verifier", "sessions.lost", "draft session was lost with its drafter", "draft sessions were lost with their drafter");
  more("verifier", "preemptions", "request gave up its KV slots for a while", "requests gave up their KV slots for a while");
  return found;
}

function changed(was, now) {
  const found = [];
  if (was.pid !== now.pid) found.push(`${now.replica} started again`);
  if (!was.draining && now.draining) found.push(`${now.replica} drains`);
  for (const [verifier, why] of Object.entries(now.set_aside ?? {})) if (!was.set_aside?.[verifier]) found.push(`${now.replica} set ${verifier} aside: ${why}`);
  for (const verifier of Object.keys(was.set_aside ?? {})) if (!now.set_aside?.[verifier]) found.push(`${now.replica} uses ${verifier} again`);
  for (const [name, value] of Object.entries(now.gauges)) {
    if (name.startsWith("banned.") && value && !was.gauges[name]) found.push(`${now.replica} leaves ${name.slice("banned.".length)} alone for a while`);
  }
  return found;
}
