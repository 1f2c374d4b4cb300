"""Style sheet and script of the operator's page: layout, keys, live images, the stop."""

STYLE = """
body { background: #f4f5f2; color: #1b1f23; font-size: 17px; }
.nicegui-content { padding: 10px 10px 84px; max-width: none; }
.session { display: grid; grid-template-columns: minmax(0, 1fr) 30rem; gap: 14px; width: 100%; }
.page-column { display: grid; grid-template-columns: minmax(0, 1fr); gap: 10px;
  align-content: start; }
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
.trial-id { display: none; }
.camera { position: relative; background: #22272b; border-radius: 8px; overflow: hidden;
  aspect-ratio: 4 / 3; align-self: start; }
.camera .image { position: absolute; inset: 0; }
.camera img { position: absolute; width: 100%; height: 100%; max-width: none;
  object-fit: contain; }
.cameras { display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 1fr); gap: 10px; }
.camera-name { position: absolute; z-index: 1; left: 8px; top: 6px; padding: 1px 8px; color: #fff;
  background: #000a; border-radius: 5px; font-size: 14px; }
.lost { outline: 5px solid #d33a22; }
.lost .camera-name { background: #d33a22; }
.actions { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 8px; }
.actions .wide { grid-column: 1 / -1; }
.action { min-height: 52px; font-size: 18px !important; text-transform: none !important; }
.chosen { outline: 4px solid #1b1f23; outline-offset: 1px; }
.stop { min-height: 64px; font-size: 22px !important; position: fixed; left: 10px; right: 10px;
  bottom: 8px; z-index: 10; }
.q-field__native, .q-field__label { font-size: 17px !important; }
.q-btn.disabled { filter: grayscale(.85); }
@media (max-width: 1000px) {
  .session { grid-template-columns: minmax(0, 1fr); gap: 10px; }
  .page-column { display: contents; }
  .messages, .last-verdict { order: 1; }
}
"""

# Each action is sent with the id of the trial on the page, so that the server can reject one for
# another trial. A key held down, or pressed while typing, is no action. Esc always stops the arm,
# by its own HTTP request, which needs no websocket.
SCRIPT = """
const KEYS = {' ': 'start', s: 'success', f: 'failure', i: 'invalid', Enter: 'save',
  k: 'save_reference', g: 'reset_guard', r: 'retry', u: 'unblind'};
function act(action) {
  const trial = document.querySelector('.trial-id');
  emitEvent('action', action + '|' + (trial ? trial.textContent : ''));
}
async function stopArm() {
  const warning = document.querySelector('.stop-failed');
  try {
    const answer = await fetch('/abort', {method: 'POST'});
    if (!answer.ok) throw new Error(answer.status);
    if (warning) warning.style.display = 'none';
  } catch (error) {
    if (warning) warning.style.display = 'block';
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
  const action = /^[0-9]$/.test(key) ? 'rubric:' + key : KEYS[key];
  if (key === 'n' && !event.repeat) {
    event.preventDefault();
    const note = document.querySelector('.note input');
    if (note) note.focus();
  }
  if (!action) return;
  event.preventDefault();
  event.stopPropagation();
  if (!event.repeat) act(action);
}, true);
document.addEventListener('keyup', event => {
  if (event.key === ' ' && !event.target.matches('input, textarea')) event.preventDefault();
}, true);
document.addEventListener('click', () => {
  const focused = document.activeElement;
  if (focused && focused.tagName === 'BUTTON') focused.blur();
});
setInterval(() => fetch('/heartbeat', {method: 'POST'}).catch(() => {}), 1000);
setInterval(() => {
  for (const image of document.querySelectorAll('img[data-src]')) {
    const now = Date.now(), every = Number(image.dataset.every || 0);
    if (image.dataset.loading || now - Number(image.dataset.requested || 0) < every) continue;
    if (image.offsetParent === null) continue;
    image.dataset.loading = 'yes';
    image.dataset.requested = now;
    image.onload = image.onerror = () => { delete image.dataset.loading; };
    image.src = image.dataset.src + '?at=' + now;
  }
}, 150);
"""
