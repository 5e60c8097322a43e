// Looking at the picture: which features are strong at a place, where else each is, and painting with one of them.

const LOOK_CELLS = 16;
const LOOK_SETTLE_MS = 500;

/** `paintingJson()` is what is looked at; `onPick(brush)` takes a feature as a brush. */
function makeInspect({ root, easel, server, session, store, atlas, paintingJson, onPick }) {
  const panel = root.querySelector(".fb-seen");
  const list = panel.querySelector("ul");
  const words = panel.querySelector("p");
  const heat = easel.querySelector(".fb-heat");
  const spot = easel.querySelector(".fb-spot");
  let known = new Map(); // what is seen, by cell, of the painting that is shown
  let wanted = null; // the cell to be shown: [column, row]
  let pinned = false;
  let asking = false;
  let settling = 0;
  let painting = null;

  const keyOf = ([column, row]) => row * LOOK_CELLS + column;

  async function ask() {
    if (asking) return;
    asking = true;
    while (wanted && store.tool.inspect && !known.has(keyOf(wanted))) {
      const cell = wanted;
      const [x, y] = cell.map((place) => (place + 0.5) / LOOK_CELLS);
      const here = known;
      const request = { session, painting: await paintingJson(), x, y };
      panel.dataset.state = "working";
      const answer = await answerOf(server.inspect(request));
      if (answer?.dropped) continue;
      if (here !== known) continue; // the painting changed meanwhile
      if (!answer?.seen) {
        say(TEXT.seen_error.replace("{why}", answer?.error ?? TEXT.error_no_answer));
        break;
      }
      known.set(keyOf(cell), answer.seen);
    }
    panel.dataset.state = "";
    asking = false;
    if (wanted && known.has(keyOf(wanted))) show(known.get(keyOf(wanted)));
  }

  function say(text) {
    list.replaceChildren();
    words.textContent = text;
    words.hidden = false;
  }

  function show(seen) {
    if (!seen.length) {
      say(TEXT.seen_none);
      return;
    }
    words.hidden = true;
    const had = document.activeElement?.closest?.(".fb-seen li");
    const place = had ? [...list.querySelectorAll("button")].indexOf(document.activeElement) : -1;
    const rows = [];
    let block = "";
    for (const feature of seen) {
      if (feature.block !== block) {
        block = feature.block;
        const heading = document.createElement("li");
        heading.className = "fb-seen-block";
        heading.textContent = TEXT.seen_block.replace("{block}", block);
        rows.push(heading);
      }
      rows.push(rowOf(feature, seen[0].activation));
    }
    list.replaceChildren(...rows);
    if (place >= 0) list.querySelectorAll("button")[place]?.focus();
  }

  function rowOf({ block, index, activation, heatmap }, most) {
    const brush = featureBrush(block, index);
    const row = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.feature = `${block}:${index}`;
    const name = titled(atlas.labelOf(brush) || TEXT.feature_unnamed);
    button.title = TEXT.seen_pick.replace("{name}", `${name} ${index}`);
    const label = document.createElement("span");
    label.className = "fb-words";
    const strong = document.createElement("b");
    strong.textContent = name;
    const small = document.createElement("i");
    small.textContent = TEXT.seen_feature.replace("{index}", index).replace("{times}", activation.toFixed(1));
    const bar = document.createElement("u");
    bar.style.setProperty("--share", Math.min(1, activation / Math.max(most, 1)));
    label.append(strong, small, bar);
    button.append(atlas.iconOf(brush), label);
    button.addEventListener("click", () => {
      close();
      onPick(brush);
    });
    for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => warm(heatmap));
    for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => warm(null));
    row.append(button);
    return row;
  }

  /** Lays a heatmap over the picture: where the feature is silent the picture is dimmed, where it is strong it glows. */
  function warm(heatmap) {
    heat.hidden = !heatmap;
    if (!heatmap) return;
    const context = heat.getContext("2d");
    const image = context.createImageData(LOOK_CELLS, LOOK_CELLS);
    new Uint8Array(unpacked(heatmap)).forEach((value, i) => {
      const share = value / 255;
      image.data.set([20 + 235 * share, 16 + 140 * share, 40 * (1 - share), 175 - 45 * share], 4 * i);
    });
    context.putImageData(image, 0, 0);
  }

  function look(x, y) {
    const within = (value) => Math.min(LOOK_CELLS - 1, Math.max(0, Math.floor(value * LOOK_CELLS)));
    wanted = [within(x), within(y)];
    spot.hidden = false;
    spot.style.left = `${(100 * (wanted[0] + 0.5)) / LOOK_CELLS}%`;
    spot.style.top = `${(100 * (wanted[1] + 0.5)) / LOOK_CELLS}%`;
    if (known.has(keyOf(wanted))) show(known.get(keyOf(wanted)));
    ask();
  }

  function forget() {
    known = new Map();
    if (wanted) ask();
  }

  function close() {
    wanted = null;
    pinned = false;
    spot.hidden = true;
    warm(null);
  }

  let open = false;
  store.listen(() => {
    const { inspect } = store.tool;
    panel.hidden = !inspect;
    if (inspect && !open) {
      say(TEXT.seen_hint);
      atlas.load().then(() => Promise.all([...atlas.blocks.keys()].map(atlas.loadIcons)), () => {});
    }
    if (!inspect && open) close();
    open = Boolean(inspect);
    spot.classList.toggle("fb-pinned", pinned);
    if (store.painting === painting) return;
    painting = store.painting;
    clearTimeout(settling);
    settling = setTimeout(forget, LOOK_SETTLE_MS);
  });
  painting = store.painting;

  panel.querySelector("[data-do=seen-close]").addEventListener("click", () => store.setTool({ inspect: false }));

  return {
    /** The pointer is at a place of the picture; `pressed` keeps the place, so that the list can be reached. */
    at(x, y, pressed) {
      if (pressed) pinned = true;
      else if (pinned) return;
      spot.classList.toggle("fb-pinned", pinned);
      look(x, y);
    },
    /** Lets a kept place go; says whether there was one. */
    release() {
      if (!pinned) return false;
      close();
      say(TEXT.seen_hint);
      return true;
    },
  };
}
