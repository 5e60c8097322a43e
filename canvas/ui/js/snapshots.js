// States of the painting that are kept to go back to, and to compare with; the browser keeps them between visits.

const SNAPSHOTS = 48;
const SNAPSHOT_CHARS = 2e6; // of all together, as the browser's storage is small
const SNAPSHOT_SIDE = 120;

/** The picture at `url` made small. */
async function thumbnailOf(url) {
  const image = Object.assign(new Image(), { src: url });
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SNAPSHOT_SIDE;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, SNAPSHOT_SIDE, SNAPSHOT_SIDE);
  return canvas.toDataURL("image/jpeg", 0.86);
}

/** `onOpen(json)` shows a painting; `onChange()` is told when there are others. */
function makeSnapshots({ root, store, aside, status, onOpen, onChange }) {
  const list = root.querySelector(".fb-strip");
  const place = `featurebrush:snapshots:${store.painting.model}`;
  let kept = read(); // of {number, text, image}, the oldest first

  function read() {
    try {
      const found = JSON.parse(localStorage.getItem(place) ?? "[]");
      return found.filter(({ number, text, image }) => number > 0 && typeof text === "string" && typeof image === "string");
    } catch {
      return []; // a browser without storage, or one that holds something else
    }
  }

  /** Keeps them in the browser, and says so where that is not possible. */
  function write() {
    try {
      localStorage.setItem(place, JSON.stringify(kept));
    } catch {
      status.say(TEXT.snapshot_not_kept);
    }
  }

  function fits() {
    return kept.length <= SNAPSHOTS && kept.reduce((sum, { text, image }) => sum + text.length + image.length, 0) <= SNAPSHOT_CHARS;
  }

  async function take() {
    const { painting } = store;
    const text = await toJson(painting);
    if (kept.at(-1)?.text === text) {
      status.say(TEXT.snapshot_same, 3000);
      return;
    }
    const number = 1 + Math.max(0, ...kept.map((snapshot) => snapshot.number));
    kept = [...kept, { number, text, image: "" }];
    show();
    const answer = await aside(painting);
    const image = answer.image ? await thumbnailOf(answer.image) : "";
    kept = kept.map((snapshot) => (snapshot.number === number ? { ...snapshot, image } : snapshot));
    if (!fits()) status.say(TEXT.snapshot_made_room, 4000);
    while (!fits() && kept.length > 1) kept = kept.slice(1);
    write();
    show();
  }

  function forget(number) {
    kept = kept.filter((snapshot) => snapshot.number !== number);
    write();
    show();
    root.querySelector("[data-do=snapshot]").focus();
  }

  function button(className, text, act) {
    const made = Object.assign(document.createElement("button"), { type: "button", className, title: text });
    made.setAttribute("aria-label", text);
    made.addEventListener("click", act);
    return made;
  }

  function itemOf({ number, text, image }) {
    const item = document.createElement("li");
    const back = button("fb-back", TEXT.snapshot_back.replace("{number}", number), () => onOpen(text));
    if (image) back.append(Object.assign(new Image(), { src: image, alt: "" }));
    back.append(Object.assign(document.createElement("span"), { textContent: number }));
    const bin = button("fb-forget", TEXT.snapshot_delete.replace("{number}", number), () => forget(number));
    bin.innerHTML = '<svg><use href="#fb-close"/></svg>';
    item.append(back, bin);
    return item;
  }

  function show() {
    list.replaceChildren(...kept.map(itemOf).reverse());
    root.querySelector(".fb-strip-empty").hidden = kept.length > 0;
    onChange(kept);
  }

  root.querySelector("[data-do=snapshot]").addEventListener("click", take);
  show();
  return { take };
}
