"""How the page looks, and what it does without asking the server: keys, pictures, the stop."""

STYLE = """
body { background: #f4f5f2; color: #1b1f23; font-size: 17px; }
.nicegui-content { padding: 10px 10px 84px; max-width: none; }
.sitting { display: grid; grid-template-columns: minmax(0, 1fr) 30rem; gap: 14px; width: 100%; }
.half { display: grid; grid-template-columns: minmax(0, 1fr); gap: 10px; align-content: start; }
.box { background: #fff; border: 1px solid #c9cec6; border-radius: 8px; padding: 10px 14px; }
.bar { display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: baseline; }
.code { font-size: 26px; font-weight: 700; }
.phase { font-size: 22px; font-weight: 600; }
.small { color: #4b5259; font-size: 15px; }
.prompt { font-size: 20px; font-weight: 600; }
.success { color: #0b6b2d; }
.failure { color: #9a2113; }
.alarm { background: #fde8e4; border-color: #c6402c; color: #701708; }
.alarm, .lines { white-space: pre-line; }
.tools { align-items: center; }
.turn { display: none; }
.view { position: relative; background: #22272b; border-radius: 8px; overflow: hidden;
  aspect-ratio: 4 / 3; align-self: start; }
.view .picture { position: absolute; inset: 0; }
.view img { position: absolute; width: 100%; height: 100%; max-width: none; object-fit: contain; }
.cameras { display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 1fr); gap: 10px; }
.name { position: absolute; z-index: 1; left: 8px; top: 6px; padding: 1px 8px; color: #fff;
  background: #000a; border-radius: 5px; font-size: 14px; }
.lost { outline: 5px solid #d33a22; }
.lost .name { background: #d33a22; }
.deeds { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 8px; }
.deeds .wide { grid-column: 1 / -1; }
.deed { min-height: 52px; font-size: 18px !important; text-transform: none !important; }
.chosen { outline: 4px solid #1b1f23; outline-offset: 1px; }
.stop { min-height: 64px; font-size: 22px !important; position: fixed; left: 10px; right: 10px;
  bottom: 8px; z-index: 10; }
.q-field__native, .q-field__label { font-size: 17px !important; }
.q-btn.disabled { filter: grayscale(.85); }
@media (max-width: 1000px) {
  .sitting { grid-template-columns: minmax(0, 1fr); gap: 10px; }
  .half { display: contents; }
  .words, .last { order: 1; }
}
"""

# One order is one message with the trial that the page shows. A key held down, or one pressed
# while typing, is none; Esc always is, and goes by a request of its own.
SCRIPT = """
const KEYS = {' ': 'start', s: 'success', f: 'failure', i: 'invalid', Enter: 'write', k: 'keep',
  g: 'release', r: 'retry', u: 'unblind'};
function act(deed) {
  const turn = document.querySelector('.turn');
  emitEvent('deed', deed + '|' + (turn ? turn.textContent : ''));
}
async function stopArm() {
  const told = document.querySelector('.unheard');
  try {
    const answer = await fetch('/abort', {method: 'POST'});
    if (!answer.ok) throw new Error(answer.status);
    if (told) told.style.display = 'none';
  } catch (error) {
    if (told) told.style.display = 'block';
  }
}
document.addEventListener('keydown', event => {
  if (event.key === 'Escape') { event.preventDefault(); stopArm(); return; }
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.matches('input, textarea')) {
    if (event.key === 'Enter') { event.preventDefault(); event.target.blur(); }
    return;
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const deed = /^[0-9]$/.test(key) ? 'rubric:' + key : KEYS[key];
  if (key === 'n' && !event.repeat) {
    event.preventDefault();
    const note = document.querySelector('.note input');
    if (note) note.focus();
  }
  if (!deed) return;
  event.preventDefault();
  event.stopPropagation();
  if (!event.repeat) act(deed);
}, true);
document.addEventListener('keyup', event => {
  if (event.key === ' ' && !event.target.matches('input, textarea')) event.preventDefault();
}, true);
document.addEventListener('click', () => {
  const focused = document.activeElement;
  if (focused && focused.tagName === 'BUTTON') focused.blur();
});
setInterval(() => fetch('/here', {method: 'POST'}).catch(() => {}), 1000);
setInterval(() => {
  for (const image of document.querySelectorAll('img[data-src]')) {
    const now = Date.now(), every = Number(image.dataset.every || 0);
    if (image.dataset.waits || now - Number(image.dataset.asked || 0) < every) continue;
    if (image.offsetParent === null) continue;
    image.dataset.waits = 'yes';
    image.dataset.asked = now;
    image.onload = image.onerror = () => { delete image.dataset.waits; };
    image.src = image.dataset.src + '?at=' + now;
  }
}, 150);
"""
