// What scenarios in JavaScript share.
export const URL_ = process.env.CLIENTS_URL;
export const MODEL = process.env.CLIENTS_MODEL;
export const KEY = process.env.DRAFTHOUSE_API_KEY ?? "none";
export const QUESTION = "What is the weather in Bern?";

export async function feature(name, work, tools = false) {
  if (tools && !process.env.CLIENTS_TOOLS) return;
  let ok = true, note = "";
  try {
    note = (await work()) ?? "";
  } catch (error) {
    ok = false;
    note = `${error?.name}: ${String(error?.message).replace(/\s+/g, " ").slice(0, 300)}`;
  }
  console.log("feature: " + JSON.stringify({ feature: name, ok, note }));
}

export function check(good, what = "") {
  if (!good) throw new Error(`not as expected: ${JSON.stringify(what)?.slice(0, 200)}`);
}
