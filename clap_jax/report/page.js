// The page works without this script. It adds a hair line with the time that
// follows the pointer over a timeline, and buttons that copy a command.
document.documentElement.classList.add('js');

for (const plot of document.querySelectorAll('.tl-plot')) {
  const duration = Number(plot.dataset.duration);
  const line = document.createElement('div');
  line.className = 'tl-hair';
  line.setAttribute('aria-hidden', 'true');
  plot.append(line);
  plot.addEventListener('pointermove', (event) => {
    const axis = plot.querySelector('.tl-axis').getBoundingClientRect();
    const share = (event.clientX - axis.left) / axis.width;
    const inside = share >= 0 && share <= 1;
    line.classList.toggle('on', inside);
    if (!inside) return;
    line.style.left = `${event.clientX - plot.getBoundingClientRect().left}px`;
    line.dataset.time = `${(share * duration).toFixed(1)} s`;
  });
  plot.addEventListener('pointerleave', () => line.classList.remove('on'));
}

for (const button of document.querySelectorAll('.copy')) {
  button.hidden = !navigator.clipboard;
  button.addEventListener('click', async () => {
    const code = button.parentElement.querySelector('code');
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
  });
}
