/** The shortest client: open a session, talk to it, listen to its events. */
import { post } from "./lib/api.js";
import { byId } from "./lib/dom.js";
import { say, speakUsersLanguage } from "./lib/i18n.js";
import { clear, guard, show } from "./lib/notice.js";
import { Session } from "./lib/session.js";

speakUsersLanguage();

// The Session makes the RTCPeerConnection, sends its offer to POST /offer and plays the answer in the <video>.
const session = new Session(byId("video"));
session.addEventListener("state", ({ detail }) => showState(detail));
session.addEventListener("failure", ({ detail }) => show(detail));
session.addEventListener("news", ({ detail }) => log("←", detail));

byId("start").addEventListener("click", () => session.start());
byId("stop").addEventListener("click", () => session.stop());
byId("interrupt").addEventListener("click", () => call("interrupt_talk"));
byId("record").addEventListener("click", () => call("record", { type: "start_record" }));
byId("record-stop").addEventListener("click", () => call("record", { type: "end_record" }));
byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  call("human", { ...Object.fromEntries(new FormData(event.target)), interrupt: false });
  byId("text").value = "";
});

/** Every control route takes the session's number and answers {code, msg, data}. */
function call(route, fields = {}) {
  const body = { sessionid: session.id, ...fields };
  log(`→ POST /${route}`, body);
  return guard(async () => log("←", await post(route, body)));
}

function showState(state) {
  document.body.dataset.state = state;
  say(byId("status"), `status.${state}`);
  if (state === "connecting") clear();
  byId("start").disabled = state === "connecting" || state === "live";
  byId("stop").disabled = state === "idle";
  for (const id of ["send", "interrupt", "record", "record-stop"]) byId(id).disabled = state !== "live";
}

function log(sign, what) {
  byId("log").textContent += `${sign} ${JSON.stringify(what)}\n`;
  byId("log").scrollTop = byId("log").scrollHeight;
}
