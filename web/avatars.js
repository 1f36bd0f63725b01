import { download, get, remove, upload } from "./lib/api.js";
import { byId, element } from "./lib/dom.js";
import { Failure } from "./lib/failure.js";
import { say, speakUsersLanguage } from "./lib/i18n.js";
import { clear, guard } from "./lib/notice.js";
import { taskCard } from "./lib/taskcard.js";

const POLL_MS = 1000;
const MAX_SHOWN = 10;
const MODEL = "wav2lip";

const cards = new Map();
let maxFilmBytes = Infinity;
let nextPoll = null;
let sending = null;

speakUsersLanguage();
byId("film").addEventListener("change", showChoice);
byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  guard(submit);
});
byId("upload-cancel").addEventListener("click", () => sending?.abort());
addEventListener("languageturned", () => {
  cards.clear();
  poll();
});
guard(showAvatars);
poll();

/** The file's name is a fair guess at the id, until the user knows better. */
function showChoice() {
  const film = byId("film").files[0];
  byId("chosen").value = film ? `${film.name} · ${(film.size / 2 ** 20).toFixed(1)} MB` : "";
  if (film && !byId("avatar-id").value) byId("avatar-id").value = guessId(film.name);
}

const guessId = (name) =>
  name
    .replace(/\.\w+$/, "")
    .replace(/[^\p{L}\p{N}]+/gu, "_")
    .replace(/^_+|_+$/g, "")
    .toLowerCase()
    .slice(0, 64);

async function submit() {
  const form = byId("form");
  const film = byId("film").files[0];
  if (film.size > maxFilmBytes) throw new Failure("error.tooLarge", `> ${Math.round(maxFilmBytes / 2 ** 20)} MB`);
  clear();
  const fields = new FormData(form);
  fields.set("model", MODEL);
  sending = new AbortController();
  showUpload(true);
  try {
    await upload("api/avatar/task", fields, (part) => (byId("progress").value = part), sending.signal);
  } finally {
    showUpload(false);
  }
  form.reset();
  showChoice();
  await poll();
}

function showUpload(running) {
  byId("progress").value = 0;
  byId("upload-box").hidden = !running;
  byId("make").disabled = running;
}

/** Show the tasks, and again every second while one of them waits or runs. */
async function poll() {
  clearTimeout(nextPoll);
  const found = await guard(() => get("api/avatar/tasks"));
  if (!found) return;
  const { tasks, max_film_bytes: most } = found.data;
  maxFilmBytes = most;
  if (tasks.some(justMade)) guard(showAvatars);
  showTasks(tasks);
  clearTimeout(nextPoll);
  if (tasks.some(isOpen)) nextPoll = setTimeout(poll, POLL_MS);
}

const justMade = ({ task_id: id, status }) => status === "completed" && cards.has(id) && cards.get(id).status !== status;

const isOpen = ({ status }) => status === "pending" || status === "running";

/** Only what has changed is drawn anew: a report that somebody reads stays open. */
function showTasks(tasks) {
  const nodes = tasks.slice(0, MAX_SHOWN).map((task) => {
    const version = JSON.stringify({ ...task, duration: 0 });
    const known = cards.get(task.task_id);
    if (known?.version === version) return known.node;
    const node = taskCard(task, () => guard(() => forget(task.task_id)));
    cards.set(task.task_id, { version, node, status: task.status });
    return node;
  });
  const list = byId("tasks");
  if (nodes.length !== list.children.length || nodes.some((node, place) => node !== list.children[place])) {
    list.replaceChildren(...nodes);
  }
}

async function forget(id) {
  try {
    await remove(`api/avatar/task/${encodeURIComponent(id)}`);
  } finally {
    poll();
  }
}

async function showAvatars() {
  const { data } = await get("api/avatars");
  byId("gallery").replaceChildren(...data.avatars.map(avatarCard));
}

function avatarCard({ id, title, size }) {
  const picture = element("img", { alt: "", width: size[0], height: size[1] });
  const talk = element("a", { class: "button", href: `dashboard.html?avatar=${encodeURIComponent(id)}` });
  say(talk, "avatars.talk");
  showPicture(picture, id);
  return element(
    "li",
    { class: "card" },
    picture,
    element("div", {}, element("strong", {}, title || id), element("code", { class: "soft" }, `${id} · ${size.join("×")}`)),
    talk,
  );
}

/** An `<img>` could not carry the token. */
async function showPicture(picture, id) {
  const image = await download(`api/avatars/${encodeURIComponent(id)}/picture`).catch(() => null);
  if (image?.type !== "image/jpeg") return;
  picture.src = URL.createObjectURL(image);
  picture.onload = () => URL.revokeObjectURL(picture.src);
}
