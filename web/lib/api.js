import { Failure } from "./failure.js";
import { askToken, authorization } from "./token.js";

const TIMEOUT_MS = 60_000;
const STATUS_KEYS = { 401: "error.token", 403: "error.forbidden", 404: "error.missing", 413: "error.tooLarge", 429: "error.rate" };

/** The folder the routes live in: pages also work behind a reverse proxy's path prefix. */
const ROOT = new URL("../", import.meta.url);

/** The absolute URL of a route, `path` without a leading slash. */
export const address = (path) => new URL(path, ROOT).href;

/** The reply to `GET path`. Throws Failure, as all requests here do: server away, refused, or `code` other than 0. */
export const get = (path) => request("GET", path);

/** The reply to `POST path` with `body` as JSON. */
export const post = (path, body) => request("POST", path, body);

/** The reply to `DELETE path`. */
export const remove = (path) => request("DELETE", path);

/** End session `id`, even while the page goes away. Never fails: the server reaps what it does not hear of. */
export async function release(id) {
  const options = { method: "DELETE", headers: authorization(), keepalive: true };
  await fetch(address(`session/${id}`), options).catch(() => {});
}

/** The reply to a multipart `POST path`; `onProgress` gets the part sent, 0 to 1. `signal` aborts it. */
export const upload = (path, form, onProgress, signal) =>
  authorized(() => sendForm(path, form, onProgress, signal)).then(unwrap);

/** The file behind `GET path`, as a Blob, with the token that a plain link could not carry. */
export const download = (path) => authorized(() => send("GET", path)).then(file);

/** The file that `POST path` makes of `body`, as a Blob. */
export const postForFile = (path, body) => authorized(() => send("POST", path, body)).then(file);

/** Whether anything answers at all. */
export async function alive() {
  try {
    await fetch(address("healthz"), { signal: AbortSignal.timeout(3000) });
    return true;
  } catch {
    return false;
  }
}

const request = (method, path, body) => authorized(() => send(method, path, body)).then(unwrap);

async function send(method, path, body) {
  const options = { method, headers: authorization(), signal: AbortSignal.timeout(TIMEOUT_MS) };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  try {
    return await fetch(address(path), options);
  } catch (error) {
    throw new Failure(error.name === "TimeoutError" ? "error.timeout" : "error.unreachable");
  }
}

/** `fetch` cannot tell how far an upload has come; this can. */
function sendForm(path, form, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open("POST", address(path));
    for (const [name, value] of Object.entries(authorization())) sending.setRequestHeader(name, value);
    sending.upload.onprogress = ({ loaded, total }) => onProgress(loaded / total);
    sending.onload = () => resolve(new Response(sending.response, { status: sending.status }));
    sending.onerror = () => reject(new Failure("error.unreachable"));
    sending.onabort = () => reject(new Failure("error.cancelled"));
    signal.addEventListener("abort", () => sending.abort());
    sending.send(form);
  });
}

async function authorized(attempt) {
  for (;;) {
    const reply = await attempt();
    if (reply.status !== 401 || !(await askToken())) return reply;
  }
}

const file = (reply) => (/json/.test(reply.headers.get("Content-Type")) || !reply.ok ? unwrap(reply) : reply.blob());

async function unwrap(reply) {
  const body = await reply.json().catch(() => ({}));
  const told = [body.msg === "err" ? body.data : body.msg, body.message, body.error];
  const detail = told.find((text) => typeof text === "string");
  if (STATUS_KEYS[reply.status]) throw new Failure(STATUS_KEYS[reply.status], detail);
  if (detail === "reach max session") throw new Failure("error.full");
  if (!reply.ok || body.code) throw new Failure("error.refused", detail ?? `HTTP ${reply.status}`);
  return body;
}
