import { element } from "./dom.js";
import { label, say } from "./i18n.js";
import { reportCard } from "./reportcard.js";

const STAGES = { "looking for the face": "task.looking", "writing the avatar": "task.writing" };

/** One avatar task as a list item; `forget` is called when the user no longer wants one that waits. */
export function taskCard(task, forget) {
  const { avatar_id: id, title, status, report, error_msg: error } = task;
  const state = element("span", { class: "state" });
  say(state, `task.${status}`);
  return element(
    "li",
    { class: "card task", "data-status": status },
    element("div", { class: "row spread" }, element("strong", {}, title || id), state),
    ...(status === "running" ? progress(task) : []),
    ...(status === "failed" && !report ? [element("p", { class: "bad small" }, error)] : []),
    ...(report ? [reportCard(report, status === "failed")] : []),
    ...(status === "pending" ? [button(forget)] : []),
    ...(status === "completed" ? [talk(id)] : []),
  );
}

function progress({ progress: percent, stage }) {
  const bar = element("progress", { max: 100, value: percent });
  label(bar, "task.running");
  const words = element("span", { class: "soft small" });
  if (STAGES[stage]) say(words, STAGES[stage]);
  else words.textContent = stage;
  return [element("div", { class: "row" }, bar, element("span", { class: "soft small" }, `${percent} %`)), words];
}

function button(forget) {
  const made = element("button", { class: "quiet", type: "button", click: forget });
  say(made, "task.forget");
  return element("div", { class: "row end" }, made);
}

function talk(id) {
  const link = element("a", { class: "button", href: `dashboard.html?avatar=${encodeURIComponent(id)}` });
  say(link, "avatars.talk");
  return element("div", { class: "row end" }, link);
}
