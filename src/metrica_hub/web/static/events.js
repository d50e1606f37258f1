// The page of events: new ones come in on top.
"use strict";
page.on("event", ({ html }) => {
  const events = document.getElementById("events");
  const row = page.fragment(html);
  if (document.getElementById(row.id)) return; // it stands there already
  row.classList.add("is-new");
  events.prepend(row);
  while (events.children.length > Number(events.dataset.keep)) events.lastElementChild.remove();
});
