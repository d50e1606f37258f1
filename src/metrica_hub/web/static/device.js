// The page of a device: one cursor over all plots of its vitals.
"use strict";

(() => {
  const WIDTH = 600;
  const valuesOf = (plot) => plot.dataset.values.split(" ").map((pair) => pair.split(":").map(Number));

  const point = (x) => {
    for (const plot of document.querySelectorAll(".plot")) {
      const label = plot.querySelector(".latest-value");
      label.dataset.latest ??= label.textContent;
      const unit = label.dataset.latest.replace(/^[\d.]+\s*/, "");
      const near = x === null ? null : valuesOf(plot).reduce((best, one) => (Math.abs(one[0] - x) < Math.abs(best[0] - x) ? one : best));
      label.textContent = near ? `${near[1]} ${unit}` : label.dataset.latest;
      plot.querySelector(".cursor").setAttribute("d", near ? `M${near[0]} 0V80` : "");
    }
  };

  document.addEventListener("pointermove", (event) => {
    const svg = event.target.closest?.(".plot")?.querySelector("svg");
    if (!svg) return;
    const box = svg.getBoundingClientRect();
    point(Math.min(WIDTH, Math.max(0, ((event.clientX - box.left) / box.width) * WIDTH)));
  });
  document.addEventListener("pointerout", (event) => {
    if (event.target.closest?.(".plot") && !event.relatedTarget?.closest?.(".plot")) point(null);
  });
})();
