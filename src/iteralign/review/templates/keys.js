"use strict";
// Keyboard first: a digit clicks its choice, r goes to the reason, Esc leaves it, b and s go back and on. A key held down
// counts once: it must not rate what nobody has seen. Read in the head, not deferred: no key pressed at first sight is lost.
document.addEventListener("keydown", (event) => {
  const field = event.target.matches("textarea, input, select");
  if (field && event.key === "Escape") event.target.blur();
  if (field || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "r") {
    const note = document.getElementById("note");
    if (note) { event.preventDefault(); note.focus(); }
    return;
  }
  const wanted = [...document.querySelectorAll("[data-key]")].find((x) => x.dataset.key === event.key);
  if (wanted) { event.preventDefault(); wanted.click(); }
});
