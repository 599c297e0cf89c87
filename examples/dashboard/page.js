'use strict';
const byId = (id) => document.getElementById(id);

// Changes the text only if it differs, because a screen reader reads each change.
function show(element, text, className) {
  if (element.textContent !== text) element.textContent = text;
  element.className = className;
}

function post(path, body) {
  return fetch(path, { method: 'POST', body, signal: AbortSignal.timeout(5000) });
}

// The numbers of the last write and of the write whose answer is shown. The answers may arrive in another
// order than the writes were sent.
let lastWrite = 0, shownWrite = 0;

async function write() {
  const number = ++lastWrite;
  const showIfNewer = (text, className) => {
    if (number < shownWrite) return;
    shownWrite = number;
    show(byId('written'), text, className);
  };
  try {
    const answer = await post('write');
    const text = await answer.text();
    const detail = answer.status === 503 ? JSON.parse(text).detail : text;
    showIfNewer(answer.status + ': ' + detail, answer.ok ? 'passed' : 'refused');
  } catch {
    showIfNewer('No answer.', 'refused');
  }
}

async function simulate(action, path, body) {
  try {
    const answer = await post(path, body);
    const text = answer.ok ? action + ': done.' : action + ': ' + await answer.text() + '.';
    show(byId('done'), text, answer.ok ? '' : 'refused');
  } catch {
    show(byId('done'), action + ': no answer.', 'refused');
  }
}

function node(id) {
  const row = document.createElement('div');
  row.className = 'node';
  const name = document.createElement('strong');
  name.textContent = 'Node ' + id;
  row.append(name, ...['Crash', 'Start', 'Pause', 'Resume'].map((verb) => {
    const button = document.createElement('button');
    const action = verb + ' node ' + id;
    button.type = 'button';
    button.textContent = verb;
    button.ariaLabel = action;
    button.addEventListener('click', () => simulate(action, 'nodes/' + id + '/' + verb.toLowerCase()));
    return button;
  }));
  return row;
}

byId('write').addEventListener('click', write);
byId('heal').addEventListener('click', () => simulate('Heal', 'heal'));
byId('partition').addEventListener('submit', (event) => {
  event.preventDefault();
  simulate('Partition', 'partition', byId('groups').value);
});
fetch('nodes').then((answer) => answer.json()).then((ids) => {
  byId('nodes').replaceChildren(...ids.map(node));
  byId('simulation').hidden = ids.length === 0;
});
write();
setInterval(() => {
  if (byId('again').checked) write();
}, 1000);
