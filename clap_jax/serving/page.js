// What comes from files, models and visitors is inserted as text, never as HTML.
const $ = (id) => document.getElementById(id);
let video = null;
const say = (text, wrong = false, id = 'status') => { $(id).textContent = text; $(id).classList.toggle('wrong', wrong); };
async function checked(response) {
  if (response.ok) return response;
  let reason = response.statusText;
  try { const body = await response.json(); reason = typeof body.detail === 'string' ? body.detail : JSON.stringify(body.detail); } catch { /* no JSON */ }
  throw new Error(reason);
}
const ready = (on) => { $('find').disabled = !on; };
async function upload(file) {
  const most = Number($('drop').dataset.maxBytes);
  if (file.size > most) { say(`The file is larger than ${Math.floor(most / 1048576)} MiB.`, true); return; }
  ready(false); video = null; $('drop-text').textContent = file.name; say('Reading the video …');
  try {
    const response = await checked(await fetch(`/api/videos?name=${encodeURIComponent(file.name)}`, { method: 'POST', body: file }));
    const body = await response.json();
    video = body.video; ready(true); say(`${body.duration_sec.toFixed(1)} s of video, ready.`);
  } catch (error) { say(error.message, true); }
}
const question = () => ({ video, queries: $('queries').value.split('\n').map((line) => line.trim()).filter(Boolean) });
const ask = (path) => fetch(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(question()) }).then(checked);
$('file').addEventListener('change', (event) => { if (event.target.files.length) upload(event.target.files[0]); });
for (const kind of ['dragover', 'dragleave', 'drop']) {
  $('drop').addEventListener(kind, (event) => { event.preventDefault(); $('drop').classList.toggle('over', kind === 'dragover'); if (kind === 'drop' && event.dataTransfer.files.length) upload(event.dataTransfer.files[0]); });
}
$('find').addEventListener('click', async () => {
  ready(false); say('Looking …'); const began = performance.now();
  try {
    $('result').srcdoc = await (await ask('/api/player')).text();
    $('result').hidden = false; say(`Answered in ${((performance.now() - began) / 1000).toFixed(1)} s.`);
  } catch (error) { say(error.message, true); }
  ready(true);
});
const search = $('search');
if (search) {
  const run = async () => {
    say('Searching …', false, 'search-status'); const began = performance.now();
    try {
      const response = await checked(await fetch(`/api/search?text=${encodeURIComponent($('text').value)}`));
      const { moments } = await response.json();
      say(`${moments.length} moments in ${(performance.now() - began).toFixed(0)} ms.`, false, 'search-status');
      $('moments').replaceChildren(...moments.map((moment) => {
        const item = document.createElement('li'); const button = document.createElement('button');
        button.className = 'plain';
        button.textContent = `${moment.video}, ${moment.start_sec.toFixed(1)}–${moment.end_sec.toFixed(1)} s, score ${moment.score.toFixed(2)}`;
        button.addEventListener('click', () => { const player = $('preview'); player.hidden = false; player.src = `${moment.file}#t=${moment.start_sec},${moment.end_sec}`; player.play(); });
        item.append(button); return item;
      }));
    } catch (error) { say(error.message, true, 'search-status'); }
  };
  search.addEventListener('click', run);
  $('text').addEventListener('keydown', (event) => { if (event.key === 'Enter') run(); });
}
