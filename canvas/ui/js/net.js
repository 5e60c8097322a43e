// Frames from the server: one request at a time, always the newest painting, and the last one is never lost.

const RETRY_MS = [500, 1000, 2000, 4000];

/**
 * `current()` is the painting now; `onSent(number)` says that it is on its way, `onFrame({number, image, ms, painting})`
 * that it came back, `onStatus(state, detail)` what there is to say: ready, working, reconnecting, error.
 */
function makeNet({ server, session, current, onSent, onFrame, onStatus }) {
  let number = 0;
  let inFlight = false;
  let changed = false;
  let times = [];

  async function send() {
    if (inFlight) return;
    inFlight = true;
    try {
      while (changed) {
        changed = false;
        await once();
      }
    } finally {
      inFlight = false;
    }
  }

  async function once() {
    const painting = current();
    const mine = ++number;
    onSent(mine);
    onStatus("working");
    const started = performance.now();
    const text = await toJson(painting);
    const answer = await ask(mine, text, painting);
    if (!answer || answer.dropped) return;
    if (answer.error) {
      onStatus("error", answer.error);
      return;
    }
    const now = performance.now();
    times = [...times, now].filter((time) => now - time < 2000);
    const fps = times.length > 2 ? (1000 * (times.length - 1)) / (now - times[0]) : 0;
    await onFrame({ ...answer, number: mine, painting });
    onStatus("ready", { ms: Math.round(now - started), fps });
  }

  /** Asks until the server answers; a painting that changed meanwhile goes instead. */
  async function ask(mine, text, painting) {
    for (let attempt = 0; ; attempt++) {
      try {
        return await server.frame({ session, number: mine, painting: text });
      } catch {
        onStatus("reconnecting");
        await new Promise((done) => setTimeout(done, RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]));
        if (current() !== painting) {
          changed = true;
          return null;
        }
      }
    }
  }

  return {
    request() {
      changed = true;
      send();
    },
    get busy() {
      return inFlight || changed;
    },
    get number() {
      return number;
    },
  };
}
