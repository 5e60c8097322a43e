// The same painting with four other seeds, side by side.

const VARIATIONS = 4;

/** `aside(painting, wanted)` makes their pictures; `onSeed(seed)` takes one, a whole number of any size. */
function makeVariations({ root, store, aside, status, onSeed }) {
  const dialog = root.querySelector("dialog.fb-four");
  const list = dialog.querySelector(".fb-seeds");
  let round = 0;

  function close() {
    round += 1;
    dialog.close();
  }

  function itemOf(seed) {
    const button = Object.assign(document.createElement("button"), { type: "button", title: TEXT.variations_take.replace("{seed}", seed) });
    button.setAttribute("aria-label", button.title);
    const picture = Object.assign(new Image(), { alt: "", hidden: true });
    const name = Object.assign(document.createElement("span"), { textContent: seed });
    button.append(picture, name);
    button.addEventListener("click", () => {
      close();
      onSeed(BigInt(seed));
    });
    return { seed, button, picture };
  }

  async function fill() {
    const mine = ++round;
    const { painting } = store;
    const seeds = new Set();
    while (seeds.size < VARIATIONS) seeds.add(String(Math.floor(Math.random() * SEED_ROLL)));
    const items = [...seeds].map(itemOf);
    list.replaceChildren(...items.map(({ button }) => button));
    for (const { seed, button, picture } of items) {
      const answer = await aside({ ...painting, seed }, () => mine === round);
      if (mine !== round) return;
      if (answer?.image) {
        picture.src = answer.image;
        picture.hidden = false;
      } else {
        button.disabled = true;
        status.say(TEXT.error_variations.replace("{why}", answer?.error ?? TEXT.error_no_answer));
      }
    }
  }

  function open() {
    if (!dialog.open) dialog.showModal();
    fill();
  }

  root.querySelector("[data-do=variations]").addEventListener("click", open);
  dialog.querySelector("[data-do=another]").addEventListener("click", fill);
  dialog.querySelector("[data-do=close]").addEventListener("click", close);
  dialog.addEventListener("click", (event) => event.target === dialog && close());
  dialog.addEventListener("close", () => (round += 1));
  return { open };
}
