// The fields of a request: what there is, how it is asked for, and how a form's answers become a body. Names are the API's own.

export class FieldError extends Error {
  constructor(message, param) {
    super(message);
    this.param = param;
  }
}

const number = (name, hint, more = {}) => ({ name, hint, kind: "number", ...more });
const tick = (name, hint) => ({ name, hint, kind: "tick" });

export const GROUPS = [
  { title: "Length and end", open: true, fields: [
    number("max_tokens", "most tokens of the answer", { initial: "160" }),
    number("min_tokens", "fewest"),
    { name: "stop", kind: "lines", hint: "stop strings, one a line" },
    { name: "stop_token_ids", kind: "numbers", hint: "token ids, with commas" },
    tick("include_stop_str_in_output", "keep the stop string"),
    tick("ignore_eos", "go on past the end of text"),
  ] },
  { title: "Sampling", open: true, fields: [
    number("temperature", "0 is greedy"),
    number("top_p", "nucleus"),
    number("top_k", "0: all"),
    number("min_p", "share of the best"),
    { name: "seed", kind: "digits", hint: "drawn if empty" },
  ] },
  { title: "Speculation", open: true, fields: [
    { name: "speculation.mode", kind: "choice", hint: "how drafts are used", options: ["auto", "fixed", "table", "off"] },
    number("speculation.nodes", "fixed: nodes of a tree"),
    number("speculation.depth", "fixed: its depth"),
    number("speculation.width", "fixed: children, 0: free"),
    { name: "prediction", kind: "text", hint: "expected text", chat: true },
  ] },
  { title: "Penalties and bias", fields: [
    number("repetition_penalty", "1: none"),
    number("presence_penalty", "0: none"),
    number("frequency_penalty", "0: none"),
    { name: "logit_bias", kind: "json", hint: 'such as {"199": -5}' },
    { name: "allowed_token_ids", kind: "numbers", hint: "token ids, with commas" },
    { name: "bad_words", kind: "lines", hint: "one a line" },
  ] },
  { title: "Form of the output", fields: [
    { name: "structured_outputs.json", kind: "json", hint: "a JSON schema" },
    { name: "structured_outputs.regex", kind: "text", hint: "a regular expression" },
    { name: "structured_outputs.choice", kind: "lines", hint: "one of these lines" },
    { name: "structured_outputs.grammar", kind: "text", hint: "Lark" },
    tick("structured_outputs.json_object", "any JSON object"),
  ] },
  { title: "Logprobs", fields: [
    { name: "alternatives", kind: "choice", hint: "beside each token", options: ["none", "1", "2", "3", "5", "10", "20"], initial: "5" },
    { name: "logprobs_mode", kind: "choice", hint: "before or after sampling", options: ["", "raw_logprobs", "processed_logprobs"] },
  ] },
  { title: "Any other field", fields: [
    { name: "further", kind: "json", hint: "JSON of further fields, laid over the others" },
  ] },
];

// `values` are strings and booleans by name, as the form has them. Raises FieldError.
export function bodyOf(values, chat) {
  const body = {};
  for (const field of GROUPS.flatMap((group) => group.fields)) {
    if (field.chat && !chat) continue;
    const value = read(field, values[field.name]);
    if (value === undefined || field.name === "further" || field.name === "alternatives") continue;
    put(body, field.name, field.name === "prediction" ? { type: "content", content: value } : value);
  }
  if (body.speculation && !["fixed"].includes(body.speculation.mode)) body.speculation = { mode: body.speculation.mode ?? "auto" };
  Object.assign(body, asked(values.alternatives, chat), prompt(values, chat));
  body.stream = true;
  body.stream_options = { include_usage: true, include_trace: true };
  return { ...body, ...(read({ name: "further", kind: "json" }, values.further) ?? {}) };
}

function prompt(values, chat) {
  if (!chat) return { prompt: values.prompt };
  const system = values.system.trim() ? [{ role: "system", content: values.system }] : [];
  return { messages: [...system, { role: "user", content: values.prompt }] };
}

function asked(count, chat) {
  if (!count || count === "none") return {};
  return chat ? { logprobs: true, top_logprobs: Number(count) } : { logprobs: Number(count) };
}

function read(field, value) {
  if (value === undefined || value === "" || value === false) return undefined;
  switch (field.kind) {
    case "number": return finite(value, field.name);
    case "numbers": return value.split(/[\s,]+/).filter(Boolean).map((each) => finite(each, field.name));
    case "digits":
      if (!/^-?\d+$/.test(value.trim())) throw new FieldError(`${field.name} must be a whole number`, field.name);
      return value.trim();
    case "lines": return value.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n"));
    case "json": return parsed(value, field.name);
    default: return value;
  }
}

function finite(value, name) {
  const found = Number(value);
  if (!Number.isFinite(found)) throw new FieldError(`${name} must be a number, not ${value}`, name);
  return found;
}

function parsed(value, name) {
  try {
    return JSON.parse(value);
  } catch (error) {
    throw new FieldError(`${name} is no JSON: ${error.message}`, name);
  }
}

function put(body, path, value) {
  const [first, second] = path.split(".");
  if (second) body[first] = { ...body[first], [second]: value };
  else body[first] = value;
}
