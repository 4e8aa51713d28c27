// Where tokens come from. Each source has a colour, a letter and an underline of its own, so that none of them is needed alone.

export const SOURCES = {
  target: { label: "Target itself", letter: "T", why: "the target's own choice, not drafted" },
  model: { label: "Draft model", letter: "M", why: "drafted by the draft model" },
  trigram: { label: "Trigram", letter: "G", why: "drafted by a trigram table" },
  lookup: { label: "Lookup", letter: "L", why: "copied from the prompt or the text so far" },
  suffix: { label: "Suffix index", letter: "S", why: "found in texts that were served before" },
  prediction: { label: "Prediction", letter: "P", why: "taken from the request's prediction" },
  forced: { label: "Forced", letter: "F", why: "the grammar left no other token" },
  own: { label: "Own stage", letter: "O", why: "drafted by a stage of the configuration's own" },
  unknown: { label: "Unknown", letter: "?", why: "drafted by a source that this page does not know" },
};

export function source(name) {
  return SOURCES[name] ?? SOURCES.unknown;
}

export function sourceClass(name) {
  return `src-${name in SOURCES ? name : "unknown"}`;
}
