// Keeps the fleet page live. The server renders every row; this file only puts them in their place.
"use strict";

(() => {
  const KEPT_EVENTS = 40;
  const body = document.body;
  const devices = document.getElementById("devices");
  const events = document.getElementById("events");
  const link = document.getElementById("link");
  const fleet = body.dataset.fleet;
  let heardAt = Date.now();
  let stale = link.dataset.state === "stale";
  let open = false;

  const fragment = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html; // made and escaped by the hub's own templates; the policy allows no inline script
    return template.content.firstElementChild;
  };

  const ago = (then) => {
    const seconds = Math.max(0, Math.round((Date.now() - then) / 1000));
    if (seconds < 2) return "now";
    if (seconds < 60) return `${seconds} s ago`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
    return `${Math.floor(seconds / 86400)} d ago`;
  };

  const tellTime = (root) => {
    for (const time of root.querySelectorAll(".seen time")) {
      const then = Date.parse(time.dateTime);
      time.title ||= `${new Date(then).toLocaleString()} (${time.dateTime})`;
      const text = ago(then);
      if (time.textContent !== text) time.textContent = text;
    }
  };

  const place = (row) => {
    const order = row.dataset.order;
    let low = 0;
    let high = devices.children.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (devices.children[middle].dataset.order < order) low = middle + 1;
      else high = middle;
    }
    devices.insertBefore(row, devices.children[low] ?? null);
  };

  const showDevice = ({ name, order, html }) => {
    const row = fragment(html);
    const before = document.getElementById(`device-${name}`);
    tellTime(row);
    if (before && before.dataset.order === order) {
      const told = before.querySelector(".deployment").textContent !== row.querySelector(".deployment").textContent;
      if (told) row.classList.add("is-new");
      if (!before.contains(document.activeElement)) before.replaceWith(row);
      return;
    }
    before?.remove();
    row.classList.add("is-new");
    place(row);
    document.getElementById("empty").hidden = true;
  };

  const showEvent = (html) => {
    events.prepend(fragment(html));
    while (events.children.length > KEPT_EVENTS) events.lastElementChild.remove();
  };

  const showSummary = (summary) => {
    for (const counter of document.querySelectorAll("[data-count]")) {
      const count = summary.counts[counter.dataset.count];
      counter.querySelector("b").textContent = count;
      counter.classList.toggle("is-zero", count === 0);
    }
    document.title = `${summary.problems ? `(${summary.problems}) ` : ""}${fleet} · Metrica Fleet`;
    stale = summary.stale;
    tellLink();
  };

  const tellLink = () => {
    const state = !open ? "lost" : stale ? "stale" : "live";
    const old = ago(heardAt);
    const text = {
      live: "live",
      lost: `reconnecting, last heard ${old}`,
      stale: "the database is away; this may be old",
    }[state];
    if (link.dataset.state !== state) link.dataset.state = state;
    const words = link.querySelector("span");
    if (words.textContent !== text) words.textContent = text;
  };

  const heard = (handle) => (message) => {
    heardAt = Date.now();
    handle(message.data);
  };

  const connect = (cursor) => {
    const source = new EventSource(`/live?after=${cursor}`);
    source.onopen = () => { open = true; heardAt = Date.now(); tellLink(); };
    source.onerror = () => {
      open = false;
      tellLink();
      // Refused for good (a hub that was set up anew): the page itself has to be asked for again.
      if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 5000);
    };
    source.addEventListener("device", heard((data) => showDevice(JSON.parse(data))));
    source.addEventListener("event", heard(showEvent));
    source.addEventListener("summary", heard((data) => showSummary(JSON.parse(data))));
  };

  tellTime(document);
  setInterval(() => { tellTime(document); if (!open) tellLink(); }, 1000);
  connect(body.dataset.cursor);
})();
