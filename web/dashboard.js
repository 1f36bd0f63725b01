import { get } from "./lib/api.js";
import { Composer } from "./lib/composer.js";
import { byId, element, redraw } from "./lib/dom.js";
import { Failure } from "./lib/failure.js";
import { label, say, speakUsersLanguage } from "./lib/i18n.js";
import { clear, guard, show } from "./lib/notice.js";
import { Plot } from "./lib/plot.js";
import { Recorder } from "./lib/recorder.js";
import { Session } from "./lib/session.js";
import { States } from "./lib/states.js";
import { Talk } from "./lib/talk.js";
import { Transcript } from "./lib/transcript.js";
import { Voices } from "./lib/voices.js";

const COPIED_MS = 2000;

const video = byId("video");
const session = new Session(video);
const transcript = new Transcript(byId("messages"), byId("captions"));
const states = new States(() => session.id);
const recorder = new Recorder(() => session.id);
const voices = new Voices();
const plots = {
  fps: new Plot(byId("plot-fps"), 30),
  latency: new Plot(byId("plot-latency"), 100),
  jitter: new Plot(byId("plot-jitter"), 20),
  loss: new Plot(byId("plot-loss"), 5),
};

speakUsersLanguage();
new Composer(liveId, (text) => transcript.said(text), () => voices.chosen);
byId("diagnostics").open = matchMedia("(min-width: 60rem) and (min-height: 42rem)").matches;
byId("start").addEventListener("click", start);
byId("stop").addEventListener("click", () => session.stop());
session.addEventListener("state", ({ detail }) => showState(detail));
session.addEventListener("failure", ({ detail }) => show(detail));
session.addEventListener("news", ({ detail }) => hear(detail));
session.addEventListener("stats", ({ detail }) => plot(detail));
wireSound();
wireCopy();
const talk = new Talk(session, start);
guard(offerAvatars);
guard(() => voices.load());

function start() {
  clear();
  Object.values(plots).forEach((plot) => plot.clear());
  const wishes = { avatar: byId("avatar").value, refaudio: voices.chosen };
  session.start(Object.fromEntries(Object.entries(wishes).filter(([, value]) => value)));
}

function liveId() {
  return session.state === "live" ? session.id : null;
}

async function offerAvatars() {
  const unnamed = element("option", { value: "" });
  say(unnamed, "avatar.default");
  byId("avatar").append(unnamed);
  const { data } = await get("api/avatars");
  const chosen = new URLSearchParams(location.search).get("avatar") ?? data.default;
  const options = data.avatars.map(({ id, title }) => {
    return element("option", { value: id, selected: id === chosen }, title || id);
  });
  if (options.length) byId("avatar").replaceChildren(...options);
}

function showState(state) {
  document.body.dataset.state = state;
  say(byId("status"), `status.${state}`);
  say(byId("start-text"), { idle: "start", connecting: "start.wait", live: "start", failed: "start.again" }[state]);
  byId("start").disabled = byId("avatar").disabled = state === "connecting";
  byId("stop").disabled = state === "idle";
  byId("record").disabled = state !== "live";
  byId("states-box").hidden = state !== "live";
  if (state === "live") arrived();
  if (state === "idle") ended();
}

function ended() {
  recorder.ended();
  transcript.ended();
  delete byId("stage").dataset.bargeIn;
}

function arrived() {
  clear();
  guard(() => states.load());
  const hasKeyboard = matchMedia("(hover: hover)").matches; // on a phone, focus would raise one over the picture
  const talks = talk.pushes || document.activeElement === byId("talk");
  if (hasKeyboard) byId(talks ? "talk" : "text").focus({ preventScroll: true });
}

function hear(news) {
  transcript.hear(news);
  if (news.event === "state") states.mark(news.audiotype);
  if (news.event === "barge-in") byId("stage").dataset.bargeIn = news.step;
  if (news.event === "interrupted") delete byId("stage").dataset.bargeIn;
  if (news.event === "error") show(new Failure("error.presenter", news.message));
}

function plot(figures) {
  const { fps, rttMs, bufferMs, jitterMs, audioJitterMs, lossPercent, codec, size, kbps } = figures;
  plots.fps.push(fps);
  plots.latency.push(rttMs, bufferMs);
  plots.jitter.push(jitterMs, audioJitterMs);
  plots.loss.push(lossPercent);
  byId("now-fps").value = unit(fps, "fps", 1);
  byId("now-latency").value = `${unit(rttMs, "ms")} · ${unit(bufferMs, "ms")}`;
  byId("now-jitter").value = `${unit(jitterMs, "ms")} · ${unit(audioJitterMs, "ms")}`;
  byId("now-loss").value = unit(lossPercent, "%", 1);
  byId("link").value = kbps === null ? "" : `${codec} · ${size} · ${unit(kbps, "kbit/s")}`;
}

function unit(value, name, digits = 0) {
  return value === null ? "–" : `${value.toFixed(digits)} ${name}`;
}

function wireSound() {
  byId("mute").addEventListener("click", () => (video.muted = !video.muted));
  byId("sound").addEventListener("click", () => (video.muted = false));
  byId("volume").addEventListener("input", ({ target }) => {
    video.volume = target.valueAsNumber;
    video.muted = false;
  });
  video.addEventListener("volumechange", () => {
    label(byId("mute"), video.muted ? "unmute" : "mute");
    redraw(byId("mute").firstElementChild, video.muted ? "muted" : "volume");
    if (!video.muted) byId("sound").hidden = true;
  });
  session.addEventListener("muted", () => (byId("sound").hidden = false));
  byId("fullscreen").addEventListener("click", fillScreen);
}

/** Browsers let a page write to the clipboard only over https or on this computer. */
function wireCopy() {
  byId("copy").hidden = !navigator.clipboard;
  byId("copy").addEventListener("click", () => guard(copy));
}

async function copy() {
  await navigator.clipboard.writeText(transcript.text()).catch(({ message }) => {
    throw new Failure("error.copy", message);
  });
  showCopied(true);
  setTimeout(() => showCopied(false), COPIED_MS);
}

function showCopied(copied) {
  label(byId("copy"), copied ? "chat.copied" : "chat.copy");
  redraw(byId("copy").firstElementChild, copied ? "check" : "copy");
}

/** iPhones let only a video fill the screen, not the captions around it. */
function fillScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else if (document.fullscreenEnabled) byId("stage").requestFullscreen();
  else video.webkitEnterFullscreen();
}
