// The gateway's API, below whatever prefix this page was served from. The key stays in this tab.

const KEY = "drafthouse-api-key";
const BASE = new URL(".", document.baseURI);

export class ApiError extends Error {
  constructor(message, status = 0, param = null) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  let answer;
  try {
    answer = await fetch(new URL(path, BASE), { ...options, headers, credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(`the gateway does not answer: ${error.message}`);
  }
  if (!answer.ok) throw await fault(answer);
  return answer;
}

async function fault(answer) {
  try {
    const { error } = await answer.json();
    return new ApiError(error.message, answer.status, error.param);
  } catch {
    return new ApiError(`the gateway answered with status ${answer.status}`, answer.status);
  }
}

export async function get(path) {
  return (await ask(path)).json();
}

// `body` is JSON as text: a seed has more digits than a number here can hold.
export async function start(path, body, signal) {
  const answer = await ask(path, { method: "POST", body, signal, headers: { "content-type": "application/json" } });
  return { seed: answer.headers.get("x-drafthouse-seed"), events: events(answer.body) };
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        if (!part.startsWith("data: ")) continue; // a comment: the stream waits
        if (part === "data: [DONE]") return;
        const event = JSON.parse(part.slice("data: ".length));
        if (event.error) throw new ApiError(event.error.message, 0, event.error.param);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
