/** Browsers load no modules from file://, so that the page would wait for ever; this is no module. */

if (location.protocol === "file:") {
  document.getElementById("state").textContent =
    "This page must be opened through a web server. In its folder, run: python -m http.server --bind 127.0.0.1";
}
