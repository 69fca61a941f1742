// Replaces the parts of the page as they change. All HTML comes from the server, which has escaped it.
"use strict";
const main = document.querySelector("main"), said = document.getElementById("said");
const SILENT = 50000;  // ms without a word until the connection is made anew; the server says something every 20 s
let source, heard = Date.now(), lost = false;

function say(text) { if (said.textContent !== text) said.textContent = text; }

function show(id, html) {
  const place = document.getElementById(id);
  if (!place) return;
  const open = [...place.querySelectorAll("details[open]")].map(x => x.id);
  const scrolled = [...place.querySelectorAll("[tabindex]")].map(x => x.scrollLeft);
  place.innerHTML = html;
  for (const name of open) document.getElementById(name)?.setAttribute("open", "");
  [...place.querySelectorAll("[tabindex]")].forEach((x, i) => { x.scrollLeft = scrolled[i] || 0; });
  local(place);
}

function local(place) {  // times as this reader's clock has them
  for (const time of place.querySelectorAll("time"))
    time.textContent = new Date(time.dateTime).toLocaleString(undefined, { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}

function alive() {
  heard = Date.now();
  if (lost) { lost = false; say("Connected again."); }
}

function connect() {
  source?.close();
  source = new EventSource(main.dataset.events);
  source.addEventListener("run", event => {
    if (event.data !== main.dataset.run) location.reload();  // another run, or another version of the page
    alive();
  });
  source.addEventListener("parts", event => {
    const parts = JSON.parse(event.data);
    for (const id of Object.keys(parts)) show(id, parts[id]);
    alive();
  });
  source.addEventListener("said", event => { alive(); say(event.data); });
  source.addEventListener("beat", alive);
  source.onerror = () => {
    if (!lost) say("The machine that serves this page does not answer; what you see is as of " + new Date(heard).toLocaleTimeString() + ". Trying again.");
    lost = true;
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 5000);
  };
}

setInterval(() => { if (Date.now() - heard > SILENT) { heard = Date.now(); connect(); } }, 5000);
local(document);
connect();
