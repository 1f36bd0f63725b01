const milliseconds = (value) => (value === undefined ? null : value * 1000);

/** What `pc.getStats()` says of one second, as numbers a person can read. One per connection. */
export class Stats {
  #pc;
  #before = new Map();

  constructor(pc) {
    this.#pc = pc;
  }

  /**
   * The figures since the last call; null where the browser does not say.
   * `bufferMs` is the mean time a sound waits in the jitter buffer, `lossPercent` counts sound and picture together.
   */
  async read() {
    const reports = [...(await this.#pc.getStats()).values()];
    const inbound = reports.filter(({ type }) => type === "inbound-rtp");
    const video = inbound.find(({ kind }) => kind === "video") ?? {};
    const audio = inbound.find(({ kind }) => kind === "audio") ?? {};
    const path = reports.find(({ type, nominated, state }) => {
      return type === "candidate-pair" && nominated && state === "succeeded";
    });
    const figures = {
      fps: this.#rate(video, "framesDecoded"),
      rttMs: milliseconds(path?.currentRoundTripTime),
      bufferMs: milliseconds(this.#ratio(audio, "jitterBufferDelay", "jitterBufferEmittedCount")),
      jitterMs: milliseconds(video.jitter),
      audioJitterMs: milliseconds(audio.jitter),
      lossPercent: this.#loss(inbound),
      kbps: this.#rate(video, "bytesReceived", 0.008),
      codec: reports.find(({ id }) => id === video.codecId)?.mimeType?.split("/")[1] ?? "",
      size: video.frameWidth ? `${video.frameWidth}×${video.frameHeight}` : "",
      received: video.packetsReceived ?? 0,
      decoded: video.framesDecoded ?? 0,
    };
    this.#before = new Map(inbound.map((report) => [report.id, report]));
    return figures;
  }

  #grown(report, name) {
    return report[name] - (this.#before.get(report.id)?.[name] ?? NaN);
  }

  #rate(report, name, scale = 1) {
    const rate = (this.#grown(report, name) / this.#grown(report, "timestamp")) * 1000 * scale;
    return Number.isFinite(rate) ? rate : null;
  }

  #ratio(report, above, below) {
    const ratio = this.#grown(report, above) / this.#grown(report, below);
    return Number.isFinite(ratio) ? ratio : undefined;
  }

  #loss(inbound) {
    const total = (name) => inbound.reduce((sum, report) => sum + this.#grown(report, name), 0);
    const lost = Math.max(0, total("packetsLost"));
    const percent = (100 * lost) / (lost + total("packetsReceived"));
    return Number.isFinite(percent) ? percent : null;
  }
}
