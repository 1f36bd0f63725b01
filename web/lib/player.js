import { Failure } from "./failure.js";
import { gathered } from "./session.js";

/**
 * Play the stream at `url` in `video`; the result is a function that stops it.
 *
 * `.m3u8` is HLS, `.mp4` and `.webm` are files, anything else is taken for WHEP. Throws Failure where the browser or
 * the media server will not.
 */
export async function play(video, url) {
  if (/^rtmp|\.flv(\?|$)/.test(url)) throw new Failure("error.flv");
  return /\.(m3u8|mp4|webm)(\?|$)/.test(url) ? playFile(video, url) : playWhep(video, url);
}

async function playFile(video, url) {
  if (url.includes(".m3u8") && !video.canPlayType("application/vnd.apple.mpegurl")) throw new Failure("error.noHls");
  const stop = () => {
    video.removeAttribute("src");
    video.load();
  };
  video.src = url;
  try {
    await video.play();
  } catch (error) {
    stop();
    throw new Failure("error.stream", error.message);
  }
  return stop;
}

async function playWhep(video, url) {
  const pc = new RTCPeerConnection();
  const stream = new MediaStream();
  pc.addTransceiver("video", { direction: "recvonly" });
  pc.addTransceiver("audio", { direction: "recvonly" });
  pc.ontrack = ({ track }) => stream.addTrack(track);
  try {
    await pc.setLocalDescription(await pc.createOffer());
    await gathered(pc);
    const { sdp, resource } = await ask(url, pc.localDescription.sdp);
    await pc.setRemoteDescription({ type: "answer", sdp });
    video.srcObject = stream;
    return () => {
      pc.close();
      video.srcObject = null;
      if (resource) fetch(resource, { method: "DELETE", keepalive: true }).catch(() => {}); // it may be gone already
    };
  } catch (error) {
    pc.close();
    throw error instanceof Failure ? error : new Failure("error.stream", error.message);
  }
}

/** The WHEP exchange: an answer, and the resource to delete in the end. */
async function ask(url, offer) {
  const reply = await fetch(url, { method: "POST", headers: { "Content-Type": "application/sdp" }, body: offer });
  if (!reply.ok) throw new Failure("error.stream", `HTTP ${reply.status}`);
  const location = reply.headers.get("Location");
  return { sdp: await reply.text(), resource: location && new URL(location, url) };
}
