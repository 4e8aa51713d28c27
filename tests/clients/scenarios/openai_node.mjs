import OpenAI from "openai";
import { KEY, MODEL, QUESTION, URL_, check, feature } from "./features.mjs";

const client = new OpenAI({ baseURL: `${URL_}/v1`, apiKey: KEY, maxRetries: 0 });
const messages = [{ role: "user", content: QUESTION }];
const parameters = { type: "object", properties: { city: { type: "string" } } };
const tools = [{ type: "function", function: { name: "weather", parameters } }];

await feature("chat", async () => {
  const found = await client.chat.completions.create({ model: MODEL, max_tokens: 16, messages });
  check(found.choices[0].message.content && found.usage.completion_tokens, found);
});
await feature("completion", async () => {
  const found = await client.completions.create({ model: MODEL, max_tokens: 16, prompt: "def add(a, b):" });
  check(found.choices[0].text, found);
});
await feature("stream with usage", async () => {
  const stream = await client.chat.completions.create({ model: MODEL, max_tokens: 16, messages, stream: true, stream_options: { include_usage: true } });
  let text = "", usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  check(text && usage.completion_tokens, { text, usage });
});
await feature("abort of a stream", async () => {
  const stream = await client.chat.completions.create({ model: MODEL, max_tokens: 200, messages, stream: true });
  for await (const _ of stream) {
    stream.controller.abort();
    break;
  }
});
await feature("responses", async () => {
  const found = await client.responses.create({ model: MODEL, input: QUESTION, max_output_tokens: 16 });
  check(found.output_text, found);
});
await feature("responses, stream", async () => {
  const stream = await client.responses.create({ model: MODEL, input: QUESTION, max_output_tokens: 16, stream: true });
  const kinds = new Set();
  for await (const event of stream) kinds.add(event.type);
  check(kinds.has("response.output_text.delta") && (kinds.has("response.completed") || kinds.has("response.incomplete")), [...kinds]);
});
await feature("typed errors", async () => {
  try {
    await client.chat.completions.create({ model: "no such model", messages });
  } catch (error) {
    check(error instanceof OpenAI.NotFoundError && error.code === "model_not_found", error);
    return;
  }
  check(false, "no error");
});
await feature("tools, run by the client", async () => {
  let called = false;
  const runner = client.chat.completions.runTools({
    model: MODEL, messages,
    tools: [{ type: "function", function: { name: "weather", parameters, parse: JSON.parse, function: ({ city }) => { called = city === "Bern"; return "fine"; } } }],
  });
  const text = await runner.finalContent();
  check(called && text, { called, text });
}, true);
await feature("tools, streamed", async () => {
  const stream = client.chat.completions.stream({ model: MODEL, messages, tools });
  const found = await stream.finalChatCompletion();
  check(found.choices[0].message.tool_calls[0].function.name === "weather", found);
}, true);
