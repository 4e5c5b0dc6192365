const video = document.getElementById('video');
const hand = document.querySelector('.hand');
const duration = Number(document.querySelector('.plot').dataset.duration);
let stopAt = Infinity;
// Set here: the page's policy allows no style attributes.
for (const bar of document.querySelectorAll('.track button')) {
  bar.style.left = `${bar.dataset.left}%`;
  bar.style.width = `${bar.dataset.width}%`;
  bar.style.setProperty('--h', bar.dataset.hue);
  bar.style.setProperty('--a', bar.dataset.alpha);
}
for (const button of document.querySelectorAll('button[data-start]')) {
  button.addEventListener('click', () => {
    if (!video) return;
    for (const other of document.querySelectorAll('.playing')) other.classList.remove('playing');
    button.classList.add('playing');
    video.currentTime = Number(button.dataset.start);
    stopAt = Number(button.dataset.end);
    video.play();
  });
}
if (video) {
  video.addEventListener('timeupdate', () => {
    hand.hidden = false;
    hand.style.left = `${100 * video.currentTime / duration}%`;
    if (video.currentTime >= stopAt) { video.pause(); stopAt = Infinity; }
  });
}
