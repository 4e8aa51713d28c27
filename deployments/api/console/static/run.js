// One generation as it comes: its tokens, each with its source and step, and its steps.

import { start } from "./api.js";

export class Run extends EventTarget {
  constructor(chat, fields, label = "") {
    super();
    Object.assign(this, { chat, fields, label, tokens: [], steps: [], text: "", reasoning: "", usage: null, seed: "", id: "" });
    Object.assign(this, { state: "waiting", error: null, began: 0, first: 0, last: 0, finish: "" });
    this.abort = new AbortController();
  }

  // Resolves when it is over, however it ended.
  async go() {
    this.began = performance.now();
    this.state = "running";
    this.#changed();
    try {
      const path = this.chat ? "v1/chat/completions" : "v1/completions";
      const { seed, events } = await start(path, bodyText(this.fields), this.abort.signal);
      this.seed = seed ?? "";
      for await (const event of events) this.#take(event);
      this.state = "done";
    } catch (error) {
      this.state = error.name === "AbortError" ? "stopped" : "failed";
      this.error = this.state === "failed" ? error : null;
    }
    this.#changed();
  }

  stop() {
    this.abort.abort();
  }

  // Between the first and the last tokens: neither the queue nor the prompt.
  get tokensPerSecond() {
    const seconds = (this.last - this.first) / 1000;
    return seconds > 0 && this.steps.length > 1 ? (this.tokens.length - this.steps[0].tokens.length) / seconds : null;
  }

  get accepted() {
    return this.tokens.filter((token) => token.source !== "target").length;
  }

  #take(event) {
    this.id = event.id ?? this.id;
    if (event.usage) this.usage = event.usage;
    for (const choice of event.choices) {
      if (choice.index !== 0) continue;
      this.text += choice.text ?? choice.delta?.content ?? "";
      this.reasoning += choice.delta?.reasoning_content ?? "";
      this.finish = choice.finish_reason ?? this.finish;
      const scored = logprobs(choice.logprobs);
      for (const step of choice.trace ?? []) this.#step(step, scored);
    }
    this.#changed();
  }

  #step(step, scored) {
    const at = this.steps.push(step) - 1;
    this.last = performance.now();
    this.first ||= this.last;
    step.tokens.forEach((token, index) => {
      const score = scored.shift() ?? {};
      this.tokens.push({ ...token, ...score, step: at, depth: index + 1, drafted: index < step.accepted.length });
    });
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

// Steps of a request that ran elsewhere: the answer of /v1/requests/ID/trace.
export function runOfTrace(trace) {
  const run = new Run(false, {}, trace.id);
  run.state = "done";
  run.id = trace.id;
  for (const step of trace.choices[0]?.steps ?? []) {
    const at = run.steps.push(step) - 1;
    step.tokens.forEach((token, index) => run.tokens.push({ ...token, step: at, depth: index + 1, drafted: index < step.accepted.length }));
  }
  return run;
}

function logprobs(said) {
  if (!said) return [];
  if (said.content) {
    return said.content.map((each) => ({ logprob: each.logprob, top: each.top_logprobs.map((top) => [top.token, top.logprob]) }));
  }
  return said.token_logprobs.map((logprob, i) => ({ logprob, top: Object.entries(said.top_logprobs?.[i] ?? {}) }));
}

// A seed is written as it was typed: it may have more digits than a number holds.
function bodyText(fields) {
  const { seed, ...rest } = fields;
  const text = JSON.stringify(rest);
  return seed === undefined ? text : `${text.slice(0, -1)},"seed":${seed}}`;
}
