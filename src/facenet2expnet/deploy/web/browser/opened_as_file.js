/** Browsers load no modules from file://, so that the page would wait for ever; this is no module. */

if (location.protocol === "file:") {
  document.getElementById("state").textContent =
    "This page has to come from a web server. In its folder, run: python -m http.server --bind 127.0.0.1";
}
