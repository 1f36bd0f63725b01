import { Failure } from "./failure.js";

const WISHES = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
const FAILURES = {
  NotAllowedError: "error.micDenied",
  SecurityError: "error.micDenied",
  NotFoundError: "error.micNone",
  OverconstrainedError: "error.micNone",
  NotReadableError: "error.micBusy",
  AbortError: "error.micBusy",
};
const QUIET_DB = -60;
const LOUD_DB = -12;

/** The microphone of this device: its track while it is open, and how loud it is. It is never played. */
export class Microphone {
  track = null;
  #lost;
  #opening = null;
  #context = null;
  #analyser = null;

  /** `lost(failure)` is told when the device goes away while it is open. */
  constructor(lost) {
    this.#lost = lost;
  }

  /** Open it, unless it is; the browser may ask the user. Throws Failure where there is none or it may not be used. */
  open() {
    this.#opening ??= this.#open().catch((failure) => {
      this.#opening = null;
      throw failure;
    });
    return this.#opening;
  }

  /** Let go of the device, so that the browser no longer shows it in use. */
  close() {
    if (!this.track) return;
    this.track.stop();
    this.#context.close();
    this.track = this.#opening = this.#context = this.#analyser = null;
  }

  /** How loud it is now, 0 to 1 for −60 to −12 dB of full scale; 0 while it is closed or its track is not enabled. */
  level() {
    if (!this.#analyser) return 0;
    const samples = new Float32Array(this.#analyser.fftSize);
    this.#analyser.getFloatTimeDomainData(samples);
    const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
    const db = 10 * Math.log10(power + 1e-12);
    return Math.min(1, Math.max(0, (db - QUIET_DB) / (LOUD_DB - QUIET_DB)));
  }

  async #open() {
    const stream = await capture();
    this.#context = new AudioContext();
    this.#analyser = this.#context.createAnalyser();
    this.#context.createMediaStreamSource(stream).connect(this.#analyser);
    [this.track] = stream.getAudioTracks();
    this.track.addEventListener("ended", () => {
      this.close();
      this.#lost(new Failure("error.micLost"));
    });
  }
}

async function capture() {
  if (!navigator.mediaDevices) throw new Failure("error.micInsecure"); // plain http, and not this computer
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: WISHES });
  } catch (error) {
    if (FAILURES[error.name]) throw new Failure(FAILURES[error.name]);
    throw new Failure("error.mic", error.message);
  }
}
