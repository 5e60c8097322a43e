// Pictures beside the one being painted: of snapshots, before and after, with other seeds.

/**
 * Asks for pictures one after another, each while nothing waits to be painted: `idle()` resolves then. The function that
 * it makes answers `{image}` or `{error}`, or null where the picture is no longer `wanted()` when its turn comes.
 */
function makeAside({ server, session, idle }) {
  let last = Promise.resolve();

  async function once(painting, wanted) {
    await idle();
    if (!wanted()) return null;
    const request = { session: `${session} aside`, number: 0, painting: await toJson(painting) };
    return (await answerOf(server.frame(request))) ?? { error: TEXT.error_no_answer };
  }

  return (painting, wanted = () => true) => {
    last = last.then(() => once(painting, wanted));
    return last;
  };
}
