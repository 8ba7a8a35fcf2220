// Keys, for who works through a list. Every page works without this.
"use strict";
const rows = [...document.querySelectorAll(".row .open")];
const typing = (target) => target.closest("input, textarea, select, dialog") !== null;
const move = (step) => {
  const at = rows.findIndex((row) => row === document.activeElement);
  const next = rows[Math.min(Math.max(at + step, 0), rows.length - 1)];
  if (next !== undefined) next.focus();
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
  if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (event.key === "/") {
    event.preventDefault();
    const box = document.getElementById("q");
    if (box !== null) box.focus();
    else window.location.assign("/search");
  } else if (event.key === "?") document.getElementById("keys").showModal();
});
