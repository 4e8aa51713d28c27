// The form of a request. It keeps its values itself; `values()` reads them.

import { h } from "./dom.js";
import { GROUPS } from "./fields.js";

const SAMPLES = { chat: "Write a short function that sorts a list of numbers, and say how it works.", completion: "def quicksort(items):\n" };

export class RequestForm {
  constructor({ run, compare, stop }) {
    this.inputs = new Map();
    this.prompt = h("textarea", { id: "field-prompt", rows: 6, spellcheck: "false" });
    this.system = h("textarea", { id: "field-system", rows: 2, placeholder: "none" });
    this.systemRow = h("div", { class: "stack" }, h("label", { for: "field-system" }, "System"), this.system);
    this.promptLabel = h("label", { for: "field-prompt" }, "Message");
    this.error = h("p", { class: "error", role: "alert", hidden: true });
    this.runButton = h("button", { type: "submit", class: "primary" }, "Generate");
    this.compareButton = h("button", { type: "button", on: { click: compare } }, "Compare on and off");
    this.stopButton = h("button", { type: "button", hidden: true, on: { click: stop } }, "Stop");
    this.element = h("form", { class: "panel request", "aria-label": "Request", novalidate: true, on: {
      submit: (event) => { event.preventDefault(); run(); },
      keydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); } },
    } },
      this.#modes(), this.systemRow,
      h("div", { class: "stack" }, this.promptLabel, this.prompt),
      h("div", { class: "actions" }, this.runButton, this.stopButton, this.compareButton),
      this.error,
      h("div", { class: "groups" }, GROUPS.map((group) => this.#group(group))));
    this.setChat(true);
  }

  get chat() {
    return this.element.elements.mode.value === "chat";
  }

  values() {
    const found = { prompt: this.prompt.value, system: this.system.value };
    for (const [name, input] of this.inputs) found[name] = input.type === "checkbox" ? input.checked : input.value;
    return found;
  }

  setChat(chat) {
    for (const radio of this.element.querySelectorAll("input[name=mode]")) radio.checked = (radio.value === "chat") === chat;
    this.systemRow.hidden = !chat;
    this.promptLabel.textContent = chat ? "Message" : "Prompt";
    const samples = Object.values(SAMPLES);
    if (!this.prompt.value || samples.includes(this.prompt.value)) this.prompt.value = chat ? SAMPLES.chat : SAMPLES.completion;
    for (const row of this.element.querySelectorAll("[data-chat-only]")) row.hidden = !chat;
  }

  // What a request leaves open: shown where nothing is typed.
  setDefaults(defaults) {
    for (const [name, value] of Object.entries(defaults)) {
      const input = this.inputs.get(name);
      if (input) input.placeholder = String(value);
    }
  }

  setRunning(running) {
    this.runButton.hidden = this.compareButton.hidden = running;
    this.stopButton.hidden = !running;
  }

  // The API's words, and the field that they name.
  showError(error) {
    for (const input of this.inputs.values()) input.removeAttribute("aria-invalid");
    this.error.hidden = !error;
    this.error.textContent = error?.message ?? "";
    const param = error?.param ?? "";
    const input = this.inputs.get(param) ?? this.inputs.get(param.split(".").slice(0, 2).join(".")) ?? this.inputs.get(ALIASES[param]);
    if (!input) return;
    input.setAttribute("aria-invalid", "true");
    input.closest("details").open = true;
    input.focus();
  }

  #modes() {
    const mode = (value, label) => {
      const input = h("input", { type: "radio", name: "mode", value, id: `mode-${value}`, on: { change: () => this.setChat(this.chat) } });
      return [input, h("label", { for: `mode-${value}` }, label)];
    };
    return h("fieldset", { class: "segmented" }, h("legend", { class: "unseen" }, "Kind of request"), mode("chat", "Chat"), mode("completion", "Completion"));
  }

  #group(group) {
    const count = h("span", { class: "count" });
    const rows = group.fields.map((field) => this.#row(field, group));
    const tell = () => {
      const set = group.fields.filter((field) => {
        const input = this.inputs.get(field.name);
        return input.type === "checkbox" ? input.checked : input.value !== (field.kind === "choice" ? field.options[0] : "");
      }).length;
      count.textContent = set ? `${set} set` : "";
    };
    const details = h("details", { open: group.open, on: { input: tell } }, h("summary", {}, h("span", {}, group.title), count), h("div", { class: "rows" }, rows));
    tell();
    return details;
  }

  #row(field) {
    const id = `field-${field.name.replace(".", "-")}`;
    const input = makeInput(field, id);
    this.inputs.set(field.name, input);
    const [section, name] = field.name.includes(".") ? field.name.split(".") : ["", field.name];
    const long = ["lines", "json", "text"].includes(field.kind);
    return h("div", { class: `field ${field.kind === "tick" ? "tick" : long ? "long" : ""}`, data: field.chat ? { chatOnly: "" } : {} },
      h("label", { for: id, title: field.name }, section && section !== "structured_outputs" ? name : name),
      h("span", { class: "hint", id: `${id}-hint` }, field.hint), input);
  }
}

const ALIASES = { top_logprobs: "alternatives", logprobs: "alternatives", "prediction.content": "prediction", response_format: "further" };

function makeInput(field, id) {
  const common = { id, "aria-describedby": `${id}-hint` };
  if (field.kind === "tick") return h("input", { ...common, type: "checkbox" });
  if (field.kind === "choice") {
    const options = field.options.map((option) => h("option", { value: option, selected: option === field.initial }, option || "default"));
    return h("select", common, options);
  }
  if (["lines", "json", "text"].includes(field.kind)) return h("textarea", { ...common, rows: 2, spellcheck: "false" });
  return h("input", { ...common, type: "text", inputmode: field.kind === "number" ? "decimal" : "text", autocomplete: "off", value: field.initial ?? "" });
}
