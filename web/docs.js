import { address } from "./lib/api.js";
import { byId, element } from "./lib/dom.js";
import { Failure } from "./lib/failure.js";
import { say, speakUsersLanguage } from "./lib/i18n.js";
import { guard } from "./lib/notice.js";
import { Description } from "./lib/openapi.js";
import { keepToken, token } from "./lib/token.js";
import { canTry, tryForm } from "./lib/tryit.js";

const MAX_NESTING = 2;

speakUsersLanguage();
byId("bearer").value = token();
byId("bearer").addEventListener("input", ({ target }) => keepToken(target.value.trim()));
byId("access").addEventListener("submit", (event) => event.preventDefault());
byId("filter").addEventListener("input", ({ target }) => filter(target.value.trim().toLowerCase()));
addEventListener("hashchange", openLinked);
guard(render);

async function render() {
  const description = new Description(await read());
  const { title = "", version = "", description: text = "" } = description.document.info ?? {};
  byId("about").append(
    element("h1", {}, title, " ", element("small", { class: "soft" }, version)),
    ...prose(text),
    element("p", {}, element("a", { href: address("openapi.json") }, "openapi.json")),
  );
  for (const [tag, routes] of description.byTag()) showTag(description, tag, routes);
  openLinked();
}

async function read() {
  try {
    return await (await fetch(address("openapi.json"))).json();
  } catch {
    throw new Failure("error.openapi");
  }
}

function showTag(description, tag, routes) {
  const about = description.document.tags?.find(({ name }) => name === tag)?.description ?? "";
  const cards = routes.map((route) => routeCard(description, route));
  byId("routes").append(element("section", { class: "tag" }, element("h2", {}, tag), ...prose(about), ...cards));
  byId("contents").append(element("section", {}, element("h3", {}, tag), ...routes.map(routeLink)));
}

function routeLink(route) {
  const attributes = { href: `#${route.id}`, "data-route": route.id };
  return element("a", attributes, badge(route), element("span", {}, route.path));
}

function routeCard(description, route) {
  const summary = element(
    "summary",
    {},
    badge(route),
    element("code", {}, route.path),
    element("span", { class: "soft" }, route.operation.summary ?? ""),
  );
  const words = `${route.method} ${route.path} ${route.operation.summary ?? ""}`.toLowerCase();
  const card = element("details", { class: "card route", id: route.id, "data-words": words }, summary);
  card.addEventListener("toggle", () => card.append(...routeParts(description, route)), { once: true });
  return card;
}

function routeParts(description, route) {
  return [
    ...prose(route.operation.description ?? ""),
    ...part("docs.parameters", parameterTable(description, route)),
    ...part("docs.request", bodyTable(description, route)),
    ...part("docs.responses", responseList(description, route)),
    ...part("docs.curl", copyable(curl(description, route))),
    ...(canTry(route) ? part("docs.try", tryForm(description, route)) : []),
  ];
}

function part(key, content) {
  if (!content) return [];
  const heading = element("h3");
  say(heading, key);
  return [heading, content];
}

function parameterTable(description, { parameters }) {
  const fields = parameters.map(({ name, schema, description: about, required }) => {
    return [name, { ...description.resolve(schema), description: about }, required];
  });
  return fields.length ? table(description, fields) : null;
}

function bodyTable(description, { body }) {
  if (!body) return null;
  const fields = description.fields(body.schema);
  const content = fields.length ? table(description, fields) : element("code", {}, description.typeOf(body.schema));
  return element("div", {}, element("p", { class: "soft mono" }, body.type), content);
}

function responseList(description, { operation }) {
  const entries = Object.entries(operation.responses ?? {}).map((one) => responseEntry(description, ...one));
  return entries.length ? element("div", { class: "responses" }, ...entries) : null;
}

function responseEntry(description, status, given) {
  const response = description.resolve(given);
  const [type, content] = Object.entries(response.content ?? {})[0] ?? [];
  const kind = element("span", { class: "soft mono" }, type ?? "");
  const line = element("p", {}, element("strong", {}, status), " ", ...marked(response.description ?? ""), " ", kind);
  const fields = content?.schema ? description.fields(content.schema) : [];
  return element("div", {}, line, ...(fields.length ? [table(description, fields)] : []));
}

function table(description, fields) {
  const body = element("tbody", {}, ...rows(description, fields, "", 0));
  return element("div", { class: "scroll" }, element("table", {}, body));
}

function rows(description, fields, prefix, nesting) {
  return fields.flatMap(([name, schema, required]) => {
    const path = `${prefix}${name}`;
    const inner = nesting < MAX_NESTING ? description.fields(schema) : [];
    const step = schema.type === "array" ? "[]." : ".";
    return [row(description, path, schema, required), ...rows(description, inner, path + step, nesting + 1)];
  });
}

function row(description, path, schema, required) {
  const need = element("small", { class: required ? "required" : "soft" });
  say(need, required ? "docs.required" : "docs.optional");
  const about = element("td", {}, ...prose(schema.description ?? ""));
  if (schema.default !== undefined && schema.default !== null) {
    const word = element("span", { class: "soft" });
    say(word, "docs.default");
    about.append(element("p", {}, word, " ", element("code", {}, JSON.stringify(schema.default))));
  }
  const name = element("th", { scope: "row" }, element("code", {}, path), need);
  return element("tr", {}, name, element("td", { class: "mono" }, description.typeOf(schema)), about);
}

/** Paragraphs, with `code` in backticks: as much of Markdown as API texts use. */
function prose(text) {
  const paragraphs = text.split(/\n\s*\n/).filter((paragraph) => paragraph.trim());
  return paragraphs.map((paragraph) => element("p", {}, ...marked(paragraph)));
}

function marked(text) {
  return text.split(/`([^`]+)`/).map((piece, index) => (index % 2 ? element("code", {}, piece) : piece));
}

function badge({ method }) {
  return element("span", { class: `method ${method}` }, method.toUpperCase());
}

function curl(description, { method, path, parameters, body }) {
  const query = parameters.filter((one) => one.in === "query" && one.required).map(({ name }) => `${name}=…`);
  const url = address("") + path.slice(1) + (query.length ? `?${query.join("&")}` : "");
  const lines = [`curl -X ${method.toUpperCase()} '${url}'`];
  if (token()) lines.push('-H "Authorization: Bearer $TOKEN"');
  if (body) lines.push(...curlBody(description, body));
  return lines.join(" \\\n  ");
}

function curlBody(description, { type, schema }) {
  if (type === "multipart/form-data") return description.fields(schema).map((field) => formField(description, field));
  const json = JSON.stringify(description.example(schema)).replaceAll("'", "'\\''");
  return [`-H 'Content-Type: ${type}'`, `-d '${json}'`];
}

function formField(description, [name, schema]) {
  const isFile = schema.format === "binary" || schema.contentMediaType;
  return isFile ? `-F '${name}=@${name}.wav'` : `-F '${name}=${description.example(schema)}'`;
}

function copyable(text) {
  const button = element("button", { class: "quiet", type: "button" });
  say(button, "docs.copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    say(button, "docs.copied");
  });
  const canCopy = Boolean(navigator.clipboard); // only in secure contexts
  return element("div", { class: "code" }, element("pre", { tabindex: "0" }, text), ...(canCopy ? [button] : []));
}

function filter(words) {
  let shown = 0;
  for (const card of document.querySelectorAll(".route")) {
    card.hidden = !card.dataset.words.includes(words);
    document.querySelector(`[data-route="${card.id}"]`).hidden = card.hidden;
    shown += !card.hidden;
  }
  for (const section of document.querySelectorAll(".tag, #contents section")) {
    section.hidden = !section.querySelector(".route:not([hidden]), a:not([hidden])");
  }
  byId("nothing").hidden = shown > 0;
}

function openLinked() {
  const card = location.hash && byId(location.hash.slice(1));
  if (!card) return;
  card.open = true;
  card.scrollIntoView();
}
