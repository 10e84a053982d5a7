// The cluster as the server last told it: a whole picture, then changes of it. Rates are of two pictures.

// What is counted, and the rate per s below which nothing is shown: a rate that falls by half at each look never ends.
const RATES = { num_prompt_tokens: 0.5, num_output_tokens: 0.5, kv_bytes_sent: 1000, kv_bytes_received: 1000 };
const MAX_EVENTS = 512;
const MAX_POINTS = 120;
const SMOOTH = 0.5; // of a new rate, what counts at once

export class Picture {
  constructor() {
    this.workers = new Map();
    this.trend = [];
    this.events = [];
    this.streams = [];
    this.pools = [];
    this.fleets = [];
    this.at_s = 0;
  }

  take(kind, body) {
    if (kind === "picture") this.#begin(body);
    else this.#change(body);
  }

  #begin(body) {
    const { workers, ...rest } = body;
    Object.assign(this, rest);
    this.workers = new Map(workers.map((one) => [one.key, { ...one, rates: {} }]));
  }

  #change(body) {
    const { workers = {}, gone = [], trend = [], events = [], ...rest } = body;
    const span = body.at_s - this.at_s;
    for (const name of gone) this.workers.delete(name);
    for (const worker of this.workers.values()) this.#measure(worker, workers[worker.key] ?? {}, span);
    for (const [name, fields] of Object.entries(workers)) {
      const known = this.workers.get(name);
      if (known) Object.assign(known, fields);
      else this.workers.set(name, { ...fields, rates: {} });
    }
    Object.assign(this, rest);
    this.trend = this.#joined(trend);
    this.events = [...this.events, ...events].slice(-MAX_EVENTS);
  }

  #measure(worker, fields, span) {
    for (const [name, least] of Object.entries(RATES)) {
      const gained = Math.max((fields[name] ?? worker[name]) - worker[name], 0);
      const rate = span > 0 ? gained / span : 0;
      const old = worker.rates[name] ?? rate;
      worker.rates[name] = old + SMOOTH * (rate - old);
      if (worker.rates[name] < least) worker.rates[name] = 0;
    }
  }

  #joined(points) {
    const all = new Map(this.trend.map((one) => [one.at_s, one]));
    for (const point of points) all.set(point.at_s, point);
    return [...all.values()].sort((a, b) => a.at_s - b.at_s).slice(-MAX_POINTS);
  }

  // The newest point of which loads are known.
  get load() {
    return this.trend.findLast((point) => point.num_running !== null) ?? null;
  }
}
