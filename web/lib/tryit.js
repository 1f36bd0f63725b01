import { address } from "./api.js";
import { element } from "./dom.js";
import { Failure } from "./failure.js";
import { label, say } from "./i18n.js";
import { guard } from "./notice.js";
import { authorization } from "./token.js";

const MAX_SHOWN = 20_000;

/** Whether a route takes and gives JSON, or takes parameters only; not uploads, streams and files. */
export function canTry({ body, operation }) {
  const answers = Object.values(operation.responses ?? {}).flatMap(({ content }) => Object.keys(content ?? {}));
  return (!body || body.type === "application/json") && answers.every((type) => type === "application/json");
}

/** A form that sends the route's request and shows the answer. */
export function tryForm(description, route) {
  const given = route.parameters.filter((one) => one.in === "path" || one.in === "query");
  const inputs = given.map((one) => parameterInput(description, one));
  const send = element("button", { class: "primary" });
  const output = element("pre", { tabindex: "0", "aria-live": "polite", hidden: true });
  const form = element("form", { class: "try" }, ...inputs, send, output);
  say(send, "docs.send");
  if (route.body) send.before(bodyInput(description, route.body));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    guard(() => attempt(route, form, output));
  });
  return form;
}

function parameterInput(description, { name, required, schema, in: place }) {
  const value = required ? (description.example(schema) ?? "") : "";
  const input = element("input", { name, value, required: Boolean(required), "data-in": place });
  return element("label", { class: "field" }, element("code", {}, name), input);
}

function bodyInput(description, { schema }) {
  const text = JSON.stringify(description.example(schema), null, 2);
  const rows = Math.min(16, text.split("\n").length + 1);
  const area = element("textarea", { name: "body", class: "mono", spellcheck: "false", rows }, text);
  label(area, "docs.body");
  return area;
}

async function attempt(route, form, output) {
  const { url, body } = filled(route, form);
  const options = { method: route.method.toUpperCase(), headers: authorization(), body };
  if (body) options.headers["Content-Type"] = "application/json";
  const began = performance.now();
  const reply = await fetch(url, options).catch(() => {
    throw new Failure("error.unreachable");
  });
  const text = pretty(await reply.text());
  const tookMs = Math.round(performance.now() - began);
  output.hidden = false;
  output.textContent = `HTTP ${reply.status} · ${tookMs} ms\n\n${text.slice(0, MAX_SHOWN)}`;
}

function filled(route, form) {
  let path = route.path.slice(1);
  const query = new URLSearchParams();
  for (const input of form.querySelectorAll("[data-in]")) {
    if (input.dataset.in === "path") path = path.replace(`{${input.name}}`, encodeURIComponent(input.value));
    else if (input.value) query.set(input.name, input.value);
  }
  const body = form.elements.body?.value;
  if (body) checkJson(body);
  return { url: address(query.size ? `${path}?${query}` : path), body };
}

function checkJson(text) {
  try {
    JSON.parse(text);
  } catch (error) {
    throw new Failure("docs.badJson", error.message);
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
