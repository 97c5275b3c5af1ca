// Keeps pages up to date. Everything works without it: then pages in progress reload themselves.
"use strict";

const wait = (ms) => new Promise((done) => setTimeout(done, ms));

// Replace an element's content with what the server renders now; steps that were opened stay open, and the
// other way round.
async function keepLive(id) {
  for (;;) {
    const element = document.getElementById(id);
    const interval = Number(element?.dataset.live);
    if (!interval) return;
    await wait(interval);
    if (document.hidden || element.contains(document.activeElement) || !getSelection().isCollapsed) continue;
    try {
      const response = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (!response.ok) continue;
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const update = page.getElementById(id);
      if (!update) return;
      for (const step of element.querySelectorAll("details[data-toggled]")) {
        const same = step.id && update.querySelector(`#${step.id}`);
        if (same) Object.assign(same, { open: step.open }).dataset.toggled = "";
      }
      element.replaceWith(document.adoptNode(update));
      document.title = page.title;
    } catch {
      continue; // the server may be restarting
    }
  }
}

// Append what is new in a log. The page scrolls along until the reader scrolls up.
async function followLog(log) {
  const button = document.getElementById("follow");
  const end = () => scrollTo({ top: document.documentElement.scrollHeight });
  const isAtEnd = () => innerHeight + scrollY >= document.documentElement.scrollHeight - 60;
  let following = !location.hash;
  addEventListener("scroll", () => { following = isAtEnd(); button.hidden = following; }, { passive: true });
  button.addEventListener("click", end);
  if (following) end();
  // The log's stream says when there is something new; the server renders it.
  let wake = () => {};
  const events = new EventSource(`${log.dataset.events}&from=${log.dataset.offset}`);
  for (const name of ["message", "end"]) events.addEventListener(name, () => wake());
  const news = () => Promise.race([wait(3000), new Promise((done) => { wake = done; })]);
  for (let ended = false; !ended; await Promise.all([wait(400), news()])) {
    if (document.hidden) continue;
    try {
      const response = await fetch(`${log.dataset.follow}?offset=${log.dataset.offset}&line=${log.dataset.line}`);
      if (!response.ok) continue;
      const update = await response.json();
      const lines = new DOMParser().parseFromString(`<ol>${update.html}</ol>`, "text/html").querySelectorAll("li");
      const wasFollowing = following;
      log.append(...lines);
      Object.assign(log.dataset, { offset: update.offset, line: update.line });
      while (log.children.length > 5000) log.firstElementChild.remove();
      if (wasFollowing && lines.length) end();
      ended = update.ended;
    } catch {
      continue; // the server may be restarting
    }
  }
  events.close();
  if (following) location.reload();
}

document.addEventListener("click", (event) => {
  const step = event.target.closest("summary")?.parentElement;
  if (step) step.dataset.toggled = "";
});
for (const element of document.querySelectorAll("[data-live]")) keepLive(element.id);
const log = document.querySelector("[data-follow]");
if (log) followLog(log);
