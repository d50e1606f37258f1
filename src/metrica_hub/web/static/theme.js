// Before the first paint: the theme that somebody chose here. The button to choose comes with live.js.
"use strict";
try {
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // No storage here: the system's own theme.
}
