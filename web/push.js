import { post } from "./lib/api.js";
import { Composer } from "./lib/composer.js";
import { byId } from "./lib/dom.js";
import { say, speakUsersLanguage } from "./lib/i18n.js";
import { clear, guard } from "./lib/notice.js";
import { play } from "./lib/player.js";
import { Recorder } from "./lib/recorder.js";
import { States } from "./lib/states.js";

const POLL_MS = 1000;

const sessionId = () => byId("session").valueAsNumber || 0;
const states = new States(sessionId);
let stopPlaying = null;
let nextPoll = null;

speakUsersLanguage();
new Composer(sessionId);
new Recorder(sessionId);
byId("session").addEventListener("change", meet);
byId("watch").addEventListener("submit", (event) => {
  event.preventDefault();
  guard(watch);
});
addEventListener("pagehide", leave);
meet();

/** Get to know the session whose number was entered. */
function meet() {
  clear();
  states.clear();
  guard(() => states.load());
  poll();
}

/** Ask once a second whether the presenter speaks, while anybody looks and the server lets us. */
async function poll() {
  clearTimeout(nextPoll);
  const how = document.hidden ? document.body.dataset.speaking : await speaking();
  showSpeaking(how);
  clearTimeout(nextPoll);
  if (how !== "denied") nextPoll = setTimeout(poll, POLL_MS);
}

async function speaking() {
  try {
    const { data } = await post("is_speaking", { sessionid: sessionId() });
    return data ? "yes" : "no";
  } catch (failure) {
    return { "error.refused": "unknown", "error.token": "denied", "error.forbidden": "denied" }[failure.key] ?? "away";
  }
}

function showSpeaking(how) {
  document.body.dataset.speaking = how;
  if (byId("speaking").dataset.i18n !== `speaking.${how}`) say(byId("speaking"), `speaking.${how}`);
}

async function watch() {
  if (stopPlaying) return leave();
  clear();
  byId("play").disabled = true;
  try {
    stopPlaying = await play(byId("video"), byId("url").value);
    byId("stage").hidden = false;
    say(byId("play"), "push.stopPlaying");
  } finally {
    byId("play").disabled = false;
  }
}

function leave() {
  stopPlaying?.();
  stopPlaying = null;
  byId("stage").hidden = true;
  say(byId("play"), "push.play");
}
