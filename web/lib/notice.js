import { byId, element } from "./dom.js";
import { Failure } from "./failure.js";
import { translate } from "./i18n.js";

/** Show a Failure in `#error`, until it is dismissed or the next one comes. Anything else is a bug, and thrown on. */
export function show(failure) {
  if (!(failure instanceof Failure)) throw failure;
  const close = element("button", { class: "quiet", type: "button", "data-i18n-label": "dismiss", click: clear }, "×");
  const box = byId("error");
  const text = element("p", {}, element("span", { "data-i18n": failure.key }));
  if (failure.detail) text.append(" ", element("span", { class: "detail" }, failure.detail));
  box.replaceChildren(text, close);
  box.dataset.key = failure.key;
  translate(box);
  box.hidden = false;
}

/** Take the message away. */
export function clear() {
  byId("error").hidden = true;
}

/** Run `action`; a Failure in it is shown, and the result is then undefined. */
export async function guard(action) {
  try {
    return await action();
  } catch (error) {
    show(error);
  }
}
