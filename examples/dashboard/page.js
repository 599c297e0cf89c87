'use strict';
const byId = (id) => document.getElementById(id);

// A screen reader says it when it changes, and only then.
function say(element, text, className) {
  if (element.textContent !== text) element.textContent = text;
  element.className = className;
}

function post(path, body) {
  return fetch(path, { method: 'POST', body, signal: AbortSignal.timeout(5000) });
}

async function write() {
  try {
    const answer = await post('write');
    const text = await answer.text();
    const why = answer.status === 503 ? JSON.parse(text).detail : text;
    say(byId('written'), answer.status + ': ' + why, answer.ok ? 'passed' : 'refused');
  } catch {
    say(byId('written'), 'No answer.', 'refused');
  }
}

async function simulate(what, path, body) {
  try {
    const answer = await post(path, body);
    const text = answer.ok ? what + ': done.' : what + ': ' + await answer.text() + '.';
    say(byId('done'), text, answer.ok ? '' : 'refused');
  } catch {
    say(byId('done'), what + ': no answer.', 'refused');
  }
}

function node(id) {
  const row = document.createElement('div');
  row.className = 'node';
  const name = document.createElement('strong');
  name.textContent = 'Node ' + id;
  row.append(name, ...['Crash', 'Start', 'Pause', 'Resume'].map((verb) => {
    const button = document.createElement('button');
    const what = verb + ' node ' + id;
    button.type = 'button';
    button.textContent = verb;
    button.ariaLabel = what;
    button.addEventListener('click', () => simulate(what, 'nodes/' + id + '/' + verb.toLowerCase()));
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
