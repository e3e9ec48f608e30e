// Asks again and again, gently: not while nobody looks, slower while nothing changes or answers.

import { byId } from "./dom.js";

const EVERY_MS = 2000;
const SLOWEST_MS = 30000;

export async function ask(url) {
  // The browser keeps the last answer and sends its ETag; unchanged data comes back as a 304.
  const answer = await fetch(url, { headers: { Accept: "application/json" } });
  if (answer.status === 401) location.href = "/";
  if (!answer.ok) throw new Error((await answer.text()).slice(0, 300));
  return answer.json();
}

// `look` is asked for whether there is more to come.
export function poll(look) {
  const live = byId("live");
  let wait = EVERY_MS;
  let timer = 0;
  const tell = (state, words) => { live.className = state; live.textContent = words; };
  async function again() {
    clearTimeout(timer);
    try {
      const goesOn = await look();
      tell(goesOn ? "" : "over", goesOn ? "live" : "the run is over");
      wait = goesOn ? EVERY_MS : SLOWEST_MS;
    } catch (error) {
      tell("lost", error instanceof TypeError ? "no answer" : error.message);
      wait = Math.min(2 * wait, SLOWEST_MS);
    }
    if (!document.hidden) timer = setTimeout(again, wait);
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) again(); });
  again();
}
