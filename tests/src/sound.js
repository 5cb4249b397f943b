// What every page of the console owes; answers a list of faults.
const faults = [];
const root = document.documentElement;
if (root.scrollWidth > root.clientWidth) {
  const wide = [...document.body.querySelectorAll('*')].find(
    (e) => e.getBoundingClientRect().right > root.clientWidth + 1 && !e.closest('.scroll, .table-wrap, .sr-only, .visually-hidden'));
  faults.push(`wider than the window: ${root.scrollWidth} > ${root.clientWidth} (${wide ? wide.outerHTML.slice(0, 160) : '?'})`);
}
for (const entry of performance.getEntriesByType('resource')) {
  if (!entry.name.startsWith(location.origin) && !entry.name.startsWith('data:')) faults.push(`loaded from elsewhere: ${entry.name}`);
}
if (!document.title.trim()) faults.push('no title');
if (!root.lang) faults.push('no language');
if (document.querySelectorAll('h1').length !== 1) faults.push(`${document.querySelectorAll('h1').length} main headings`);
let before = 0;
for (const heading of document.querySelectorAll('h1, h2, h3, h4')) {
  const level = Number(heading.tagName[1]);
  if (before && level > before + 1) faults.push(`heading skips a level: ${heading.textContent.trim()}`);
  before = level;
}
for (const field of document.querySelectorAll('input:not([type=hidden]), select, textarea')) {
  const named = field.labels?.length || field.getAttribute('aria-label') || field.getAttribute('aria-labelledby');
  if (!named) faults.push(`field without a label: ${field.outerHTML.slice(0, 120)}`);
}
for (const control of document.querySelectorAll('button, a[href], summary')) {
  const named = control.textContent.trim() || control.getAttribute('aria-label') || control.querySelector('svg title');
  if (!named) faults.push(`nameless control: ${control.outerHTML.slice(0, 120)}`);
}
for (const picture of document.querySelectorAll('img, svg:not([aria-hidden=true])')) {
  const named = picture.getAttribute('alt') !== null || picture.getAttribute('aria-label') || picture.querySelector('title');
  if (!named) faults.push(`nameless picture: ${picture.outerHTML.slice(0, 120)}`);
}
for (const table of document.querySelectorAll('table')) {
  if (!table.caption && !table.getAttribute('aria-label') && !table.getAttribute('aria-labelledby')) faults.push('table without a name');
}
const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) faults.push(`id used twice: ${id}`);
if (!document.querySelector('main')) faults.push('no main landmark');
return faults;
