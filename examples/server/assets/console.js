// What saves reloads: live figures, charts, files into forms. Every page is whole without it.
"use strict";

document.documentElement.classList.add("scripted");

// === Live figures ===

let stream = null;
let streamed = "";

function listen() {
  const marks = document.querySelectorAll("[data-live-state]");
  const devices = [...document.querySelectorAll("[data-device]")].map((mark) => mark.dataset.device);
  const address = "/console/live?devices=" + encodeURIComponent([...new Set(devices)].slice(0, 100).join(","));
  if (marks.length === 0 || (stream && streamed === address)) return;
  if (stream) stream.close();
  streamed = address;
  stream = new EventSource(address);
  stream.onmessage = (event) => show(JSON.parse(event.data));
  stream.onopen = () => marks.forEach((mark) => state(mark, "Live"));
  stream.onerror = () => marks.forEach((mark) => state(mark, "Not live"));
}

function state(mark, word) {
  mark.hidden = false;
  mark.textContent = word;
  mark.classList.toggle("paused", word !== "Live");
}

function show(beat) {
  for (const mark of document.querySelectorAll("[data-live]")) {
    const text = beat.text?.[mark.dataset.live];
    if (text !== undefined && mark.textContent !== text) mark.textContent = text;
  }
  for (const line of beat.points === undefined ? [] : document.querySelectorAll("[data-live-points]")) line.setAttribute("points", beat.points);
  for (const mark of document.querySelectorAll("[data-device]")) {
    const online = beat.online[mark.dataset.device];
    const dot = mark.querySelector(".dot");
    if (online === undefined || dot.classList.contains("on") === online) continue;
    dot.classList.toggle("on", online);
    mark.querySelector(".word").textContent = online ? "online" : "offline";
  }
}

// A page that nobody sees needs no figures.
document.addEventListener("visibilitychange", () => {
  if (document.hidden && stream) {
    stream.close();
    stream = null;
  } else if (!document.hidden) {
    listen();
  }
});

// === Charts, from the tables that stand below them ===

let charts = [];

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function clock(at) {
  const text = new Date(at * 1e3).toISOString();
  return at % 86400 === 0 ? text.slice(5, 10) : text.slice(11, at % 60 === 0 ? 16 : 19);
}

function draw(box) {
  const rows = [...box.parentElement.querySelectorAll("tr[data-at]")];
  if (rows.length < 2) return;
  const column = (name) => rows.map((row) => Number(row.dataset[name]));
  const axis = {
    stroke: colour("--muted"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
    font: "12px " + colour("--font"),
  };
  const accent = colour("--accent");
  const options = {
    // As in the table and in all of the API.
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1e3), "Etc/UTC"),
    width: box.clientWidth,
    height: 240,
    cursor: { points: { size: 6 } },
    legend: { live: true },
    series: [
      { label: "UTC", value: (_, at) => (at === null ? "–" : new Date(at * 1e3).toISOString().slice(11, 19)) },
      { label: "mean", stroke: accent, width: 1.75, points: { show: rows.length < 20 } },
      { label: "least", stroke: "transparent", points: { show: false } },
      { label: "most", stroke: "transparent", points: { show: false } },
    ],
    bands: [{ series: [3, 2], fill: accent + "22" }],
    axes: [{ ...axis, space: 72, values: (_, ats) => ats.map(clock) }, { ...axis, size: 48 }],
  };
  box.replaceChildren();
  charts.push({ box, plot: new uPlot(options, [column("at"), column("mean"), column("min"), column("max")], box) });
  box.querySelector(".u-legend")?.setAttribute("aria-label", "Values at the pointer");
}

function drawAll() {
  charts.forEach(({ plot }) => plot.destroy());
  charts = [];
  document.querySelectorAll("[data-chart]").forEach(draw);
}

addEventListener("resize", () => charts.forEach(({ box, plot }) => plot.setSize({ width: box.clientWidth, height: 240 })));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

// === Files ===

document.addEventListener("change", async (event) => {
  const fills = event.target.dataset?.fills;
  if (fills && event.target.files.length > 0) document.getElementById(fills).value = await event.target.files[0].text();
});

// === Parts of a page that were replaced ===

document.addEventListener("htmx:afterSettle", () => {
  listen();
  if (document.querySelector("[data-chart] > svg")) drawAll();
});

// Whoever sent a form with a mistake goes on where it is.
document.querySelector("[aria-invalid=true]")?.focus();

listen();
drawAll();
