// One stream of this page: a source's pictures out, results back to the displays.

import { H264Encoder, JpegEncoder } from "/web/encoder.js";
import { ResqStream } from "/web/resq.js";

const IN_FLIGHT = 2; // one with the server, one waiting there; more would only be dropped

/**
 * Runs until the source ends, `stop`, or a fatal problem.
 * events: {started, waiting, resumed, restarted, problem, ended}, as of ResqStream, and
 * encoderFailed; displays: see displays.js.
 */
export class Session {
  constructor(source, key, options, displays, events) {
    this.source = source;
    this.key = key;
    this.options = options;
    this.displays = displays;
    this.events = events;
    this.sent = new Map(); // seq -> { picture, time }
    this.paused = true; // until the stream has started
    this.answered = () => {}; // a frame was
  }

  /** first: the picture that the objects of a VOS stream were marked on. */
  async start(canUseH264, first = null) {
    const { width, height } = first ?? this.source.grab();
    const h264 = canUseH264 && (await H264Encoder.isSupported(width, height));
    const output = (coded) => this.sendCoded(coded);
    this.encoder = h264 ? new H264Encoder(output, (error) => this.events.encoderFailed(error)) : new JpegEncoder(output);
    const start = { ...this.options, input: this.encoder.kind };
    const renew = !start.vos; // objects were marked on a picture that is long gone
    this.stream = new ResqStream({ key: this.key, start, renew }, this.handlers(first));
  }

  handlers(first) {
    const again = (event) => (started) => {
      this.sent.clear();
      this.encoder.restart();
      if (!this.paused) this.source.play();
      this.events[event](started);
    };
    return {
      started: (started) => {
        this.displays.begin(started);
        this.events.started(started, this.encoder);
        this.source.video.onended = () => this.stream.end();
        this.play(first);
        this.source.each(() => this.feed());
      },
      resumed: again("resumed"),
      restarted: again("restarted"),
      waiting: (why) => {
        if (this.source.isFile) this.source.pause();
        this.events.waiting(why);
      },
      result: (result) => this.show(result),
      drop: ({ seq, reason }) => this.drop(seq, reason),
      stats: (stats) => this.displays.degraded(stats.degraded),
      reset: ({ idr }) => idr && this.encoder.restart(),
      problem: (problem) => {
        if (problem.fatal) this.close();
        this.events.problem(problem);
      },
      ended: (ended) => {
        this.close();
        this.events.ended(ended);
      },
    };
  }

  async feed() {
    if (this.paused) return;
    const room = this.encoder.pending + this.sent.size < IN_FLIGHT;
    if (room && this.stream.isReady) await this.encoder.encode(this.source.grab(), performance.now());
  }

  sendCoded({ bytes, idr, picture, time }) {
    if (!this.stream.isReady) return this.encoder.restart();
    const seq = this.stream.send(bytes, { kind: this.encoder.kind, idr, ptsUs: 1000 * time });
    this.sent.set(seq, { picture, time });
    return undefined;
  }

  show(result) {
    const found = this.sent.get(result.meta.seq);
    this.sent.delete(result.meta.seq);
    this.answered();
    if (found) this.displays.show(found.picture, result, performance.now() - found.time);
  }

  drop(seq, reason) {
    this.sent.delete(seq);
    this.answered();
    this.displays.drop();
    if (reason === "waiting_for_idr" || reason === "overflow") this.encoder.restart();
  }

  /** Change options from the next frame on. */
  update(changes) {
    this.stream?.update(changes);
  }

  pause() {
    this.paused = true;
    this.source.pause();
  }

  /** Go on; first with a picture that changes were marked on, which no newer one may displace. */
  async play(marked = null) {
    if (marked) {
      await this.stream.ready();
      if (this.stream.over) return;
      await this.encoder.encode(marked, performance.now());
      while (this.sent.size + this.encoder.pending) await new Promise((done) => (this.answered = done));
    }
    this.paused = false;
    this.source.play();
  }

  /** The server can still say what came of the stream. */
  get canEnd() {
    return Boolean(this.stream?.info) && !this.stream.brokenAt;
  }

  /** End the stream; `ended` follows. */
  stop() {
    this.source.pause();
    this.stream.end();
  }

  close() {
    this.source.close();
    this.encoder?.close();
    this.stream?.close();
  }
}
