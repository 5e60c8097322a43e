// The brush's toolbar, the prompt and the seed.

const TYPING_MS = 500;
const SEED_MAX = 2n ** 63n - 1n;
const SEED_ROLL = 1000000;

/** Moves a slider and tells the style sheet how far it is filled. */
function setRange(range, value) {
  range.value = value;
  const { min, max } = range;
  range.style.setProperty("--fill", `${(100 * (range.value - min)) / (max - min)}%`);
}

function makeTools({ root, store }) {
  const tools = [...root.querySelectorAll("[data-tool]")];
  const size = root.querySelector("[data-set=size]");
  const hardness = root.querySelector("[data-set=hardness]");
  const strength = root.querySelector("[data-set=strength]");

  function choose(tool) {
    const other = { rub: false, inspect: false, move: false };
    store.setTool(tool in other ? { ...other, [tool]: true } : { ...other, mode: tool });
  }

  for (const button of tools) button.addEventListener("click", () => choose(button.dataset.tool));
  size.addEventListener("input", () => store.setTool({ size: Number(size.value) / 100 }));
  hardness.addEventListener("input", () => store.setTool({ hardness: Number(hardness.value) / 100 }));
  strength.addEventListener("input", () => store.setTool({ strength: Number(strength.value) }));

  function refresh() {
    const { rub, inspect, move, mode, size: diameter, strength: much } = store.tool;
    const held = inspect ? "inspect" : move ? "move" : rub ? "rub" : mode;
    for (const button of tools) button.setAttribute("aria-pressed", String(button.dataset.tool === held));
    setRange(size, Math.round(100 * diameter));
    size.nextElementSibling.textContent = `${size.value}%`;
    setRange(hardness, Math.round(100 * store.tool.hardness));
    hardness.nextElementSibling.textContent = `${hardness.value}%`;
    setRange(strength, much);
    strength.nextElementSibling.textContent = `${Math.round(100 * much)}%`;
    strength.disabled = rub || mode === "erase";
  }

  store.listen(refresh);
  refresh();
  return {
    choose,
    /** A quarter harder or softer. */
    harden: (sign) => store.setTool({ hardness: Math.min(1, Math.max(0, store.tool.hardness + 0.25 * sign)) }),
    /** One notch bigger or smaller. */
    resize(sign) {
      const percent = Number(size.value);
      const notch = Math.max(1, Math.round(percent / 8));
      store.setTool({ size: Math.min(Number(size.max), Math.max(Number(size.min), percent + sign * notch)) / 100 });
    },
  };
}

function makeSettings({ root, store, onChange }) {
  const prompt = root.querySelector("[data-set=prompt]");
  const seed = root.querySelector("[data-set=seed]");
  const roll = root.querySelector("[data-do=roll]");
  const lock = root.querySelector("[data-do=lock]");
  let typing = 0;

  function settle() {
    clearTimeout(typing);
    typing = 0;
    store.commit();
  }

  prompt.addEventListener("input", () => {
    store.preview({ ...store.painting, prompt: prompt.value });
    clearTimeout(typing);
    typing = setTimeout(() => {
      settle();
      onChange();
    }, TYPING_MS);
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    settle();
    onChange();
  });
  prompt.addEventListener("blur", () => {
    if (!typing) return;
    settle();
    onChange();
  });

  /** `value`: a whole number of any size. */
  function setSeed(number) {
    const value = String(number < 0n ? 0n : number > SEED_MAX ? SEED_MAX : number);
    if (value !== store.painting.seed) {
      store.commit({ ...store.painting, seed: value });
      onChange();
    }
    refresh();
  }

  seed.addEventListener("change", () => {
    const digits = seed.value.replace(/\D/g, "");
    setSeed(BigInt(digits || store.painting.seed));
  });
  seed.addEventListener("keydown", (event) => {
    if (event.key === "Enter") seed.blur();
    const step = { ArrowUp: 1n, ArrowDown: -1n }[event.key];
    if (!step) return;
    event.preventDefault();
    setSeed(BigInt(store.painting.seed) + step);
  });
  function rollSeed() {
    if (!store.tool.seedLocked) setSeed(BigInt(Math.floor(Math.random() * SEED_ROLL)));
  }

  roll.addEventListener("click", rollSeed);
  lock.addEventListener("click", () => store.setTool({ seedLocked: !store.tool.seedLocked }));

  function refresh() {
    const { painting, tool } = store;
    if (prompt.value !== painting.prompt) prompt.value = painting.prompt;
    seed.value = painting.seed;
    seed.readOnly = roll.disabled = Boolean(tool.seedLocked);
    lock.setAttribute("aria-pressed", String(Boolean(tool.seedLocked)));
    lock.title = tool.seedLocked ? TEXT.seed_unlock : TEXT.seed_lock;
    lock.setAttribute("aria-label", lock.title);
    lock.querySelector("use").setAttribute("href", tool.seedLocked ? "#fb-lock" : "#fb-unlock");
  }

  store.listen(refresh);
  refresh();
  return { roll: rollSeed };
}
