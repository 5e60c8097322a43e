// Frames from the server: one request at a time, always the newest painting, and the last one is never lost.

const RETRY_MS = [500, 1000, 2000, 4000];
const QUEUE_MS = 700; // who waits for longer is told how many are ahead

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** What the server says, or null if it cannot be reached: Gradio's client answers with nothing then. */
const answerOf = (call) => Promise.resolve(call).then((answer) => answer ?? null, () => null);

/**
 * `current()` is the painting now, `hurried()` whether a draft of it will do; `onSent(number)` says that it is on its way, `onFrame({number, image, ms, painting})`
 * that it came back, `onRefused(number)` that it
 * cannot be painted, `onStatus(state, detail)` what there is to say: ready, working, waiting, reconnecting, error.
 */
function makeNet({ server, session, current, hurried, onSent, onFrame, onRefused, onStatus }) {
  let number = 0;
  let answered = 0;
  let inFlight = false;
  let changed = false;
  let resting = Promise.resolve();
  let times = [];
  let state = "";

  function tell(next, detail) {
    state = next;
    onStatus(next, detail);
  }

  async function send() {
    if (inFlight) return;
    inFlight = true;
    let rest;
    resting = new Promise((done) => (rest = done));
    try {
      while (changed) {
        changed = false;
        await once();
      }
    } finally {
      inFlight = false;
      rest();
    }
  }

  async function once() {
    const painting = current();
    const draft = hurried();
    const mine = ++number;
    onSent(mine);
    if (state !== "reconnecting") tell("working");
    const started = performance.now();
    const text = await toJson(painting);
    const answer = await ask(mine, text, painting, draft);
    if (!answer || answer.dropped) return;
    if (answer.error) {
      onRefused(mine);
      tell("error", answer.error);
      return;
    }
    const now = performance.now();
    times = [...times, now].filter((time) => now - time < 2000);
    const fps = times.length > 2 ? (1000 * (times.length - 1)) / (now - times[0]) : 0;
    await onFrame({ ...answer, number: mine, painting });
    tell("ready", { ms: Math.round(now - started), fps });
  }

  /** Asks until the server answers; a painting that changed meanwhile goes instead. */
  async function ask(mine, text, painting, draft) {
    for (let attempt = 0; ; attempt++) {
      const asking = setTimeout(tellQueue, QUEUE_MS, mine);
      const answer = await answerOf(server.frame({ session, number: mine, painting: text, draft }));
      clearTimeout(asking);
      answered = mine;
      if (answer) return answer;
      tell("reconnecting");
      await pause(RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]);
      if (current() !== painting) {
        changed = true;
        return null;
      }
    }
  }

  /** Says how many are ahead, again and again, until request `mine` is answered. */
  async function tellQueue(mine) {
    while (answered !== mine) {
      const answer = await answerOf(server.queue({ session }));
      if (answered === mine) return;
      if (answer?.ahead) tell("waiting", answer);
      else if (state === "waiting") tell("working");
      await pause(QUEUE_MS);
    }
  }

  return {
    request() {
      changed = true;
      send();
    },
    /** Resolves once there is nothing to paint. */
    async idle() {
      while (inFlight) await resting;
    },
    get busy() {
      return inFlight || changed;
    },
    get number() {
      return number;
    },
  };
}
