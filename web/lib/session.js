import { alive, get, post, release } from "./api.js";
import { Failure } from "./failure.js";
import { Stats } from "./stats.js";

const GATHER_MS = 1000;
const GRACE_MS = 3000;
const FIRST_PICTURE_MS = 10_000;
const STATS_MS = 1000;
const MAX_DELAY_MS = 500;

/**
 * One live session: the connection, its picture in `video`, its events.
 *
 * Dispatches CustomEvents: `state` (detail idle | connecting | live | failed), `failure` (a Failure), `news` (an event
 * of the server, when its sound is heard), `stats` (figures of `Stats.read()`, once a second), `muted` (the browser
 * allows no sound before a touch).
 */
export class Session extends EventTarget {
  /** The server's number for it, null before the answer. */
  id = null;
  state = "idle";
  #video;
  #pc = null;
  #sound = null;
  #attempt = null;
  #timers = {};
  #delayMs = 0;
  #lastDue = 0;

  constructor(video) {
    super();
    this.#video = video;
    video.addEventListener("loadeddata", () => this.#pictureCame());
    addEventListener("pagehide", () => this.stop());
  }

  /** Open a session. `wishes`: further fields of `POST /offer`, such as `avatar`. What fails comes as `failure`. */
  async start(wishes = {}) {
    this.stop();
    const attempt = (this.#attempt = Symbol("attempt"));
    this.#enter("connecting");
    try {
      await this.#connect(wishes, () => this.#attempt === attempt);
    } catch (error) {
      if (this.#attempt !== attempt) return;
      this.#close();
      this.#fail(error instanceof Failure ? error : new Failure("error.browser", error.message));
    }
  }

  /** End it, here and on the server. */
  stop() {
    this.#attempt = null;
    this.#close();
    this.#enter("idle");
  }

  /** Whether the server takes the user's sound, known once the state is `live`. */
  get listens() {
    return this.#sound?.currentDirection === "sendrecv";
  }

  /** Let the user be heard through `track`, a MediaStreamTrack; null ends that. Nothing is negotiated anew. */
  async sendSound(track) {
    await this.#sound?.sender.replaceTrack(track);
  }

  async #connect(wishes, current) {
    if (!canDecode()) throw new Failure("error.codec");
    const { data } = await get("api/webrtc");
    if (!current()) return;
    const pc = (this.#pc = this.#peer(data.iceServers));
    await pc.setLocalDescription(await pc.createOffer());
    await gathered(pc);
    if (!current()) return;
    const answer = await post("offer", { ...wishes, sdp: pc.localDescription.sdp, type: "offer" });
    if (!current()) return release(answer.sessionid);
    this.id = answer.sessionid;
    await pc.setRemoteDescription({ type: "answer", sdp: answer.sdp });
    if (!pc.getTransceivers().some(isPicture)) throw new Failure("error.codec");
    this.#timers.picture = setTimeout(() => this.#explainSilence(), FIRST_PICTURE_MS);
  }

  #peer(iceServers) {
    const pc = new RTCPeerConnection({ iceServers });
    const stream = new MediaStream();
    pc.addTransceiver("video", { direction: "recvonly" });
    this.#sound = pc.addTransceiver("audio", { direction: "sendrecv" });
    pc.ontrack = ({ track }) => this.#pc === pc && this.#play(stream, track);
    pc.onconnectionstatechange = () => this.#pc === pc && this.#connectionChanged(pc.connectionState);
    const channel = pc.createDataChannel("events");
    channel.onmessage = ({ data }) => this.#pc === pc && this.#hear(JSON.parse(data));
    channel.onclose = () => this.#pc === pc && this.#lost();
    const stats = new Stats(pc);
    this.#timers.stats = setInterval(() => this.#measure(stats), STATS_MS);
    return pc;
  }

  async #play(stream, track) {
    stream.addTrack(track);
    if (this.#video.srcObject === stream) return;
    this.#video.srcObject = stream;
    try {
      await this.#video.play();
    } catch (error) {
      if (error.name !== "NotAllowedError") return; // a newer load took its place
      this.#video.muted = true;
      this.dispatchEvent(new CustomEvent("muted"));
      this.#video.play();
    }
  }

  #pictureCame() {
    if (!this.#pc) return;
    clearTimeout(this.#timers.picture);
    this.#enter("live");
  }

  #connectionChanged(state) {
    clearTimeout(this.#timers.grace);
    if (state === "failed") this.#lost();
    if (state === "disconnected") {
      this.#enter("connecting");
      this.#timers.grace = setTimeout(() => this.#lost(), GRACE_MS);
    }
    if (state === "connected" && this.#video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) this.#enter("live");
  }

  /** The connection stays open: it may yet come back, and then the state is `live` again. */
  async #lost() {
    const attempt = this.#attempt;
    const failure = new Failure((await alive()) ? "error.lost" : "error.unreachable");
    if (this.#attempt === attempt && this.state !== "failed") this.#fail(failure);
  }

  async #explainSilence() {
    const { received, decoded } = await new Stats(this.#pc).read();
    if (this.state === "connecting") this.#fail(new Failure(received && !decoded ? "error.codec" : "error.noMedia"));
  }

  /** The server speaks of a sound when it sends it; here it is heard one jitter buffer later. */
  #hear(news) {
    if (news.event === "closed") return this.#closedByServer(news);
    const now = performance.now();
    this.#lastDue = Math.max(this.#lastDue, now + this.#delayMs);
    setTimeout(() => this.dispatchEvent(new CustomEvent("news", { detail: news })), this.#lastDue - now);
  }

  #closedByServer(news) {
    this.id = null;
    this.stop();
    this.dispatchEvent(new CustomEvent("news", { detail: news }));
    this.dispatchEvent(new CustomEvent("failure", { detail: closing(news.reason) }));
  }

  async #measure(stats) {
    const figures = await stats.read();
    this.#delayMs = Math.min(figures.bufferMs ?? this.#delayMs, MAX_DELAY_MS);
    this.dispatchEvent(new CustomEvent("stats", { detail: figures }));
  }

  #enter(state) {
    if (this.state === state) return;
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: state }));
  }

  #fail(failure) {
    this.#enter("failed");
    this.dispatchEvent(new CustomEvent("failure", { detail: failure }));
  }

  #close() {
    clearTimeout(this.#timers.picture);
    clearTimeout(this.#timers.grace);
    clearInterval(this.#timers.stats);
    this.#video.srcObject = null;
    this.#part(this.#pc, this.id);
    this.#pc = this.#sound = null;
    this.id = null;
  }

  /** The server hears of it first: a peer that just closes would look lost. */
  async #part(pc, id) {
    if (id !== null) await release(id);
    pc?.close();
  }
}

function closing(reason) {
  const known = ["idle", "shutdown", "deleted"].includes(reason);
  return known ? new Failure(`closed.${reason}`) : new Failure("error.closed", reason);
}

const canDecode = () =>
  RTCRtpReceiver.getCapabilities("video").codecs.some(({ mimeType }) => /h264|vp8/i.test(mimeType));

const isPicture = ({ receiver, currentDirection }) =>
  receiver.track.kind === "video" && currentDirection === "recvonly";

/** Settles when every candidate is known, or after a second: the server learns the others from the first check. */
export function gathered(pc) {
  return new Promise((resolve) => {
    const finish = () => pc.iceGatheringState === "complete" && resolve();
    pc.addEventListener("icegatheringstatechange", finish);
    setTimeout(resolve, GATHER_MS);
    finish();
  });
}
