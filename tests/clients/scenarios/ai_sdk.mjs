import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { KEY, MODEL, QUESTION, URL_, check, feature } from "./features.mjs";

const openai = createOpenAI({ baseURL: `${URL_}/v1`, apiKey: KEY });
const compatible = createOpenAICompatible({ name: "drafthouse", baseURL: `${URL_}/v1`, apiKey: KEY, includeUsage: true, supportsStructuredOutputs: true });
const common = { prompt: QUESTION, maxOutputTokens: 64, maxRetries: 0 };
const models = { "default model, /v1/responses": openai(MODEL), "chat model": openai.chat(MODEL), "openai-compatible": compatible(MODEL) };
const city = z.object({ name: z.string().max(8), people: z.number().int().min(0).max(9999) });
const weather = tool({
  description: "The weather in a city",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `fine in ${city}`,
});

for (const [name, model] of Object.entries(models)) {
  await feature(`${name}: generateText`, async () => {
    const found = await generateText({ ...common, model });
    check(found.text && found.usage.outputTokens, found.usage);
  });
  await feature(`${name}: streamText`, async () => {
    const found = streamText({ ...common, model, onError: () => {} });
    let text = "";
    for await (const piece of found.textStream) text += piece;
    check(text && (await found.usage).outputTokens, text);
  });
  await feature(`${name}: an object by its schema`, async () => {
    const found = await generateText({ ...common, maxOutputTokens: 256, model, output: Output.object({ schema: city }) });
    check(typeof found.output.name === "string", found.text);
  });
  await feature(`${name}: tools in steps`, async () => {
    const found = await generateText({ ...common, maxOutputTokens: 512, model, tools: { weather }, stopWhen: stepCountIs(3) });
    check(found.steps.length === 2 && found.steps[0].toolCalls[0].toolName === "weather" && found.text, found.steps.length);
  }, true);
}
