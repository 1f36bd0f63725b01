import { element } from "./dom.js";
import { t } from "./i18n.js";

const KEY = "vivace.token";
let asking = null;

/** The bearer token of this tab, or "". */
export const token = () => sessionStorage.getItem(KEY) ?? "";

/** Keep `value` until the tab closes; "" forgets it. */
export function keepToken(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

/** Request headers that carry the token, if there is one. */
export const authorization = () => (token() ? { Authorization: `Bearer ${token()}` } : {});

/** Ask the user for a token, in one dialog however many requests wait for it. False if they would rather not. */
export function askToken() {
  asking ??= dialog().finally(() => (asking = null));
  return asking;
}

function dialog() {
  const input = element("input", { type: "password", id: "token", autocomplete: "current-password", required: true });
  const cancel = element("button", { type: "button" }, t("token.cancel"));
  const box = element(
    "dialog",
    { class: "card dialog", "aria-labelledby": "token-title" },
    element(
      "form",
      { method: "dialog" },
      element("h2", { id: "token-title" }, t(token() ? "token.wrong" : "token.title")),
      element("label", { for: "token" }, t("token.label")),
      input,
      element("div", { class: "row end" }, cancel, element("button", { class: "primary", value: "ok" }, t("token.ok"))),
    ),
  );
  cancel.addEventListener("click", () => box.close());
  document.body.append(box);
  box.showModal();
  return new Promise((resolve) => {
    box.addEventListener("close", () => {
      if (box.returnValue === "ok") keepToken(input.value.trim());
      box.remove();
      resolve(box.returnValue === "ok");
    });
  });
}
